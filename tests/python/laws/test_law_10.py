"""Law 10: local ops run in a clean state."""

import pytest
import torch
from placing import assert_close, assert_equal
from torch import nn

import torch_mesh as tm


@pytest.mark.parametrize("device", ["cpu", "mesh"])
def test_law_10_autocast_casts_above_the_mesh(mesh, device):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(4, 4), mesh, ("R", "S1"))
    with torch.autocast(device, dtype=torch.bfloat16):
        y = x @ w
        z = nn.functional.layer_norm(x, (4,))
    assert y.dtype == torch.bfloat16
    assert_close(y, tm.full(x).bfloat16() @ tm.full(w).bfloat16())
    assert z.dtype == torch.float32


def test_law_10_autocast_does_not_reach_local_ops(mesh):
    """A kernel of this op multiplies matrices, which autocast would cast."""
    x = tm.distribute(torch.randn(4, 8), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(3, 8, 8), mesh, ("R", "R"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = nn.functional.bilinear(x, x, w)
    full = tm.full(x)
    assert_close(y, nn.functional.bilinear(full, full, tm.full(w)))


def test_law_10_the_default_dtype_is_the_callers(mesh):
    x = tm.distribute(torch.arange(6), mesh, ("S0", "R"))
    assert (x / 2).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    assert (x / 2).dtype == torch.float64
    with tm.use(mesh):
        assert torch.ones(3, device="mesh").dtype == torch.float64


def test_law_10_the_number_of_threads_stays_the_callers(mesh):
    before = torch.get_num_threads()
    x = tm.distribute(torch.randn(512, 512), mesh, ("S0", "S1"))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        x.requires_grad_()
        (x @ x).exp().sum().backward()
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def test_law_10_inference_mode_and_no_grad_hold(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R")).requires_grad_()
    with torch.no_grad():
        assert not (x * 2).requires_grad
    with torch.inference_mode():
        y = x * 2
        assert y.is_inference()
        y[1:].mul_(3)
        assert_equal(y[1:], tm.full(x)[1:] * 2 * 3)


def test_law_10_python_modes_do_not_see_local_ops(mesh):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen = []
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R"))
    with Record():
        x.exp()
    assert seen == ["aten.exp.default"]
