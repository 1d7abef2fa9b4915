"""Which rows of a batch are whose, and a batch made of some of its rows.

A *place* is a coordinate on the axes that cut a batch: the devices of one place
have the same rows. All is counted in rows of the whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from torch_mesh import devices, tensors
from torch_mesh.layouts import Layout, coordinates_of


@functools.lru_cache(maxsize=64)
def processes_of_places(layout: Layout) -> tuple[frozenset[int], ...]:
    """The processes that have devices at each place, in the order of rows.

    Args:
        layout: S0 on the axes that cut the batch, R on all others.
    """
    owners = [devices.process_of(d) for d in layout.mesh._native.devices]
    return tuple(
        frozenset(owners[device] for device in devices_there)
        for devices_there in _devices_of_places(layout)
    )


@functools.lru_cache(maxsize=256)
def places_of(layout: Layout, process: int) -> tuple[int, ...]:
    """The places of a process, in order.

    Args:
        layout: As for `processes_of_places`.
        process: One that has devices of the mesh.
    """
    processes = processes_of_places(layout)
    return tuple(i for i, there in enumerate(processes) if process in there)


@functools.lru_cache(maxsize=1024)
def rows_of(layout: Layout, count: int, process: int) -> tuple[slice, ...]:
    """The rows that the devices of a process have.

    Args:
        layout: As for `processes_of_places`.
        count: Number of rows of the batch.
        process: One that has devices of the mesh.

    Returns:
        Runs of rows in order, each as long as may be; none of them is empty.
    """
    runs: list[slice] = []
    starts = _starts(layout, count)
    for place in places_of(layout, process):
        start, stop = starts[place], starts[place + 1]
        if start == stop:
            continue
        if runs and runs[-1].stop == start:
            start = runs.pop().start
        runs.append(slice(start, stop))
    return tuple(runs)


def count_of(runs: Sequence[slice]) -> int:
    """How many rows some runs have together."""
    return sum(run.stop - run.start for run in runs)


@functools.lru_cache(maxsize=64)
def are_apart(layout: Layout) -> bool:
    """Whether any two processes have either the same places or none in common.

    Args:
        layout: As for `processes_of_places`.
    """
    there = set(processes_of_places(layout))
    return sum(map(len, there)) == len(frozenset().union(*there)) and all(
        len({places_of(layout, process) for process in group}) == 1
        for group in there
    )


def with_rows_of(
    layout: Layout,
    part: Tensor,
    count: int,
    process: int,
    copies: bool = False,
) -> Tensor:
    """The global tensor of a batch, of the rows that this process has.

    Nothing is sent, and no row moves.

    Args:
        layout: As for `processes_of_places`.
        part: Plain CPU tensor, the rows of `rows_of` one after the other.
        count: Number of rows of the batch.
        process: This one.
        copies: Whether the tensor may not have the memory of `part`.

    Returns:
        A global tensor of `count` rows, in `layout`.
    """
    runs = rows_of(layout, count, process)
    if count_of(runs) == count:
        # In the order of memory that all others have.
        rows = (
            part.clone(memory_format=torch.contiguous_format)
            if copies
            else part.contiguous()
        )
        return tensors.borrow(rows, layout)
    # Of a plain tensor the engine reads the rows of its own devices alone: the
    # others are never written, nor is memory for them.
    whole = part.new_empty((count, *part.shape[1:]))
    start = 0
    for run in runs:
        stop = start + run.stop - run.start
        whole[run] = part[start:stop]
        start = stop
    return tensors.borrow(whole, layout)


@functools.lru_cache(maxsize=64)
def _devices_of_places(layout: Layout) -> list[list[int]]:
    """The devices of each place, row-major."""
    found: dict[tuple[int, ...], list[int]] = {}
    for device in range(layout.mesh.size):
        place = tuple(
            coordinate
            for coordinate, placement in zip(
                coordinates_of(layout.mesh, device),
                layout.placements,
                strict=True,
            )
            if placement == "S0"
        )
        found.setdefault(place, []).append(device)
    return [found[place] for place in sorted(found)]


@functools.lru_cache(maxsize=1024)
def _starts(layout: Layout, count: int) -> list[int]:
    """The first row of each place, and `count`."""
    starts = [0]
    for devices_there in _devices_of_places(layout):
        rows = layout.shard_shape((count,), devices_there[0])[0]
        starts.append(starts[-1] + rows)
    return starts
