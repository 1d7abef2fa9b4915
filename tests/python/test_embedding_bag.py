"""Bags of rows of a table: by columns, on every mesh and memory."""

import pytest
import torch
import torch.nn.functional as F

import torch_mesh as tm
from torch_mesh import _C

TABLE = [("R", "S1"), ("S1", "R"), ("S1", "S1"), ("R", "R"), ("R", "S0")]


def one_pass(place, dtype=torch.float32, **options):
    """The bags, and the gradients of the table and of the samples' weights."""
    torch.manual_seed(5)
    table = place(torch.randn(11, 6, dtype=dtype), "table").requires_grad_()
    places = place(torch.randint(11, (9,)), "places")
    offsets = [0, 2, 2, 7]  # one bag is empty
    if options.get("include_last_offset"):
        offsets.append(9)
    offsets = place(torch.tensor(offsets), "offsets")
    weights = None
    if options.pop("weighted", False):
        weights = place(torch.randn(9, dtype=dtype), "weights")
        weights.requires_grad_()
    bags = F.embedding_bag(
        places, table, offsets, per_sample_weights=weights, **options
    )
    bags.backward(place(torch.randn(4, 6, dtype=dtype), "gradient"))
    return [t for t in (bags.detach(), table.grad, weights) if t is not None], [
        weights.grad if weights is not None else None
    ]


def on(mesh, table, gradient=("S0", "R"), places=("R", "R")):
    layouts = {"table": table, "gradient": gradient, "places": places}
    return lambda tensor, what: tm.distribute(
        tensor, mesh, layouts.get(what, ("R", "R"))
    )


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("table", TABLE)
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "sum"},
        {"mode": "mean"},
        {"mode": "max"},
        {"mode": "sum", "weighted": True},
        {"mode": "mean", "padding_idx": 3},
        {"mode": "sum", "include_last_offset": True},
        {"mode": "mean", "scale_grad_by_freq": True},
        {"mode": "mean", "dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_bags_and_gradients_are_plain_torch_s(separate, table, options):
    _C.separate_cpu_memories(separate)
    mesh = tm.Mesh({"data": 2, "model": 2})
    plain, (of_weights,) = one_pass(lambda tensor, _: tensor, **options)
    for gradient, places in [
        (("S0", "R"), ("R", "R")),
        (("R", "S1"), ("S0", "R")),
        (("R", "P+"), ("R", "R")),
    ]:
        found, (grad,) = one_pass(on(mesh, table, gradient, places), **options)
        for a, b in zip(found, plain, strict=True):
            assert a.stride() == b.stride()
            torch.testing.assert_close(a.cpu(), b)
        if of_weights is not None:
            torch.testing.assert_close(grad.cpu(), of_weights)


def test_columns_stay_where_they_are():
    mesh = tm.Mesh({"data": 2, "model": 2})
    place = on(mesh, ("R", "S1"), gradient=("R", "S1"))
    with tm.counting() as counts:
        (bags, gradient), _ = one_pass(place, mode="mean")
    assert str(tm.layout(bags)) == str(tm.layout(gradient)) == "(R, S1)"
    assert not counts.replicated_ops
    assert not counts.collectives


def test_fewer_columns_than_devices_are_whole():
    mesh = tm.Mesh({"data": 4})
    table = torch.randn(5, 3)
    places, offsets = torch.tensor([0, 4, 2]), torch.tensor([0, 2])
    found = F.embedding_bag(
        tm.distribute(places, mesh, ("R",)),
        tm.distribute(table, mesh, ("S1",)),
        tm.distribute(offsets, mesh, ("R",)),
    )
    assert torch.equal(found.cpu(), F.embedding_bag(places, table, offsets))
