"""Law 3: no write is lost."""

import threading

import pytest
import torch
from placing import (
    SMALL,
    assert_close,
    assert_equal,
    cases,
    every_layout,
    mesh_of,
    place,
)

import torch_mesh as tm
from torch_mesh import _C

MASK = torch.arange(35).reshape(7, 5) % 3 == 0

WRITES = {
    "select": lambda t: t[3].fill_(7),
    "select_column": lambda t: t[:, 2].mul_(3),
    "slice": lambda t: t[2:6].mul_(3),
    "slice_step": lambda t: t[1::2].add_(1),
    "slice_columns": lambda t: t[:, 1:4].sub_(5),
    "transposed": lambda t: t.t().mul_(torch.arange(7.0)),
    "transposed_row": lambda t: t.t()[1].zero_(),
    "view": lambda t: t.view(35)[3:30].mul_(2),
    "reshape": lambda t: t.reshape(5, 7)[1:3].fill_(4),
    "flatten": lambda t: t.flatten()[::4].fill_(-1),
    "unflatten": lambda t: t.view(35).view(7, 1, 5)[:, 0, 3].fill_(9),
    "diagonal": lambda t: t.diagonal().fill_(7),
    "fill_diagonal": lambda t: t.fill_diagonal_(8),
    "mask": lambda t: t.__setitem__(MASK, 3.0),
    "masked_fill": lambda t: t.masked_fill_(MASK, -2.0),
    "masked_scatter": lambda t: t.masked_scatter_(MASK, torch.arange(35.0)),
    "index": lambda t: t.__setitem__(
        torch.tensor([4, 0]), torch.tensor([[1.0], [2.0]])
    ),
    "index_pairs": lambda t: t.__setitem__(
        (torch.tensor([4, 0, 6]), torch.tensor([1, 1, 4])), 9.0
    ),
    "index_add": lambda t: t.index_add_(
        0, torch.tensor([1, 1, 6]), torch.ones(3, 5)
    ),
    "index_copy": lambda t: t.index_copy_(
        1, torch.tensor([4, 0]), torch.arange(14.0).view(7, 2)
    ),
    "scatter": lambda t: t.scatter_(
        1, torch.tensor([[0, 4], [1, 2]]), torch.tensor([[1.0, 2], [3, 4]])
    ),
    "chained": lambda t: t[1:][:, 1:].t()[2].view(6)[::2].fill_(5),
    "chained_select": lambda t: t[1:6].select(0, 2).narrow(0, 1, 3).mul_(-1),
    "unsqueeze": lambda t: t.unsqueeze(1)[:, 0, 1:].add_(2),
    "expand_back": lambda t: t[:1].squeeze(0).fill_(6),
    "split": lambda t: t.split(3)[1].mul_(10),
    "unbind": lambda t: t.unbind(1)[4].fill_(0.5),
    "movedim": lambda t: t.movedim(0, 1)[3:].fill_(1.5),
    "as_strided": lambda t: t.as_strided((3, 2), (10, 2), 6).fill_(1.25),
    "copy": lambda t: t[2:4].copy_(torch.arange(10.0).view(2, 5)),
    "copy_transposed": lambda t: t.t()[1:3].copy_(torch.arange(7.0)),
    "setitem": lambda t: t.__setitem__((slice(1, 3), 2), 8.0),
    "data": lambda t: t.data[4:].mul_(2),
    "detach": lambda t: t.detach()[:, 0].fill_(2),
    "out": lambda t: torch.mul(torch.arange(5.0), torch.arange(5.0), out=t[3]),
    "whole": lambda t: t.mul_(2).add_(1),
    "nothing": lambda t: t[7:].fill_(3),
    "swap": lambda t: t[:3].copy_(t[4:].clone()),
}


