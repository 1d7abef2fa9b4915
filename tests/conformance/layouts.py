"""The meshes, the layouts of a tensor on them, and exact partial sums."""

import itertools
import math

import torch
from tests.conformance import team

import torch_mesh as tm

MESHES = {
    "2": {"data": 2},
    "3": {"data": 3},
    "2x2": {"data": 2, "model": 2},
    # Parts of one row, and empty ones.
    "4": {"data": 4},
    "7": {"data": 7},
    "8": {"data": 8},
    "2x3": {"data": 2, "model": 3},
}

# What a layout does, whatever the number of dims: first, middle, last dim.
ONE_AXIS = ("R", "first", "last", "middle", "P+")
TWO_AXES = (
    ("R", "R"),
    ("first", "R"),
    ("R", "last"),
    ("first", "last"),
    ("middle", "first"),
    ("first", "first"),
    ("P+", "R"),
    ("P+", "first"),
    ("last", "P+"),
    ("P+", "P+"),
)
QUICK = {1: ("R", "first", "last", "P+"), 2: TWO_AXES[:4] + TWO_AXES[6:8]}


# Of the other dtypes torch itself forms no sum.
SUMMABLE = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex128,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
}


_num_processes = 1


def over(num_processes):
    """Makes the meshes of this process those of so many."""
    global _num_processes
    _num_processes = num_processes


def is_over_processes():
    """Whether meshes have devices of several processes."""
    return _num_processes > 1


def mesh_of(name):
    axes = MESHES[name]
    if _num_processes == 1:
        return tm.Mesh(axes)
    return tm.Mesh(axes, team.devices(math.prod(axes.values()), _num_processes))


def kinds_of_layout(mesh_name, quick=False):
    """The layouts to try, as words; the first is replicated."""
    if len(MESHES[mesh_name]) == 1:
        return [(word,) for word in (QUICK[1] if quick else ONE_AXIS)]
    return list(QUICK[2] if quick else TWO_AXES)


def placements_of(kind, value):
    """The placements that a layout in words means for `value`, or None.

    None if it says nothing that another kind does not say.
    """
    num_dims = value.dim()
    dims = {"first": 0, "last": num_dims - 1, "middle": num_dims // 2}
    found = []
    for word in kind:
        if word == "R":
            found.append("R")
        elif word == "P+":
            if value.dtype not in SUMMABLE:
                return None
            found.append("P+")
        elif (
            num_dims == 0
            or (word == "last" and num_dims < 2)
            or (word == "middle" and num_dims < 3)
        ):
            return None
        else:
            found.append(f"S{dims[word]}")
    return tuple(found)


def place(value, mesh, placements):
    """`value` as a new global tensor; parts of a sum add up exactly."""
    value = value.detach()
    partial = [i for i, p in enumerate(placements) if p == "P+"]
    if not partial:
        return tm.distribute(value, mesh, placements)
    whole = ["R" if p == "P+" else p for p in placements]
    shards = tm.shards(tm.distribute(value, mesh, whole))
    coordinates = itertools.product(*(range(n) for n in mesh.shape))
    parts = []
    for shard, coordinate in zip(shards, coordinates, strict=True):
        if shard is None:  # another process's
            parts.append(None)
            continue
        at = [coordinate[i] for i in partial]
        if not any(at):
            parts.append(split(shard)[0])
        elif all(
            c == mesh.shape[i] - 1 for c, i in zip(at, partial, strict=True)
        ):
            parts.append(split(shard)[1])
        else:
            parts.append(torch.full_like(shard, zero_of(shard.dtype)))
    return in_order_of(value, tm.from_shards(parts, mesh, placements))


def in_order_of(value, placed):
    """`placed` with the strides of `value`.

    A shard of one row does not show in which order the dims of the whole lie.
    Memory that nobody has written takes the layout of what is copied.
    """
    span = 1 + sum(
        (n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)
    )
    if placed.stride() == value.stride() or value.numel() != max(span, 1):
        return placed
    made = torch.empty_strided(
        value.shape, value.stride(), dtype=value.dtype, device="mesh"
    ).copy_(placed)
    assert tm.layout(made) == tm.layout(placed)
    return made


def zero_of(dtype):
    """What adds nothing, not even to the sign of a zero."""
    return -0.0 if dtype.is_floating_point else 0


MANTISSA = {
    torch.float64: (torch.int64, 26),
    torch.float32: (torch.int32, 12),
    torch.float16: (torch.int16, 5),
    torch.bfloat16: (torch.int16, 4),
}


def split(value):
    """Two tensors whose sum is `value`, bit for bit.

    The high and the low half of the mantissa; inf and nan are whole in the
    first. Integers by an arbitrary split, which may leave their range: a
    device must not look at its part alone.
    """
    if value.is_complex():
        parts = [split(p) for p in (value.real, value.imag)]
        return tuple(
            torch.complex(real, imag) for real, imag in zip(*parts, strict=True)
        )
    if not value.dtype.is_floating_point:
        high = value * 7 + 3
        return high, value - high
    bits, low_bits = MANTISSA[value.dtype]
    high = (value.view(bits) & (-1 << low_bits)).view(value.dtype)
    high = torch.where(value.isfinite(), high, value)
    low = torch.where(high == value, zero_of(value.dtype), value - high)
    low = torch.where(value.isfinite(), low, zero_of(value.dtype))
    return high, low.to(value.dtype)


def assignments(values, mesh_name, *, turns=3, quick=False):
    """Layouts for the tensors of one call: all together, and each in turn.

    Args:
        values: the plain tensors of the call.
        turns: so many of them take a turn.

    Yields:
        A label, and for each tensor its placements.
    """
    kinds = kinds_of_layout(mesh_name, quick)
    replicated = kinds[0]
    seen = set()
    for kind in kinds:
        together = tuple(placements_of(kind, v) or replicated for v in values)
        if together not in seen:
            seen.add(together)
            yield f"all {','.join(kind)}", together
    if len(values) < 2:
        return
    for i in range(min(len(values), turns)):
        for kind in kinds[1:]:
            placements = placements_of(kind, values[i])
            if placements is None:
                continue
            turn = tuple(
                placements if j == i else replicated for j in range(len(values))
            )
            if turn not in seen:
                seen.add(turn)
                yield f"arg{i} {','.join(kind)}", turn
