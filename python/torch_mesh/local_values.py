"""What this process has of a global tensor, read without the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_mesh import _C
from torch_mesh.layouts import (
    Layout,
    check_member,
    coordinates_of,
    spans_processes,
)


def local_value(x: Tensor) -> Tensor:
    """What the devices of this process have of a global tensor.

    Args:
        x: A global tensor that needs no gradient.

    Returns:
        A plain tensor in memory of its own, as `torch_mesh.local_value` says.

    Raises:
        ValueError: if it is a sum that nobody has formed, or no block.
    """
    held_in = Layout._of(_C.layout_of(x))
    check_member("local_value", held_in)
    if not spans_processes(held_in.mesh._native):
        return _C.full(x)
    if held_in._native.has_partial:
        raise ValueError(
            "local_value: the parts of this sum are not added up yet, and that "
            "takes all processes.\n"
            f"  layout  {held_in}\n"
            "Hint: let all of them call torch_mesh.reduce_partials([x]) first. "
            "[pending-sum]"
        )
    held = {
        _part_of(held_in, device): (device, shard)
        for device, shard in enumerate(_C.shards(x))
        if shard is not None
    }
    if len(held) == 1:
        return held.popitem()[1][1].clone()
    return _block(x, held_in, list(held.values()))


def _part_of(held_in: Layout, device: int) -> tuple[int, ...]:
    """Which part of the value a device has: its place on axes that cut it."""
    return tuple(
        coordinate
        for coordinate, placement in zip(
            coordinates_of(held_in.mesh, device),
            held_in.placements,
            strict=True,
        )
        if placement.startswith("S")
    )


def _block(
    x: Tensor, held_in: Layout, held: list[tuple[int, Tensor]]
) -> Tensor:
    """The shards that this process has, put together."""
    where = [
        [_places(held_in, x.shape, dim, device) for dim in range(x.dim())]
        for device, _ in held
    ]
    block = [torch.unique(torch.cat(of)) for of in zip(*where, strict=True)]
    sizes = [len(of) for of in block]
    if sum(shard.numel() for _, shard in held) != math.prod(sizes):
        raise ValueError(
            "local_value: what the devices of this process have is no block.\n"
            f"  layout  {held_in}\n"
            "Hint: torch_mesh.shards(x) has what each of them has. [no-block]"
        )
    value = held[0][1].new_empty(sizes)
    for of_device, (_, shard) in zip(where, held, strict=True):
        index = [
            torch.searchsorted(whole, own)
            for whole, own in zip(block, of_device, strict=True)
        ]
        value[torch.meshgrid(*index, indexing="ij")] = shard
    return value


def _places(
    held_in: Layout, sizes: torch.Size, dim: int, device: int
) -> Tensor:
    """Which places of a dim a device has, rising."""
    cut = _C.Layout(
        held_in.mesh._native,
        [
            "S0" + placement.removeprefix(f"S{dim}")
            if placement == f"S{dim}" or placement.startswith(f"S{dim}/")
            else "R"
            for placement in held_in.placements
        ],
    )
    return _C.shards(_C.borrow(torch.arange(sizes[dim]), cut))[device]