@pytest.mark.parametrize("write", WRITES)
@every_layout(2)
def test_law_03_no_write_is_lost(mesh_name, placements, write):
    value = torch.arange(35.0).reshape(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    expected = value.clone()
    WRITES[write](expected)
    WRITES[write](x)
    assert_equal(x, expected)
    for p, q in zip(tm.layout(x).placements, placements, strict=True):
        assert p == q or q == "P+"


@every_layout(2, SMALL)
def test_law_03_a_view_made_before_a_write_to_its_base_shows_it(
    mesh_name, placements
):
    value = torch.arange(35.0).reshape(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    expected = value.clone()
    views = {
        "row": lambda t: t[3],
        "part": lambda t: t[2:5, 1:],
        "flat": lambda t: t.view(35)[4:20],
        "diagonal": lambda t: t.diagonal(),
        "transposed": lambda t: t.t()[1:],
    }
    mine = {name: view(x) for name, view in views.items()}
    plain = {name: view(expected) for name, view in views.items()}
    for write in ("whole", "select", "slice_columns", "mask"):
        WRITES[write](x)
        WRITES[write](expected)
        for name in views:
            assert_equal(mine[name], plain[name])
    # And a write through one shows in the others.
    mine["row"].fill_(-5)
    plain["row"].fill_(-5)
    mine["flat"].mul_(2)
    plain["flat"].mul_(2)
    for name in views:
        assert_equal(mine[name], plain[name])
    assert_equal(x, expected)


@every_layout(2, SMALL)
def test_law_03_writes_count_versions_as_plain_torch_does(
    mesh_name, placements
):
    x = place(torch.zeros(7, 5), mesh_of(mesh_name), placements)
    plain = torch.zeros(7, 5)
    for tensor in (x, plain):
        view = tensor[2:]
        view.add_(1)
        tensor.mul_(2)
        tensor.t()[0].fill_(1)
        tensor.sum()
    assert x._version == plain._version
    assert x[1]._version == plain[1]._version


@every_layout(2, SMALL)
def test_law_03_a_write_to_a_saved_tensor_is_noticed(mesh_name, placements):
    x = place(torch.ones(7, 5), mesh_of(mesh_name), placements)
    x.requires_grad_()
    y = x * 2
    z = y * y
    y[3].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@every_layout(2, SMALL)
def test_law_03_out_keeps_identity_and_placement(mesh_name, placements):
    value = torch.randn(7, 5)
    mesh = mesh_of(mesh_name)
    x = place(value, mesh, placements)
    for target in cases(2, (mesh_name,), partial=False):
        out = tm.distribute(torch.zeros(7, 5), mesh, target[1])
        result = torch.exp(x, out=out)
        assert result is out
        assert tm.layout(out).placements == target[1]
        assert_close(out, value.exp())


# --- windows that only their base can express --------------------------------

WINDOWS = {
    "row": lambda t: t[3],
    "rows": lambda t: t[2:6],
    "every other": lambda t: t[1::2],
    "part": lambda t: t[2:5, 1:4],
    "columns of rows": lambda t: t[1:6].t()[1:3],
    "element": lambda t: t[4, 2],
    "one row": lambda t: t[6:7],
    "nothing": lambda t: t[3:3],
}


def placed_and_plain(mesh_name, placements):
    value = torch.randn(7, 5)
    return place(value, mesh_of(mesh_name), placements), value.clone()


def rows_of_separate_memories():
    _C.separate_cpu_memories(True)
    mesh = tm.Mesh({"data": 4})
    _C.separate_cpu_memories(False)
    return tm.distribute(torch.zeros(64, 64), mesh, ("S0",))


@every_layout(2, SMALL)
@pytest.mark.parametrize("window", WINDOWS)
def test_law_03_a_window_is_written_where_its_elements_lie(
    mesh_name, placements, window
):
    x, plain = placed_and_plain(mesh_name, placements)
    for tensor in (x, plain):
        part = WINDOWS[window](tensor)
        part.mul_(3)
        part.sub_(1)
        tensor.add_(1)  # the window is stale now
        part.mul_(2)
    assert_equal(x, plain)


def test_law_03_a_row_moves_to_those_who_lack_it_and_none_moves_back():
    x = rows_of_separate_memories()
    row = x[40]
    with tm.counting() as counts:
        row.sum()
    assert set(counts.moved.values()) == {row.nbytes}
    assert len(counts.moved) == 3
    assert counts.moved == counts.received
    with tm.counting() as counts:
        row.add_(1)  # by each device; its owner has it
    assert counts.moved == counts.received == {}
    assert_equal(x[40], torch.ones(64))


@pytest.mark.parametrize(
    "window",
    {
        "flat": lambda x: x.view(-1)[3:70],
        "diagonal": lambda x: x.diagonal(),
        "steps over rows": lambda x: x.as_strided((9,), (70,), 5),
        "bytes": lambda x: x.view(torch.uint8)[1:5, 2:7],
        "halves": lambda x: x.view(torch.int16)[:, ::3],
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("placements", [("S0",), ("S1",), ("P+",)])
def test_law_03_a_window_that_is_no_chain_writes_its_elements(
    window, placements
):
    x = rows_of_separate_memories()
    x = tm.distribute(torch.rand(64, 64), tm.layout(x).mesh, placements)
    right = x.cpu()
    window[1](x).fill_(1)
    window[1](right).fill_(1)
    assert_equal(x, right)


def test_law_03_threads_that_write_disjoint_parts_lose_nothing():
    """One writes shards, the other a window that is written back into them."""
    mesh = tm.Mesh({"data": 4})
    x = tm.distribute(torch.zeros(8, 512), mesh, ("S0",))
    rounds = 400
    start = threading.Barrier(2)

    def write(part):
        start.wait()
        for _ in range(rounds):
            part().add_(1)

    threads = [
        threading.Thread(target=write, args=(part,))
        for part in (lambda: x[2:4, :3], lambda: x[:, 3:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = torch.zeros(8, 512)
    expected[:, 3:] = rounds
    expected[2:4, :3] = rounds
    assert_equal(x, expected)


@every_layout(2, SMALL)
@pytest.mark.parametrize("window", WINDOWS)
def test_law_03_a_window_that_is_overwritten_is_not_read(
    mesh_name, placements, window
):
    x, plain = placed_and_plain(mesh_name, placements)
    for tensor in (x, plain):
        part = WINDOWS[window](tensor)
        part.sum()
        tensor.mul_(2)  # the window is stale
        part.copy_(torch.ones(part.shape))
        part.add_(1)
        tensor.sub_(1)
        part.fill_(3)
    assert_equal(x, plain)
    assert_equal(WINDOWS[window](x), WINDOWS[window](plain))


def test_law_03_an_item_that_is_set_gathers_no_base():
    x = rows_of_separate_memories()
    with tm.counting() as counts:
        x[40] = 3
        x[41] = torch.arange(64.0)
    assert counts.collectives == {}
    expected = torch.zeros(64, 64)
    expected[40], expected[41] = 3, torch.arange(64.0)
    assert_equal(x, expected)
