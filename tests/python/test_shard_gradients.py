"""Gradients through full, from_shards and map_shards are plain autograd's."""

import pytest
import torch
from placing import assert_close, every_layout, mesh_of, place

import torch_mesh as tm


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@every_layout(2, meshes=("2", "3", "2x2"))
def test_full_is_differentiable(mesh_name, placements, separate):
    tm._C.separate_cpu_memories(separate)
    value = torch.randn(5, 4, dtype=torch.float64)
    x = place(value, mesh_of(mesh_name), placements).requires_grad_()
    (first,) = torch.autograd.grad(
        (tm.full(x) ** 3).sum(), x, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), x)
    assert_close(tm.full(first).detach(), 3 * value**2)
    assert_close(second, 6 * value)
    reduced = tuple("R" if p == "P+" else p for p in placements)
    assert tm.layout(second).placements == reduced


def test_a_loss_is_taken_off_the_mesh_before_backward():
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    loss = (x.requires_grad_() * 3).sum()
    tm.full(loss).backward()
    assert x.grad.tolist() == [3, 3, 3, 3]


def test_full_has_no_graph_where_none_is_recorded():
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    assert not tm.full(x).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not tm.full(x).requires_grad
    plain = torch.ones(2, requires_grad=True)
    tm.full(plain).sum().backward()
    assert plain.grad.tolist() == [1, 1]


def test_full_in_forward_mode_and_under_transforms():
    x = tm.distribute(torch.arange(4.0), tm.Mesh({"data": 2}), ("S0",))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x * 2)
        tangent = torch.autograd.forward_ad.unpack_dual(tm.full(dual)).tangent
        assert tangent.tolist() == [0, 2, 4, 6]
    gradient = torch.func.grad(lambda t: (t * 2).cpu().square().sum())(x)
    assert_close(gradient, 8 * torch.arange(4.0))


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@every_layout(2, meshes=("2", "3", "2x2"))
def test_from_shards_is_differentiable(mesh_name, placements, separate):
    tm._C.separate_cpu_memories(separate)
    mesh = mesh_of(mesh_name)
    value = torch.randn(5, 4, dtype=torch.float64)
    parts = [
        part.clone().requires_grad_()
        for part in tm.shards(place(value, mesh, placements))
    ]
    x = tm.from_shards(parts, mesh, placements)
    weight = torch.randn(5, 4, dtype=torch.float64)
    on_mesh = tm.distribute(weight, mesh, ("R",) * len(placements))
    (x.square() * on_mesh).sum().backward()
    expected = tm.distribute(
        2 * value * weight, mesh, ["R" if p == "P+" else p for p in placements]
    )
    coordinates = list(torch.cartesian_prod(*map(torch.arange, mesh.shape)))
    for part, gradient, at in zip(
        parts, tm.shards(expected), coordinates, strict=True
    ):
        pairs = zip(placements, at.view(-1), strict=True)
        if any(p == "R" and i for p, i in pairs):
            assert part.grad is None
        else:
            assert_close(part.grad, gradient)


def sums(t):
    return (t * t).sum(0)


# What f does with the shards of x, in which layout its results are, and the
# same with the whole x; each for the layout that x is in.
MAPPED = [
    ("R", "R", lambda t: t.sin() * t, lambda x: x.sin() * x),
    ("R", "P+", lambda t: t.sin(), lambda x: x.sin() * 3),
    ("S0", "S0", lambda t: t.softmax(1), lambda x: x.softmax(1)),
    ("S1", "S1", lambda t: t.softmax(0), lambda x: x.softmax(0)),
    ("S0", "P+", sums, sums),
    ("S0", "S1", lambda t: (t * t).T, lambda x: (x * x).T),
    ("P+", "P+", lambda t: 2 * t, lambda x: 2 * x),
]


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@pytest.mark.parametrize(
    "source, out, f, whole",
    MAPPED,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_map_shards_is_differentiable_twice(source, out, f, whole, separate):
    tm._C.separate_cpu_memories(separate)
    mesh = tm.Mesh({"data": 3})
    value = torch.randn(5, 4, dtype=torch.float64)
    x = place(value, mesh, (source,)).requires_grad_()
    plain = value.clone().requires_grad_()
    results = tm.map_shards(f, x, out=(out,)), whole(plain)
    weight = torch.randn(results[1].shape, dtype=torch.float64)
    first, second = [], []
    for result, leaf in zip(results, (x, plain), strict=True):
        w = weight if leaf is plain else tm.distribute(weight, mesh)
        (g,) = torch.autograd.grad(
            (result.square() * w).sum(), leaf, create_graph=True
        )
        first.append(g)
        second.append(torch.autograd.grad(g.cos().sum(), leaf)[0])
    assert_close(results[0].detach(), results[1].detach())
    assert_close(first[0].detach(), first[1].detach())
    assert_close(second[0], second[1])


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@pytest.mark.parametrize("x_layout", ["S0", "R"])
def test_a_local_layer_gets_the_gradients_of_plain_torch(x_layout, separate):
    """Inputs in two layouts, and a plain weight that f uses."""
    tm._C.separate_cpu_memories(separate)
    mesh = tm.Mesh({"data": 2, "model": 2})
    x_value, w_value = torch.randn(5, 4), torch.randn(4, 6)
    x = tm.distribute(x_value, mesh, (x_layout, "R")).requires_grad_()
    w = tm.distribute(w_value, mesh, ("R", "S1")).requires_grad_()
    scale = torch.tensor(2.0, requires_grad=True)
    y = tm.map_shards(
        lambda a, b: (a @ b * scale).relu(), x, w, out=(x_layout, "S1")
    )
    y.square().sum().backward()
    plain = [t.clone().requires_grad_() for t in (x_value, w_value)]
    factor = torch.tensor(2.0, requires_grad=True)
    (plain[0] @ plain[1] * factor).relu().square().sum().backward()
    assert_close(x.grad, plain[0].grad)
    assert_close(w.grad, plain[1].grad)
    assert_close(scale.grad, factor.grad)


def test_a_shard_that_f_leaves_out_has_a_gradient_of_zeros():
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.ones(4, 2), mesh, ("S0",)).requires_grad_()
    calls = []

    def f(t):
        calls.append(t)
        return t * 3 if len(calls) == 1 else torch.zeros_like(t)

    tm.map_shards(f, x, out=("S0",)).sum().backward()
    assert x.grad.tolist() == [[3, 3], [3, 3], [0, 0], [0, 0]]


def test_map_shards_records_nothing_where_nothing_requires_grad():
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    assert not tm.map_shards(lambda t: t * 2, x, out=("S0",)).requires_grad
