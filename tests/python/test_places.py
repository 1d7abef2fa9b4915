"""Writes and picks at places that other tensors name, under every layout."""

import pytest
import torch
from placing import assert_close, assert_equal, every_layout, mesh_of, place

import torch_mesh as tm

ROWS = torch.tensor([5, 0, 3])
UNSIGNED = torch.tensor([-1, 2, -6])
TWICE = torch.tensor([5, 0, 5])
COLUMNS = torch.tensor([2, 0, 1])
SQUARE = torch.tensor([[0, 4, 1, 1], [5, 2, 1, 0], [3, 3, 0, 5]])
VALUES = torch.arange(12.0).view(3, 4) + 0.5
MASK = torch.tensor([True, False, True, True, False, False])

# Of x [6, 4] and rows [3, 4].
PUTS = {
    "rows": lambda x, v: x.index_put_((at(x, ROWS),), v),
    "from the end": lambda x, v: x.index_put_((at(x, UNSIGNED),), v),
    "int32": lambda x, v: x.index_put_((at(x, ROWS.int()),), v),
    "added": lambda x, v: x.index_put_((at(x, TWICE),), v, accumulate=True),
    "one row for all": lambda x, v: x.index_put_((at(x, ROWS),), v[0]),
    "one number": lambda x, v: x.index_put_((at(x, ROWS),), v[0, 0]),
    "columns": lambda x, v: torch.ops.aten.index_put_(
        x, [None, at(x, COLUMNS)], v[0, :3]
    ),
    "elements": lambda x, v: x.index_put_(
        (at(x, ROWS), at(x, COLUMNS)), v[:, 1]
    ),
    "elements added": lambda x, v: x.index_put_(
        (at(x, TWICE), at(x, COLUMNS[:1])), v[:, 1], accumulate=True
    ),
    "a grid": lambda x, v: x.index_put_(
        (at(x, ROWS)[:, None], at(x, COLUMNS)[None]), v[:, :3]
    ),
    "a row of one number": lambda x, v: x.index_put_((at(x, ROWS[0]),), v[1]),
    "no rows": lambda x, v: x.index_put_((at(x, ROWS[:0]),), v[:0]),
    "not in place": lambda x, v: x.index_put((at(x, ROWS),), v),
    "mask of rows": lambda x, v: x.index_put_((at(x, MASK),), v),
    "mask of rows, one": lambda x, v: x.index_put_((at(x, MASK),), v[0]),
    "mask of bytes": lambda x, v: x.index_put_((at(x, MASK),), v[:1]),
    "mask, one number": lambda x, v: x.index_put_((x > 1,), v[0, 0]),
    "mask added": lambda x, v: x.index_put_((at(x, MASK),), v, accumulate=True),
    "mask of columns": lambda x, v: torch.ops.aten.index_put_(
        x, [None, x[0] > -0.8], v[0, 0]
    ),
    "mask of all": lambda x, v: x.index_put_(
        (at(x, torch.arange(24).view(6, 4) % 2 == 0),), v.flatten()
    ),
    "mask and column": lambda x, v: x.index_put_(
        (at(x, MASK), at(x, COLUMNS)), v[:, 0]
    ),
    "index_add": lambda x, v: x.index_add_(0, at(x, TWICE), v, alpha=3),
    "index_add columns": lambda x, v: x.index_add(
        1, at(x, COLUMNS), v[:2].repeat(3, 1)[:, :3]
    ),
    "index_copy": lambda x, v: x.index_copy_(0, at(x, ROWS), v),
    "index_fill": lambda x, v: x.index_fill_(0, at(x, UNSIGNED), 7.0),
    "index_fill of a tensor": lambda x, v: x.index_fill_(
        1, at(x, COLUMNS), v[0, 1]
    ),
    "scatter": lambda x, v: x.scatter_(0, at(x, SQUARE), v),
    "scatter a number": lambda x, v: x.scatter_(0, at(x, SQUARE), 3.0),
    "scatter fewer": lambda x, v: x.scatter_(0, at(x, SQUARE[:2, :3]), v),
    "scatter across": lambda x, v: x.scatter_(-1, at(x, SQUARE % 4), v),
    "scatter_add": lambda x, v: x.scatter_add_(0, at(x, SQUARE), v),
    "scatter_add across": lambda x, v: x.scatter_add(1, at(x, SQUARE % 4), v),
    "scatter multiply": lambda x, v: x.scatter_(
        0, at(x, SQUARE), v, reduce="multiply"
    ),
    "scatter add": lambda x, v: x.scatter_(0, at(x, SQUARE), 2.0, reduce="add"),
    **{
        f"scatter_reduce {how} {own}": lambda x, v, how=how, own=own: (
            x.scatter_reduce_(0, at(x, SQUARE), v, how, include_self=own)
        )
        for how in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    },
}


def at(x, index):
    return index.to(x.device)


def value():
    return torch.arange(24.0).view(6, 4) / 8 - 1


@pytest.fixture(params=[True, False], ids=["one memory", "memories"])
def one_memory(request):
    tm._C.separate_cpu_memories(not request.param)
    yield request.param
    tm._C.separate_cpu_memories(False)


@every_layout(2, ("2", "3", "2x2"))
def test_a_write_at_places_is_that_of_plain_torch(
    mesh_name, placements, one_memory
):
    mesh = mesh_of(mesh_name)
    for name, put in PUTS.items():
        for cut in (("R",) * len(mesh.shape), ("S0", *placements[1:])):
            expected = value()
            result = put(expected, VALUES)
            with tm.use(mesh):
                x = place(value(), mesh, placements)
                got = put(x, tm.distribute(VALUES, mesh, no_sums(cut)))
            assert_close(got, result, rtol=1e-6, atol=1e-6)
            assert_close(x, expected, rtol=1e-6, atol=1e-6)
            assert got.stride() == result.stride(), name


