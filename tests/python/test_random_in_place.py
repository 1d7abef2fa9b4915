"""Random numbers in place: nothing of what they overwrite is asked for."""

import pytest
import torch
from placing import assert_equal, every_layout, mesh_of, place
from torch import nn

import torch_mesh as tm

DRAWS = {
    "uniform_": lambda t: t.uniform_(-1, 2),
    "normal_": lambda t: t.normal_(1, 3),
    "bernoulli_": lambda t: t.bernoulli_(0.3),
    "exponential_": lambda t: t.exponential_(2),
    "random_": lambda t: t.random_(),
    "random_ to": lambda t: t.random_(9),
    "random_ from": lambda t: t.random_(-3, 9),
    "cauchy_": lambda t: t.cauchy_(),
    "geometric_": lambda t: t.geometric_(0.4),
    "log_normal_": lambda t: t.log_normal_(),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_normal_,
    "truncated": nn.init.trunc_normal_,
}

LOOKS_AT_WHAT_IT_DREW = "truncated"

VIEWS = {
    "whole": lambda t: t,
    "rows": lambda t: t[2:6],
    "columns": lambda t: t[:, 1:4],
    "steps": lambda t: t[::3, ::2],
    "transposed": lambda t: t.t(),
    "flat": lambda t: t.view(5, 7),
    "window": lambda t: t.as_strided((3, 4), (11, 2), 1),
    "data": lambda t: t.data[1:],
}


@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("draw", DRAWS)
@every_layout(2, ("2", "3", "2x2"))
def test_numbers_are_drawn_without_a_collective(
    mesh_name, placements, draw, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)
    value = torch.arange(35.0).view(7, 5)
    for name, view in VIEWS.items():
        x, right = place(value.clone(), mesh, placements), value.clone()
        v = view(x)
        torch.manual_seed(5)
        expected = DRAWS[draw](view(right))
        torch.manual_seed(5)
        with tm.counting() as counts:
            result = DRAWS[draw](v)
        assert counts.collectives == {} or draw == LOOKS_AT_WHAT_IT_DREW, name
        assert result is v
        assert_equal(x, right)
        assert_equal(v, expected)
        for was, now in zip(placements, tm.layout(x).placements, strict=True):
            assert was == now or (was, now) == ("P+", "R")


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(1, ("2", "3"))
def test_a_row_and_an_element_are_drawn_without_a_collective(
    mesh_name, placements, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)
    x, right = place(torch.ones(7), mesh, placements), torch.ones(7)
    row, element = x[2:5], x[6]
    torch.manual_seed(5)
    right[2:5].normal_()
    right[6].uniform_()
    torch.manual_seed(5)
    with tm.counting() as counts:
        row.normal_()
        element.uniform_()
    assert counts.collectives == {}
    assert_equal(x, right)
    assert_equal(row, right[2:5])


def test_memory_that_nobody_has_written_is_drawn_into():
    with tm.use(tm.Mesh({"data": 2})):
        x = torch.empty(5, 3, device="mesh")
        torch.manual_seed(5)
        x[1:].normal_()
        torch.manual_seed(5)
        assert_equal(x[1:], torch.empty(4, 3).normal_())


def test_a_borrowed_batch_stays_as_it_was():
    mesh = tm.Mesh({"data": 2})
    batch = torch.ones(6, 2)
    x = tm.borrow(batch, mesh, ("S0",))
    x[1].normal_()
    assert_equal(batch, torch.ones(6, 2))
    assert_equal(x[0], batch[0])
