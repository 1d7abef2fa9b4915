"""Selects and slices along a cut dim: each device copies what it lacks."""

import pytest
import torch
from placing import assert_equal, assert_ran_as_counted

import torch_mesh as tm
from torch_mesh import _C

ROW_BYTES = 8 * 4


@pytest.fixture(params=[[0, 1, 2, 3], [0, 0, 1, 1], None])
def x(request):
    if request.param is not None:
        _C.set_memories_for_testing(request.param)
    mesh = tm.Mesh({"data": 4})
    _C.set_memories_for_testing([])
    return tm.distribute(torch.arange(256.0).view(32, 8), mesh, ("S0",))


def test_rows_of_a_cut_dim_are_no_plans_and_move_a_row(x):
    right = x.cpu()
    with tm.counting() as counts:
        rows = [x[i] for i in range(-32, 32)]
    assert counts.plans_made == 0
    assert counts.collectives == {}
    for i, row in enumerate(rows):
        with tm.counting() as counts:
            tm.shards(row)
        assert counts.collectives == {"all_to_all@data": 1}
        assert counts.bytes == {"all_to_all@data": ROW_BYTES}
        assert_ran_as_counted(counts, tm.layout(x).mesh)
        assert all(moved <= ROW_BYTES for moved in counts.moved.values())
        assert_equal(row, right[i - 32])


@pytest.mark.parametrize("start", [0, 1, 7, 8, 20, 28])
def test_a_slice_stays_cut(x, start):
    right = x.cpu()
    part = x.narrow(0, start, 4)
    assert tm.layout(part).placements == ("S0",)
    with tm.counting() as counts:
        tm.shards(part)
    assert_ran_as_counted(counts, tm.layout(x).mesh)
    assert all(moved <= ROW_BYTES for moved in counts.moved.values())
    assert_equal(part, right.narrow(0, start, 4))


def test_a_slice_of_all_but_one_row_moves_the_edges(x):
    with tm.counting() as counts:
        tm.shards(x[1:])
    assert counts.bytes == {"all_to_all@data": ROW_BYTES}
    assert_equal(x[1:], x.cpu()[1:])


@pytest.mark.parametrize(
    "window",
    {
        "row": lambda x: x[-3],
        "rows": lambda x: x[5:23],
        "strided": lambda x: x[3::5],
        "of a slice": lambda x: x[4:30][2:9, 3],
        "of a row": lambda x: x[9][2:5],
        "transposed": lambda x: x.t()[1:6, 4:11],
        "element": lambda x: x[17, 4],
        "none": lambda x: x[5:5],
    }.items(),
    ids=lambda item: item[0],
)
def test_windows_read_and_write_like_plain_ones(x, window):
    right = x.cpu()
    taken, plain = window[1](x), window[1](right)
    assert_equal(taken, plain)
    assert (taken.stride(), taken.storage_offset()) == (
        plain.stride(),
        plain.storage_offset(),
    )
    taken.mul_(3)
    plain.mul_(3)
    assert_equal(x, right)
    x.add_(1)
    right.add_(1)
    assert_equal(taken, plain)


def test_gradients_go_through_cut_windows(x):
    right = x.cpu().requires_grad_()
    x.requires_grad_()
    for t in (x, right):
        (t[3] * t[4:9].sum(0) + t[1:].square().sum(0)).sum().backward()
    assert_equal(x.grad, right.grad)


@pytest.mark.parametrize("shift", [1, -1, 5, 31, 32, 40, 0])
def test_a_roll_is_no_plan_and_moves_what_changes_devices(x, shift):
    right = x.cpu().roll(shift, 0)
    with tm.counting() as counts:
        rolled = x.roll(shift, 0)
        tm.shards(rolled)
    assert counts.plans_made == 0
    assert tm.layout(rolled).placements == ("S0",)
    assert_ran_as_counted(counts, tm.layout(x).mesh)
    rows = min(shift % 32, -shift % 32)
    most = min(rows, 8) * ROW_BYTES
    assert all(moved <= most for moved in counts.moved.values())
    assert_equal(rolled, right)
    assert_equal(x[4:30].roll(shift, 0), x.cpu()[4:30].roll(shift, 0))
    assert_equal(x.roll((shift, 2), (0, 1)), x.cpu().roll((shift, 2), (0, 1)))


def test_gradients_go_through_a_roll(x):
    right = x.cpu().requires_grad_()
    x.requires_grad_()
    for t in (x, right):
        (t.roll(3, 0) * t).sum().backward()
    assert_equal(x.grad, right.grad)


@pytest.mark.parametrize("placements", [("S0",), ("S1",), ("R",), ("P+",)])
@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8])
def test_views_of_another_dtype_lie_where_plain_ones_do(placements, dtype):
    right = torch.arange(1, 50, dtype=torch.int32).view(7, 7)
    x = tm.distribute(right.clone(), tm.Mesh({"data": 4}), placements)
    for t in (x, right):
        t[5:6].view(dtype)[:, 1:5].add_(3)
    assert_equal(x, right)
    window, plain = x[5:6].view(dtype), right[5:6].view(dtype)
    assert window.storage_offset() == plain.storage_offset()
    assert_equal(window.as_strided((2,), (1,)), plain.as_strided((2,), (1,)))


def test_the_parts_of_a_complex_window_lie_where_plain_ones_do(x):
    right = torch.view_as_complex(torch.arange(90.0).view(5, 9, 2))
    z = tm.distribute(right.clone(), tm.layout(x).mesh, ("S0",))
    for t in (z, right):
        torch.view_as_real(t[2:3]).mul_(2)
    window, plain = torch.view_as_real(z[2:3]), torch.view_as_real(right[2:3])
    assert window.storage_offset() == plain.storage_offset()
    assert_equal(z, right)
