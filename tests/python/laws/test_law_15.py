"""Law 15: errors."""

import pytest
import torch
from placing import assert_equal, every_layout, mesh_of, place
from torch import nn

import torch_mesh as tm

WRONG_CALLS = {
    "mm": lambda t: torch.mm(t, torch.randn(3, 3)),
    "add": lambda t: t + torch.randn(3, 3),
    "view": lambda t: t.view(7, 7),
    "index": lambda t: t[99],
    "select": lambda t: t.select(5, 0),
    "index_select": lambda t: t.index_select(0, torch.tensor([77])),
    "cat": lambda t: torch.cat([t, torch.randn(3, 3, 3)]),
    "embedding": lambda t: nn.functional.embedding(torch.tensor([77]), t),
    "cholesky": lambda t: torch.linalg.cholesky(-torch.eye(4) + 0 * t[:4, :4]),
    "dtype": lambda t: torch.mm(t, torch.randn(4, 4).double()),
    "argmax_empty": lambda t: t[:0].argmax(),
    "softmax_dim": lambda t: t.softmax(7),
    "reshape": lambda t: t.reshape(3, -1, 7),
    "permute": lambda t: t.permute(0, 0),
    "gather": lambda t: t.gather(0, torch.tensor([[99]])),
    "bool": lambda t: bool(t),
    "item": lambda t: t.item(),
    "grad": lambda t: t.backward(),
    "in_place": lambda t: t.add_(torch.randn(3, 3)),
    "in_place_dtype": lambda t: t.long().add_(0.5),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
@every_layout(2, ("1", "3", "2x2"))
def test_law_15_errors_are_of_the_plain_type_and_change_nothing(
    mesh_name, placements, name
):
    value = torch.randn(5, 4)
    x = place(value, mesh_of(mesh_name), placements)
    with pytest.raises(Exception) as expected:
        WRONG_CALLS[name](value.clone())
    with pytest.raises(expected.type):
        WRONG_CALLS[name](x)
    assert_equal(x, value)
    assert_equal(x * 2, value * 2)


def test_law_15_an_error_names_op_layouts_and_mesh(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R"))
    with pytest.raises(RuntimeError) as error:
        x.gather(1, tm.distribute(torch.full((4, 1), 99), mesh, ("S0", "R")))
    text = str(error.value)
    assert "aten::gather" in text
    assert "(S0, R)" in text or "(R, R)" in text
    assert "data=2 model=2" in text


@pytest.mark.parametrize("separate", [False, True])
def test_law_15_a_half_written_destination_raises_until_it_is_overwritten(
    separate,
):
    tm._C.separate_cpu_memories(separate)
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.zeros(4, 3), mesh, ("S0",))
    # Rows of device 0 are in range, those of device 1 are not.
    index = torch.tensor([[0], [1], [9], [9]])
    left_by_plain = torch.zeros(4, 3)
    with pytest.raises(RuntimeError):
        left_by_plain.scatter_(1, index, 5.0)
    index = tm.distribute(index, mesh, ("S0",))
    with pytest.raises((RuntimeError, IndexError)) as first:
        x.scatter_(1, index, 5.0)
    assert "out of bounds" in str(first.value)
    try:
        value = tm.full(x)
    except RuntimeError as error:
        assert "out of bounds" in str(error)
        with pytest.raises(RuntimeError):
            x + 1
        with pytest.raises(RuntimeError):
            tm.full(x[1:])
    else:  # one local op did it
        assert not separate
        assert_equal(value, left_by_plain)
    x.copy_(torch.ones(4, 3))
    assert_equal(x, torch.ones(4, 3))
    assert_equal(x + 1, torch.full((4, 3), 2.0))


def test_law_15_the_engine_goes_on_after_an_error(mesh):
    x = tm.distribute(torch.eye(4), mesh, ("S0", "R"))
    for _ in range(5):
        with pytest.raises(RuntimeError):
            torch.linalg.cholesky(-x)
        assert_equal(x + x, torch.eye(4) * 2)


INDEX, SOURCE = torch.tensor([0, 1, 9, 2]), torch.arange(1.0, 5)
# (destination, to the mesh): each fails at the third element.
FAILS_HALFWAY = {
    "scatter_": lambda x, on: x.scatter_(0, on(INDEX), on(SOURCE)),
    "scatter_add_": lambda x, on: x.scatter_add_(0, on(INDEX), on(SOURCE)),
    "index_copy_": lambda x, on: x.index_copy_(0, on(INDEX), on(SOURCE)),
    "index_add_": lambda x, on: x.index_add_(0, on(INDEX), on(SOURCE)),
    "index_fill_": lambda x, on: x.index_fill_(0, on(INDEX), 3.0),
    "index_put_": lambda x, on: x.index_put_((on(INDEX),), on(SOURCE)),
    "put_": lambda x, on: x.put_(on(INDEX), on(SOURCE)),
    "_foreach_copy_": lambda x, on: torch._foreach_copy_(
        list(x.split(1)), [on(s) for s in torch.ones(5).split([1, 1, 2, 1])]
    ),
    "bernoulli_": lambda x, on: x.bernoulli_(on(torch.tensor([0.5, 1, 2, 0]))),
    "masked_scatter_": lambda x, on: x.masked_scatter_(
        on(torch.ones(4, dtype=torch.bool)), on(SOURCE[:2])
    ),
}


@pytest.mark.parametrize("memories", [[0, 0, 0, 0], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", FAILS_HALFWAY)
def test_law_15_a_plain_destination_is_left_as_plain_torch_leaves_it(
    name, memories
):
    def left_by(on):
        torch.manual_seed(0)
        destination = torch.zeros(4)
        with pytest.raises((RuntimeError, IndexError)) as error:
            FAILS_HALFWAY[name](destination, on)
        return error.type, destination

    tm._C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 4})
    error, expected = left_by(lambda t: t)
    got, destination = left_by(lambda t: tm.distribute(t, mesh, ("S0",)))
    assert got is error
    assert_equal(destination, expected)


@pytest.mark.parametrize("memories", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_law_15_what_out_names_is_written_once_the_result_is_whole(memories):
    tm._C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 4})
    source, index = (tm.distribute(t, mesh, ("S0",)) for t in (SOURCE, INDEX))
    destination = torch.zeros(4)
    with pytest.raises(IndexError):
        torch.index_select(source, 0, index, out=destination)
    assert_equal(destination, torch.zeros(4))


def test_law_15_a_write_that_does_not_reach_its_storage_breaks_it():
    tm._C.set_memories_for_testing([0, 1, 2, 3])
    mesh = tm.Mesh({"data": 4})
    x = tm.distribute(torch.arange(16.0).view(4, 4), mesh, ("S0",))
    row = x[1]
    row.cpu()
    tm._C.refuse_to_communicate_for_testing(True)
    try:
        with pytest.raises(RuntimeError, match="no device may communicate"):
            row.add_(100)
    finally:
        tm._C.refuse_to_communicate_for_testing(False)
    for read in (x.cpu, row.cpu, lambda: x[1].cpu()):
        with pytest.raises(RuntimeError, match="broken-tensor"):
            read()
    x.fill_(1)
    assert_equal(x, torch.ones(4, 4))
    assert_equal(row, torch.ones(4))
