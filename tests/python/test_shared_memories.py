"""Meshes of which some devices share a memory do so axis by axis."""

import itertools

import pytest
import torch
from placing import assert_ran_as_counted, place

import torch_mesh as tm
from torch_mesh import _C


@pytest.fixture
def mesh_with():
    """Makes a mesh of these axes and memories of cpu:0, cpu:1, ..."""

    def make(memories, **axes):
        _C.set_memories_for_testing(list(memories))
        return tm.Mesh(axes)

    yield make
    _C.set_memories_for_testing([])


PRODUCTS = {(0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 2, 3)}


def partitions(count):
    """All ways in which `count` devices may share memories."""
    for numbers in itertools.product(range(count), repeat=count):
        if all(n <= max(numbers[:i], default=-1) + 1 for i, n in
               enumerate(numbers)):  # fmt: skip
            yield numbers


@pytest.mark.parametrize("memories", list(partitions(4)), ids=str)
def test_of_2_x_2_devices_rows_or_columns_share(mesh_with, memories):
    if memories not in PRODUCTS:
        with pytest.raises(ValueError, match="axis by axis") as error:
            mesh_with(memories, data=2, model=2)
        assert str(error.value).endswith("[mesh-devices]")
        return
    mesh = mesh_with(memories, data=2, model=2)
    value = torch.randint(9, (5, 3)).float()
    for a, b in itertools.product(("R", "S0", "S1", "P+"), repeat=2):
        x = place(value, mesh, (a, b))
        with tm.counting() as counts:
            assert torch.equal(x.cpu(), value)
            assert torch.equal((x + x).sum(0).cpu(), 2 * value.sum(0))
        assert_ran_as_counted(counts, mesh)


@pytest.mark.parametrize("memories", list(partitions(4)), ids=str)
def test_of_one_axis_any_devices_share(mesh_with, memories):
    mesh = mesh_with(memories, data=4)
    value = torch.randint(9, (5, 3)).float()
    for placement in ("R", "S0", "S1", "P+"):
        x = place(value, mesh, (placement,))
        with tm.counting() as counts:
            assert torch.equal(x.cpu(), value)
            assert torch.equal((x.t() @ x).cpu(), value.t() @ value)
        assert_ran_as_counted(counts, mesh)


def test_groups_of_an_axis_are_those_of_all_its_lines(mesh_with):
    # Places 0 and 2 of `model` share, on both rows.
    assert mesh_with([0, 1, 0, 2, 3, 2], data=2, model=3)
    with pytest.raises(ValueError, match="axis by axis"):
        mesh_with([0, 1, 0, 2, 2, 3], data=2, model=3)


def test_the_error_says_which_memories_there_are(mesh_with):
    with pytest.raises(ValueError) as error:
        mesh_with([5, 7, 7, 5], data=2, model=2)
    text = str(error.value)
    assert "data=2 model=2" in text
    assert "0 1 1 0" in text
    assert "Hint: order the devices" in text


def test_devices_in_another_order_may_share_axis_by_axis(mesh_with):
    _C.set_memories_for_testing([0, 1, 1, 0])
    names = ["cpu:0", "cpu:3", "cpu:1", "cpu:2"]
    assert tm.Mesh({"data": 2, "model": 2}, devices=names)
