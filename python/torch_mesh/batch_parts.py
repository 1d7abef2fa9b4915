"""Batches of which each process has a part.

The parts are the batch in the order of the mesh. Processes that stand at the
same place of the batch's axes have the same part, as where a model is cut over
several of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_mesh import agreement, batch_facts, batch_rows, job, tensors
from torch_mesh.layouts import Layout, Mesh
from torch_mesh.loading import layout_of_batches, plain_batch
from torch_mesh.shared_batches import SharedBatches


def from_local(
    part: Any,
    mesh: Mesh | None = None,
    batch: str | Iterable[str] | None = None,
) -> Any:
    """The global tensor of whose rows each process hands in its own.

    The rows of all follow one another in the order of the mesh. All processes
    of the mesh call this, and tell each other what they have. Where it is as
    many rows as their devices hold no row moves; else all are sent to all. A
    process may have none.

    Args:
        part: a plain tensor or array with rows on dim 0, or a dict, list or
            tuple of them. What has no rows, as a number, is to be the same in
            all processes. Processes that stand at one place of the batch's
            axes hand in the same.
        mesh: defaults to the one that `tm.use` has put in force.
        batch: the axis that cuts the batch, or several; defaults to that of
            `tm.use(mesh, batch=...)`, or the only one there is.

    Returns:
        A global tensor, or the structure of them, cut on dim 0; copies. No
        gradient goes back to `part`.

    Raises:
        ValueError: if the parts do not fit together, or the mesh does not give
            each process a run of the rows.
    """
    layout = layout_of_batches("from_local", mesh, batch)

    def joined(leaf: torch.Tensor, sizes: dict[int, int]) -> torch.Tensor:
        return join("from_local", leaf.detach(), layout, sizes, copies=True)

    whole = plain_batch("from_local: who calls it", part)
    for leaf in pytree.tree_leaves(whole, is_leaf=batch_facts.are_texts):
        _check_plain(leaf)
    return SharedBatches("from_local", layout).join_parts(whole, joined)


def _check_plain(leaf: Any) -> None:
    if not isinstance(leaf, torch.Tensor):
        return
    if tensors.is_global(leaf):
        raise TypeError(
            "from_local: a plain tensor is due, and this one is on the mesh.\n"
            f"  layout  {tensors.layout(leaf)}\n"
            "Hint: torch_mesh.redistribute gives it another layout."
            " [argument-type]"
        )
    is_dense = leaf.layout == torch.strided and not leaf.is_nested
    if not is_dense or leaf.is_quantized or leaf.is_meta:
        raise TypeError(
            "from_local: rows of a dense tensor are due, and this one is"
            f" {'quantized' if leaf.is_quantized else leaf.layout} on"
            f" {leaf.device}.\nHint: to_dense, dequantize or a padded tensor"
            " makes rows of it. [argument-type]"
        )


def join(
    op: str,
    part: torch.Tensor,
    layout: Layout,
    sizes: dict[int, int],
    copies: bool = False,
) -> torch.Tensor:
    """The global tensor of a batch. All processes of the mesh call it.

    Where the parts are as long as the shards, none of their rows moves. The
    number of rows may differ from process to process, and each time.

    Args:
        op: Whom an error is to name.
        part: A plain tensor, the rows that this process has.
        layout: S0 on the axes that cut the batch, R on all others.
        sizes: The number of rows of each process.
        copies: Whether the tensor may not have the memory of `part`.

    Returns:
        A global tensor with the rows of all.

    Raises:
        ValueError: if the mesh does not give each process a run of the rows.
    """
    holders = _holders(op, layout)
    count = sum(sizes[holder] for holder in holders)
    if all(
        sizes[holder]
        == batch_rows.count_of(batch_rows.rows_of(layout, count, holder))
        for holder in holders
    ):
        return batch_rows.with_rows_of(
            layout, part, count, job.process_id(), copies
        )
    return tensors.borrow(_gathered(part, layout.mesh, holders, sizes), layout)


def _gathered(
    part: torch.Tensor, mesh: Mesh, holders: list[int], sizes: dict[int, int]
) -> torch.Tensor:
    """All rows, in each process."""
    height = max(sizes.values())
    padded = part.new_zeros((height, *part.shape[1:]))
    padded[: part.shape[0]] = part
    everyone = agreement.from_each(mesh, padded)
    return torch.cat([everyone[h][: sizes[h]] for h in holders])


@functools.lru_cache(maxsize=64)
def _holders(op: str, layout: Layout) -> list[int]:
    """The first process of each run of rows that no two share, in order."""
    there = batch_rows.processes_of_places(layout)
    groups = [processes for processes, _ in itertools.groupby(there)]
    members = [process for group in groups for process in group]
    if len(members) != len(set(members)):
        raise ValueError(
            f"{op}: each process hands in a run of the batch, and on this mesh "
            "not all have one.\n"
            f"  mesh      {layout.mesh}\n"
            f"  places    {[sorted(processes) for processes in there]}\n"
            "Hint: order the devices by process along the batch's axis, or let "
            "each process have the whole batch: torch_mesh.distribute, "
            "auto_shard_dataset=True. [parts-of-batch]"
        )
    return [min(group) for group in groups]
