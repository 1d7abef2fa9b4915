"""Meshes and layouts that the tests walk over, and what compares values."""

import itertools

import pytest
import torch

import torch_mesh as tm

MESHES = {
    "1": {"data": 1},
    "2": {"data": 2},
    "3": {"data": 3},
    "4": {"data": 4},
    "2x2": {"data": 2, "model": 2},
}


SMALL = ("2", "3", "2x2")


def mesh_of(name):
    """The mesh called `name`, e.g. "3" or "2x2"."""
    return tm.Mesh(MESHES[name])


def placements_for(mesh_name, num_dims, partial=True):
    """Layouts worth a test for a tensor with `num_dims` dims.

    On one axis: R, S0, S1, the last dim, P+. On two: a few mixed ones.
    """
    dims = sorted({0, 1, num_dims - 1} & set(range(num_dims)))
    one = ["R", *(f"S{d}" for d in dims), *(["P+"] if partial else [])]
    if len(MESHES[mesh_name]) == 1:
        return [(p,) for p in one]
    last = f"S{num_dims - 1}" if num_dims else "R"
    first = "S0" if num_dims else "R"
    mixed = [("R", "R"), (first, "R"), ("R", last), (first, last)]
    if num_dims:
        mixed.append(("S0", "S0"))
    if partial:
        mixed += [("P+", first), (first, "P+"), ("P+", "P+")]
    return list(dict.fromkeys(mixed))


def cases(num_dims, meshes=tuple(MESHES), partial=True):
    """Pairs of a mesh name and placements."""
    return [
        (name, placements)
        for name in meshes
        for placements in placements_for(name, num_dims, partial)
    ]


def name_of(value):
    """A short id for pytest."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, str) else None


def every_layout(num_dims, meshes=tuple(MESHES), partial=True):
    """Runs a test with each `mesh_name` and `placements` of `cases`."""
    return pytest.mark.parametrize(
        "mesh_name, placements",
        cases(num_dims, meshes, partial),
        ids=name_of,
    )


def place(value, mesh, placements):
    """`value` in a layout; its partial sums have a part on every device.

    The first two parts are 2v and -v: any order of adding them is exact.
    """
    if value.dtype == torch.bool:  # of which there are no sums
        placements = ["R" if p == "P+" else p for p in placements]
    partial = [i for i, p in enumerate(placements) if p == "P+"]
    if not partial:
        return tm.distribute(value, mesh, placements)
    whole = ["R" if p == "P+" else p for p in placements]
    parts = tm.shards(tm.distribute(value.detach(), mesh, whole))
    coordinates = itertools.product(*(range(n) for n in mesh.shape))
    for number, coordinate in enumerate(coordinates):
        for axis in partial:
            weight = weights_of_parts(mesh.shape[axis])[coordinate[axis]]
            parts[number] = parts[number] * weight
    return tm.from_shards(parts, mesh, placements)


def weights_of_parts(count):
    """What the parts of a sum are multiples of; they add up to 1."""
    return [1] if count == 1 else [2, -1, *[0] * (count - 2)]


def assert_equal(actual, expected):
    """Same sizes, dtype and bits (NaN equals NaN)."""
    if isinstance(actual, torch.Tensor) and tm.is_global(actual):
        actual = tm.full(actual)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def assert_close(actual, expected, rtol=1e-5, atol=1e-5):
    """Equal up to the rounding of sums that were formed in another order."""
    if isinstance(actual, torch.Tensor) and tm.is_global(actual):
        actual = tm.full(actual)
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol, equal_nan=True
    )


def assert_ran_as_counted(counts, mesh):
    """The communicator did what the plans say: collectives, bytes per device.

    Where all devices share one memory it did nothing.
    """
    assert counts.moved == counts.received
    one_memory = mesh._native.one_memory
    assert counts.calls == ({} if one_memory else counts.collectives)
