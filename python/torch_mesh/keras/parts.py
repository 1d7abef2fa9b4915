"""Batches of which each process has a part: `auto_shard_dataset=False`.

The parts are the batch in the order of the mesh. Processes that stand at the
same place of the batch's axes have the same part, as where a model is cut over
several of them.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch

import torch_mesh as tm
from torch_mesh import agreement, batch_rows


def join(part: torch.Tensor, layout: Any, sizes: dict[int, int]) -> Any:
    """The global tensor of a batch. All processes of the mesh call it.

    Where the parts are as long as the shards, none of their rows moves. The
    number of rows may differ from process to process, and each time.

    Args:
        part: A plain tensor, the rows that this process has.
        layout: A `torch_mesh.Layout` that cuts the batch on dim 0.
        sizes: The number of rows of each process.

    Returns:
        A global tensor with the rows of all.

    Raises:
        ValueError: if the mesh does not give each process a run of the rows.
    """
    holders = _holders(layout)
    count = sum(sizes[holder] for holder in holders)
    if all(
        sizes[holder]
        == batch_rows.count_of(batch_rows.rows_of(layout, count, holder))
        for holder in holders
    ):
        return batch_rows.with_rows_of(layout, part, count, tm.process_id())
    return tm.borrow(_gathered(part, layout.mesh, holders, sizes), layout)


def _gathered(
    part: torch.Tensor, mesh: Any, holders: list[int], sizes: dict[int, int]
) -> torch.Tensor:
    """All rows, in each process."""
    height = max(sizes.values())
    padded = part.new_zeros((height, *part.shape[1:]))
    padded[: part.shape[0]] = part
    everyone = agreement.from_each(mesh, padded)
    return torch.cat([everyone[h][: sizes[h]] for h in holders])


@functools.lru_cache(maxsize=64)
def _holders(layout: Any) -> list[int]:
    """The first process of each run of rows that no two share, in order."""
    there = batch_rows.processes_of_places(layout)
    groups = [processes for processes, _ in itertools.groupby(there)]
    members = [process for group in groups for process in group]
    if len(members) != len(set(members)):
        raise ValueError(
            "fit: with auto_shard_dataset=False each process has a run of the "
            "batch, and on this mesh not all have one.\n"
            f"  mesh      {layout.mesh}\n"
            f"  places    {[sorted(processes) for processes in there]}\n"
            "Hint: order the devices by process along the batch's axis, or set "
            "auto_shard_dataset=True. [parts-of-batch]"
        )
    return [min(group) for group in groups]
