"""Autocast above the mesh, and views that conjugate or negate lazily."""

import pickle

import pytest
import torch
import torch.nn.functional as F

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


def agrees(op, *args, steps=1):
    """`op` of sharded float16 gives plain torch's finite numbers."""
    expected = op(*args)
    assert expected.isfinite().all()
    placed = [tm.distribute(x, MESH, ("S0",)) for x in args]
    error = (tm.full(op(*placed)).float() - expected.float()).abs().max()
    eps = torch.finfo(expected.dtype).eps
    assert error <= steps * eps * expected.float().abs().max()


LARGE = torch.full((40, 3), 3000.0, dtype=torch.float16)


@pytest.mark.parametrize(
    "op",
    [
        torch.mean,
        lambda x: x.mean(0),
        lambda x: x.add(100).div(64).norm(),
        lambda x: torch.linalg.vector_norm(x, dim=0),
        lambda x: torch.linalg.vector_norm(x, 3, dim=0),
        lambda x: torch.cat([x, -x], 1).std(),
        lambda x: (x / 16).var(0),
        lambda x: torch.var_mean(torch.cat([x / 16, -x / 16], 1))[0],
        lambda x: F.mse_loss(x / 16, torch.zeros_like(x)),
        lambda x: F.poisson_nll_loss(x, x, log_input=False),
    ],
)
def test_a_mean_or_norm_of_float16_overflows_only_where_plain_torch_s_does(op):
    agrees(op, LARGE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_halves_whose_parts_are_out_of_range_cancel(dtype):
    x = torch.cat([LARGE, -LARGE]).to(dtype)
    ones = torch.ones(80, 2, dtype=dtype)
    agrees(lambda x: x.sum(0) + 1, x)
    agrees(lambda x: x.sum(0, dtype=dtype) + 1, x)
    agrees(lambda x, y: x.t() @ y + 1, x, ones)
    agrees(lambda x, y: torch.linalg.multi_dot([y.t(), x]) + 1, x, ones)


@pytest.mark.parametrize("parameters", [torch.float16, torch.float32])
def test_batch_norm_of_halves_has_plain_torch_s_dtypes_and_range(parameters):
    x = LARGE.view(40, 3) + torch.randn(40, 3).half() * 100
    weight, mean, var = (torch.ones(3, dtype=parameters) for _ in range(3))
    results = []
    for place in (torch.clone, lambda t: tm.distribute(t, MESH, ("R",))):
        images, w, m, v = map(place, (x, weight, mean, var))
        if images.device.type == "mesh":
            images = tm.distribute(x, MESH, ("S0",))
        images.requires_grad_()
        w.requires_grad_()
        out = F.batch_norm(images, m, v, w, training=True)
        out.float().pow(3).sum().backward()
        results.append((out, images.grad, w.grad, m, v))
    for plain, placed in zip(*results, strict=True):
        assert placed.dtype == plain.dtype
        got = tm.full(placed)
        torch.testing.assert_close(got, plain, rtol=2e-3, atol=2e-2)


def test_a_gradient_of_silu_is_rounded_once():
    x = torch.linspace(-4, 4, 64, dtype=torch.float16)
    placed = tm.distribute(x, MESH, ("S0",))
    plain = torch.ops.aten.silu_backward(torch.ones_like(x), x)
    got = torch.ops.aten.silu_backward(torch.ones_like(placed), placed)
    assert torch.equal(tm.full(got), plain)


def test_a_product_of_halves_with_an_expanded_number_lies_as_in_plain_torch():
    one = torch.ones((), dtype=torch.float16).expand(2, 2)
    x = torch.randn(2, 2).half()
    placed = tm.distribute(x, MESH, ("S0",))
    assert (one * placed.t()).stride() == (one * x.t()).stride()
