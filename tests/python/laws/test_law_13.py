"""Law 13: plain tensors."""

import pytest
import torch
from placing import assert_close, assert_equal, every_layout, mesh_of, place
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

import torch_mesh as tm


@every_layout(2)
def test_law_13_plain_tensors_count_as_replicated(mesh_name, placements):
    value, plain = torch.randn(6, 4), torch.randn(6, 4)
    x = place(value, mesh_of(mesh_name), placements)
    row, index = torch.randn(4), torch.tensor([3, 0, 5])
    for f in (
        lambda t: t + plain,
        lambda t: plain + t,
        lambda t: t * row,
        lambda t: t @ plain.t(),
        lambda t: plain.t() @ t,
        lambda t: torch.cat([t, plain]),
        lambda t: torch.where(plain > 0, t, plain),
        lambda t: t[index],
        lambda t: t[plain > 0],
        lambda t: nn.functional.mse_loss(t, plain),
        lambda t: t + torch.tensor(3.0),
        lambda t: t.clone().add_(plain),
        lambda t: torch.addmm(row, t, plain[:4]),
        lambda t: nn.functional.linear(t, plain, torch.ones(6)),
        lambda t: nn.functional.embedding(index, t),
        lambda t: t.index_select(0, index),
        lambda t: torch.stack([plain, t]),
    ):
        actual = f(x)
        assert tm.is_global(actual)
        assert_close(actual, f(value))


def test_law_13_a_gradient_arrives_where_the_plain_tensor_is(mesh):
    plain = torch.randn(4, requires_grad=True)
    x = tm.distribute(plain, mesh, ("S0", "R"))
    (x * 3).sum().backward()
    assert plain.grad.device.type == "cpu"
    assert_equal(plain.grad, torch.full((4,), 3.0))


def test_law_13_a_plain_number_costs_nothing(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "S1"))
    with tm.counting() as counts:
        y = x * torch.tensor(2.0) + torch.tensor(1)
    assert counts.collectives == {}
    assert tm.layout(y).placements == ("S0", "S1")


@every_layout(1)
def test_law_13_asking_for_a_value_gives_the_global_one(mesh_name, placements):
    value = torch.arange(1.0, 6.0)
    x = place(value, mesh_of(mesh_name), placements)
    assert x.sum().item() == 15
    assert x.tolist() == value.tolist()
    assert float(x[3]) == 4
    assert bool((x > 0).all())
    assert len(x) == 5
    assert_equal(x.cpu(), value)
    assert (x.cpu().numpy() == value.numpy()).all()
    assert "4." in repr(x)
    assert f"layout={tm.layout(x)}" in repr(x)
    assert x.to("cpu", torch.float64).dtype == torch.float64
    assert [float(v) for v in x] == value.tolist()


def test_law_13_a_global_tensor_may_be_copied_into_a_plain_one(mesh):
    plain = torch.zeros(4, 4)
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "S1"))
    plain.copy_(x)
    assert_equal(plain, tm.full(x))
    plain[1:].copy_(x[1:] * 2)
    assert_equal(plain[1:], tm.full(x)[1:] * 2)


# Torch compares devices in these before the mesh sees an argument.
COMPARES = {
    "take_along_dim": lambda a, b: torch.take_along_dim(
        a, b.argsort(0).detach(), 0
    ),
    "inner": torch.inner,
    "block_diag": torch.block_diag,
    "multi_dot": lambda a, b: torch.linalg.multi_dot([a, b.t(), a]),
    "meshgrid": lambda a, b: torch.stack(
        torch.meshgrid(a[:, 0], b[0], indexing="ij")
    ),
    "cartesian_prod": lambda a, b: torch.cartesian_prod(a[0], b[1]),
    "quantile": lambda a, b: torch.quantile(a, b[0].sigmoid()),
    "stft": lambda a, b: torch.view_as_real(
        torch.stft(
            a.reshape(-1), 8, window=b.flatten()[:8], return_complex=True
        )
    ),
    "cholesky_solve": lambda a, b: torch.cholesky_solve(
        a, b @ b.t() + 4 * torch.eye(6, dtype=a.dtype)
    ),
    "attention": lambda a, b: nn.functional.scaled_dot_product_attention(
        a[None], b[None], b[None]
    ),
    "attention of plain": lambda a, b: (
        nn.functional.scaled_dot_product_attention(b[None], a[None], b[None])
    ),
    "attention with a mask": lambda a, b: (
        nn.functional.scaled_dot_product_attention(
            a[None], a[None], a[None], b @ b.t()
        )
    ),
}


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("name", COMPARES)
@pytest.mark.parametrize("placements", [("R",), ("S0",), ("S1",), ("P+",)])
def test_law_13_ops_that_compare_devices_take_plain_tensors(
    name, placements, turned
):
    given = torch.randn(2, 6, 4, dtype=torch.float64)
    results = []
    for on_mesh in (False, True):
        a, b = (t.clone().requires_grad_() for t in given)
        put = a
        if on_mesh:
            put = tm.distribute(a, mesh_of("2"), placements)
        pair = (b, put) if turned else (put, b)
        y = COMPARES[name](*pair)
        (
            y * torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape)
        ).sum().backward()
        results.append((y, a.grad, b.grad))
    assert tm.is_global(results[1][0])
    for ours, theirs in zip(results[1], results[0], strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            assert_close(ours.detach(), theirs.detach())
    assert results[1][2] is None or not tm.is_global(results[1][2])


def test_law_13_no_op_of_torchs_database_refuses_one_plain_tensor():
    mesh = mesh_of("2")
    refused = {}
    tried = 0
    for op in op_db:
        if torch.float32 not in op.dtypes:
            continue
        sample = next(iter(op.sample_inputs("cpu", torch.float32)), None)
        if sample is None:
            continue
        leaves, tree = pytree.tree_flatten(
            (sample.input, sample.args, sample.kwargs)
        )
        places = [i for i, x in enumerate(leaves) if torch.is_tensor(x)]
        if len(places) < 2 or any(
            leaves[i].layout != torch.strided for i in places
        ):
            continue
        for plain in places:
            mixed = [
                tm.distribute(x, mesh, ("R",))
                if i in places and i != plain
                else x
                for i, x in enumerate(leaves)
            ]
            given, args, kwargs = pytree.tree_unflatten(mixed, tree)
            tried += 1
            try:
                op.op(given, *args, **kwargs)
            except Exception as error:
                if "device" in str(error).splitlines()[0].lower():
                    refused[op.name] = str(error)[:120]
    assert refused == {}
    assert tried > 300
