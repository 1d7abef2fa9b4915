"""Autocast above the mesh, and views that conjugate or negate lazily."""

import pickle

import pytest
import torch

import torch_mesh as tm

MESH = tm.Mesh({"data": 2})


@pytest.fixture(autouse=True)
def on_mesh():
    with tm.use(MESH):
        yield


def sharded(*shape, dtype=torch.float32):
    return tm.distribute(torch.randn(*shape, dtype=dtype), MESH, ("S0",))


def listed(key):
    return {
        name
        for name in torch._C._dispatch_get_all_op_names()
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    }


def test_the_mesh_has_a_kernel_for_each_op_of_the_lists_of_the_cpu():
    assert listed("AutocastCPU")
    assert listed("AutocastPrivateUse1") >= listed("AutocastCPU")


@pytest.mark.parametrize("device", ["cpu", "mesh"])
def test_a_context_casts_and_leaves_all_as_it_was(device):
    x, w = sharded(4, 3), sharded(3, 5)
    with pytest.raises(KeyError), torch.autocast(device, torch.float16):
        assert (x @ w).dtype == torch.float16
        raise KeyError
    assert not torch.is_autocast_enabled("mesh")
    assert (x @ w).dtype == torch.float32


def test_weights_are_cast_once_in_a_context():
    x = sharded(4, 3)
    w = tm.distribute(torch.randn(3, 5), MESH, ("R",)).requires_grad_()
    with torch.autocast("mesh", torch.bfloat16), tm.counting() as counts:
        x @ w
        before = counts.ops
        x @ w
    assert counts.ops - before <= 2  # the cast of x, and the product


def test_conj_is_a_view_that_computes_nothing():
    x = sharded(4, 3, dtype=torch.complex64)
    y = x.conj()
    assert y.is_conj() and y._base is x
    y.mul_(2j)
    plain = tm.full(x)
    assert torch.equal(tm.full(y), plain.conj())
    assert torch.equal(tm.full(y.imag), plain.conj().imag)
    assert y.imag.is_neg()


def test_a_pickled_tensor_has_its_value_on_the_mesh():
    x = sharded(5, 3)
    y = pickle.loads(pickle.dumps(x))
    assert y.device.type == "mesh" and torch.equal(tm.full(y), tm.full(x))


def test_results_of_sharded_channels_last_images_are_channels_last():
    images = torch.randn(2, 4, 3, 5).contiguous(
        memory_format=torch.channels_last
    )
    x = tm.distribute(images, MESH, ("S0",))  # one image a device
    for op in (torch.relu, lambda t: t + t, lambda t: t.flip(0), torch.clone):
        assert op(x).stride() == op(images).stride()