def no_sums(placements):
    return tuple("R" if p == "P+" else p for p in placements)


@pytest.mark.parametrize("name", PUTS)
def test_a_write_at_places_of_a_view_goes_through(name, one_memory):
    mesh = tm.Mesh({"data": 2, "model": 2})

    for layout in ("S0", "R"), ("S1", "S2"), ("R", "S1"):
        for number in range(2):
            plain = torch.arange(128.0).view(2, 8, 8) / 9
            base = tm.distribute(plain, mesh, layout)
            with tm.use(mesh):
                for one in (plain, base):
                    view = list(views_of(one))[number]
                    PUTS[name](view, at(view, VALUES))
            assert_close(base, plain)


def views_of(base):
    yield base[0, 2:8, :4]
    yield base[1].t()[1:7, 2:6]


PICKS = {
    "rows": lambda x: x[at(x, ROWS)],
    "a grid of rows": lambda x: x[at(x, ROWS)[:, None]],
    "columns": lambda x: x[:, at(x, COLUMNS)],
    "elements": lambda x: x[at(x, ROWS), at(x, COLUMNS)],
    "from the end": lambda x: x[at(x, UNSIGNED), at(x, -COLUMNS - 1)],
    "a grid": lambda x: x[at(x, ROWS)[:, None], at(x, COLUMNS)[None]],
    "of a transpose": lambda x: x.t()[at(x, COLUMNS), at(x, ROWS)],
    "apart": lambda x: x.view(6, 2, 2)[at(x, ROWS), :, at(x, COLUMNS % 2)],
    "apart, transposed": lambda x: x.view(6, 2, 2).permute(2, 0, 1)[
        at(x, COLUMNS % 2), :, at(x, COLUMNS % 2)
    ],
    "mask of rows": lambda x: x[at(x, MASK)],
    "mask of all": lambda x: x[x > 0],
    "mask and column": lambda x: x[at(x, MASK), at(x, COLUMNS)],
    "bools": lambda x: (x > 0)[at(x, ROWS), at(x, COLUMNS)],
    "integers": lambda x: x.long()[at(x, ROWS), at(x, COLUMNS)],
    "gather": lambda x: x.gather(0, at(x, SQUARE)),
    "gather across": lambda x: x.gather(1, at(x, SQUARE % 4)),
    "none": lambda x: x[at(x, ROWS[:0]), at(x, COLUMNS[:0])],
}


@every_layout(2, ("2", "3", "2x2"))
def test_a_pick_at_places_is_that_of_plain_torch(mesh_name, placements):
    mesh = mesh_of(mesh_name)
    for name, pick in PICKS.items():
        plain = value().requires_grad_()
        x = place(value(), mesh, placements).requires_grad_()
        expected, actual = pick(plain), pick(x)
        assert_equal(actual, expected.detach())
        assert actual.stride() == expected.stride(), name
        if expected.is_floating_point():
            (expected**2).sum().backward()
            (actual**2).sum().backward()
            assert_close(x.grad, plain.grad)


def test_sums_in_zeros_gather_nothing():
    mesh = tm.Mesh({"data": 2})
    rows = tm.distribute(VALUES[:2], mesh, ("S0",))
    index = tm.distribute(ROWS[:2], mesh, ("S0",))
    with tm.use(mesh), tm.counting() as counts:
        total = torch.zeros(6, 4, device="mesh")
        for _ in range(3):
            total.index_add_(0, index, rows)
    assert counts.collectives == {}
    assert counts.replicated_ops == {}
    assert str(tm.layout(total)) == "(P+)"
    assert_equal(
        total, torch.zeros(6, 4).index_add_(0, ROWS[:2], VALUES[:2] * 3)
    )


# What writes at a place that is not there, along a sharded dim.
STRAY = {
    "index_put_": lambda x, i: x.index_put_((i,), at(x, VALUES[:1])),
    "index_add_": lambda x, i: x.index_add_(0, i, at(x, VALUES[:1])),
    "index_copy_": lambda x, i: x.index_copy_(0, i, at(x, VALUES[:1])),
    "index_fill_": lambda x, i: x.index_fill_(0, i, 2.0),
    "scatter_": lambda x, i: x.scatter_(0, i[:, None], 2.0),
    "pick": lambda x, i: x[i, at(x, COLUMNS)],
}


@pytest.mark.parametrize("index", [6, -7])
@pytest.mark.parametrize("name", STRAY)
def test_a_place_that_is_not_there_is_an_error(name, index):
    mesh = tm.Mesh({"data": 2})
    index = torch.tensor([index])
    with pytest.raises((IndexError, RuntimeError)) as expected:
        STRAY[name](value(), index)
    x = tm.distribute(value(), mesh, ("S0",))
    # That of torch's index_add_ depends on the number of dims.
    kind = IndexError if name == "index_add_" else expected.type
    with tm.use(mesh), pytest.raises(kind) as raised:
        STRAY[name](x, index.to("mesh"))
    assert "is out of bounds for dimension 0 with size 6" in str(raised.value)


def test_the_gradient_of_rows_of_a_replica_is_a_sum():
    mesh = tm.Mesh({"data": 2})
    table = tm.distribute(value(), mesh).requires_grad_()
    index = tm.distribute(torch.tensor([5, 0, 3, 5]), mesh, ("S0",))
    with tm.counting() as counts:
        rows = table[index]
        rows.backward(torch.ones_like(rows))
    assert counts.collectives == {}
    assert str(tm.layout(table.grad)) == "(P+)"
    expected = torch.zeros(6, 4).index_add_(0, tm.full(index), torch.ones(4, 4))
    assert_equal(table.grad, expected)
