"""Devices that are not there are refused, and memory that is not there."""

import io

import pytest
import torch
from torch import nn

import torch_mesh as tm

# Ways to ask for a device.
ASKING = {
    "empty": lambda x, d: torch.empty(2, device=d),
    "ones": lambda x, d: torch.ones(2, device=d),
    "arange": lambda x, d: torch.arange(3, device=d),
    "linspace": lambda x, d: torch.linspace(0, 1, 3, device=d),
    "full": lambda x, d: torch.full((2,), 1.0, device=d),
    "eye": lambda x, d: torch.eye(2, device=d),
    "randperm": lambda x, d: torch.randperm(3, device=d),
    "randn": lambda x, d: torch.randn(2, device=d),
    "randint": lambda x, d: torch.randint(3, (2,), device=d),
    "tril_indices": lambda x, d: torch.tril_indices(2, 2, device=d),
    "hann_window": lambda x, d: torch.hann_window(4, device=d),
    "kaiser_window": lambda x, d: torch.kaiser_window(4, device=d),
    "empty_strided": lambda x, d: torch.empty_strided((2,), (1,), device=d),
    "empty_permuted": lambda x, d: torch.empty_permuted((2,), (0,), device=d),
    "scalar_tensor": lambda x, d: torch.scalar_tensor(2.0, device=d),
    "tensor": lambda x, d: torch.tensor([1.0], device=d),
    "as_tensor": lambda x, d: torch.as_tensor([1.0], device=d),
    "asarray": lambda x, d: torch.asarray([1.0], device=d),
    "to": lambda x, d: x.to(d),
    "to_copy": lambda x, d: x.to(d, copy=True),
    "to_dtype": lambda x, d: x.to(d, torch.float64),
    "plain_to": lambda x, d: torch.ones(2).to(d),
    "empty_like": lambda x, d: torch.empty_like(x, device=d),
    "zeros_like": lambda x, d: torch.zeros_like(x, device=d),
    "full_like": lambda x, d: torch.full_like(x, 1.0, device=d),
    "rand_like": lambda x, d: torch.rand_like(x, device=d),
    "randn_like": lambda x, d: torch.randn_like(x, device=d),
    "randint_like": lambda x, d: torch.randint_like(x, 3, device=d),
    "plain_zeros_like": lambda x, d: torch.zeros_like(torch.ones(2), device=d),
    "plain_rand_like": lambda x, d: torch.rand_like(torch.ones(2), device=d),
    "new_empty": lambda x, d: x.new_empty(2, device=d),
    "new_empty_strided": lambda x, d: x.new_empty_strided((2,), (1,), device=d),
    "new_zeros": lambda x, d: x.new_zeros(2, device=d),
    "new_ones": lambda x, d: x.new_ones(2, device=d),
    "new_full": lambda x, d: x.new_full((2,), 1.0, device=d),
    "new_tensor": lambda x, d: x.new_tensor([1.0], device=d),
    "plain_new_ones": lambda x, d: torch.ones(2).new_ones(2, device=d),
    "module": lambda x, d: nn.Linear(2, 2).to(d),
    "module_on_mesh": lambda x, d: nn.Linear(2, 2).to("mesh").to(d),
    "module_made": lambda x, d: nn.Linear(2, 2, device=d),
    "to_empty": lambda x, d: nn.Linear(2, 2).to_empty(device=d),
    "default_device": lambda x, d: _under(d),
    "load": lambda x, d: torch.load(_file(), map_location=d),
    "set_device": lambda x, d: torch.mesh.set_device(d),
    "device_context": lambda x, d: torch.mesh.device(d),
    "memory_allocated": lambda x, d: torch.mesh.memory_allocated(d),
    "synchronize": lambda x, d: torch.mesh.synchronize(d),
}


def _under(device):
    with torch.device(device):
        return torch.ones(2)


def _file():
    file = io.BytesIO()
    torch.save(torch.ones(2), file)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", [str, torch.device])
@pytest.mark.parametrize("name", ASKING)
def test_other_indices_are_refused_everywhere(name, kind):
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    with pytest.raises(RuntimeError, match=r"\[device-index\]"):
        ASKING[name](x, kind("mesh:3"))
    for device in ("mesh", "mesh:0"):
        ASKING[name](x, kind(device))


HUGE = {
    "empty": lambda x: torch.empty(10**14, device="mesh"),
    "zeros": lambda x: torch.zeros(10**7, 10**7, device="mesh"),
    "randn": lambda x: torch.randn(10**14, device="mesh"),
    "new_empty": lambda x: x.new_empty(10**14),
    "new_zeros": lambda x: x.new_zeros(10**14),
    "empty_like": lambda x: torch.empty_like(x.expand(10**14)),
}


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@pytest.mark.parametrize("name", HUGE)
def test_memory_that_is_not_there_is_refused_when_it_is_asked_for(
    name, separate
):
    tm._C.separate_cpu_memories(separate)
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.ones(1), mesh, ("R",))
    with tm.use(mesh), pytest.raises(RuntimeError, match="can't allocate memo"):
        HUGE[name](x)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.empty(10**14)


def test_memory_is_judged_by_what_each_would_hold():
    """What no memory could hold alone, several may hold in parts."""
    import os

    page = os.sysconf("SC_PAGE_SIZE")
    machine = os.sysconf("SC_PHYS_PAGES") * page
    count = 3 * machine // 2 // 4
    try:
        torch.empty(count)
    except RuntimeError:
        pass
    else:
        pytest.skip("this system grants more memory than there is")
    one = tm.Mesh({"data": 4})
    with tm.use(one), pytest.raises(RuntimeError, match="out-of-memory"):
        torch.empty(count, device="mesh")
    tm._C.separate_cpu_memories(True)
    with tm.use(tm.Mesh({"data": 8})):
        assert torch.empty(count, device="mesh").shape == (count,)


def test_large_tensors_of_few_bytes_are_made():
    with tm.use(tm.Mesh({"data": 2})):
        assert torch.empty(10**14, 0, device="mesh").numel() == 0
        x = torch.empty_strided((10**14,), (0,), device="mesh")
        assert x.shape == (10**14,)
        assert torch.ones(1, device="mesh").expand(10**14).shape == (10**14,)
    assert torch.empty(10**14, device="meta").shape == (10**14,)
