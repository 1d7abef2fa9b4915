"""Batches of which each process has a part: `auto_shard_dataset=False`.

The parts are the batch in the order of the mesh. Processes that stand at the
same place of the batch's axes have the same part, as where a model is cut over
several of them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

import torch_mesh as tm


def join(part: torch.Tensor, layout: Any) -> torch.Tensor:
    """The global tensor of a batch. All processes of the mesh call it.

    Where the parts are as long as the shards, none of their rows moves. The
    number of rows may differ from process to process, and each time.

    Args:
        part: A plain tensor, the rows that this process has.
        layout: A `torch_mesh.Layout` that cuts the batch on dim 0.

    Returns:
        A global tensor with the rows of all.

    Raises:
        ValueError: if the mesh does not give each process a run of the rows.
    """
    mesh = layout.mesh
    holders = _holders(layout)
    sizes = _sizes(part.shape[0], mesh)
    rows = [sizes[holder] for holder in holders]
    places = math.prod(
        size
        for size, placement in zip(mesh.shape, layout.placements, strict=True)
        if placement == "S0"
    )
    chunk = -(-sum(rows) // places)
    per_holder = chunk * (places // len(holders))
    mine = tm.process_id()
    coordinate = next(i for i, g in enumerate(_groups(layout)) if mine in g)
    start = sum(rows[:coordinate])
    fits = [
        min(per_holder, max(sum(rows) - i * per_holder, 0))
        for i in range(len(holders))
    ]
    if rows == fits:
        # Of a plain tensor the engine reads the rows of its own devices alone:
        # the others are never written, nor is memory for them.
        whole = part.new_empty((sum(rows), *part.shape[1:]))
        whole[start : start + part.shape[0]] = part
        return tm.borrow(whole, layout)
    return tm.borrow(_gathered(part, mesh, holders, sizes), layout)


def _gathered(
    part: torch.Tensor, mesh: Any, holders: list[int], sizes: dict[int, int]
) -> torch.Tensor:
    """All rows, in each process."""
    height = max(sizes.values())
    padded = part.new_zeros((height, *part.shape[1:]))
    padded[: part.shape[0]] = part
    everyone = _from_each(padded, mesh)
    return torch.cat([everyone[h][: sizes[h]] for h in holders])


def _sizes(mine: int, mesh: Any) -> dict[int, int]:
    """The number of rows that each process has."""
    said = _from_each(torch.tensor(mine), mesh)
    return {process: int(size) for process, size in said.items()}


def _from_each(value: torch.Tensor, mesh: Any) -> dict[int, torch.Tensor]:
    """The plain tensor of each process, all of one shape."""
    processes = _process_of_each(mesh)
    over_all = tm.Mesh({"process": mesh.size}, mesh.devices)
    rows = value.expand(mesh.size, *value.shape)
    whole = tm.full(tm.distribute(rows, over_all, ("S0",)))
    return {
        process: whole[processes.index(process)] for process in set(processes)
    }


def _process_of_each(mesh: Any) -> list[int]:
    """The process of each device, row-major."""
    from torch_mesh import devices

    return [devices.process_of(name) for name in mesh._native.devices]


@functools.lru_cache(maxsize=64)
def _groups(layout: Any) -> list[set[int]]:
    """The processes of each run of rows that no two parts share, in order."""
    mesh = layout.mesh
    at: dict[int, set[int]] = {}
    for device, process in enumerate(_process_of_each(mesh)):
        place, rest, scale = 0, device, 1
        for size, placement in zip(
            reversed(mesh.shape), reversed(layout.placements), strict=True
        ):
            if placement == "S0":
                place += (rest % size) * scale
                scale *= size
            rest //= size
        at.setdefault(place, set()).add(process)
    groups: list[set[int]] = []
    lengths: list[int] = []
    for place in sorted(at):
        if groups and groups[-1] == at[place]:
            lengths[-1] += 1
            continue
        groups.append(at[place])
        lengths.append(1)
    members = [process for group in groups for process in group]
    if len(members) != len(set(members)) or len(set(lengths)) != 1:
        raise ValueError(
            "fit: with auto_shard_dataset=False each process has a run of the "
            "batch, and on this mesh they have not all one of one length.\n"
            f"  mesh      {mesh}\n"
            f"  places    {[sorted(at[place]) for place in sorted(at)]}\n"
            "Hint: order the devices by process along the batch's axis, or set "
            "auto_shard_dataset=True. [parts-of-batch]"
        )
    return groups


def _holders(layout: Any) -> list[int]:
    """The first process of each part, in order."""
    return [min(group) for group in _groups(layout)]
