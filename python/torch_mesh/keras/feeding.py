"""How the batches of Keras's trainer come to a mesh, from several processes.

With `auto_shard_dataset=True` all processes have the same data. Of arrays, and
of a DataLoader over a map-style dataset, each reads the rows of its own
devices; of all else it makes whole batches and keeps its rows. With False each
has a part of each batch.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from keras.src import tree
from torch.utils import data as torch_data

from torch_mesh import (
    batch_facts,
    batch_parts,
    batch_rows,
    loading,
    reading,
    tensors,
)
from torch_mesh.keras import active, compat, data
from torch_mesh.keras.writing import members
from torch_mesh.layouts import Layout
from torch_mesh.shared_batches import Ended, SharedBatches, compare_at_start

core = compat.core()

_NAMES = ("x", "y", "sample_weight")
# Of each array that are compared before an epoch.
_MOST_ROWS = 16
# What reads the rows of this process for a loader of the user's, which may keep
# its workers from epoch to epoch.
_own_loaders: weakref.WeakKeyDictionary[Any, tuple[Layout, Any]] = (
    weakref.WeakKeyDictionary()
)


class Placing:
    """Places batches of plain tensors and arrays on a distribution's mesh."""

    def __init__(self, distribution: Any) -> None:
        self.distribution = distribution
        self._layouts: dict[tuple[int, ...], Any] = {}

    def __call__(self, batches: Any) -> Any:
        """A structure whose arrays and tensors are cut on dim 0.

        Args:
            batches: Structure of what Keras takes. Scalars, and what is neither
                array nor tensor, pass.
        """
        # The usual structure, [(x, y)], without a look at its kinds of nodes.
        if type(batches) is list or type(batches) is tuple:
            return type(batches)([self(part) for part in batches])
        if isinstance(batches, (torch.Tensor, np.ndarray)):
            return self._place(batches)
        return tree.map_structure(self._place, batches)

    def _place(self, x: Any) -> Any:
        if not isinstance(x, (torch.Tensor, np.ndarray)) or x.ndim == 0:
            return x
        shape = tuple(x.shape)
        layout = self._layouts.get(shape)
        if layout is None:
            if len(self._layouts) > 256:  # as many lengths as sentences
                self._layouts.clear()
            layout = self.distribution.get_data_layout(shape)
            self._layouts[shape] = layout
        return data.distribute_data_input(
            x, layout, self.distribution.batch_dim_name
        )


class HandedIn:
    """Batches that all processes hand in: those of one pass, or of no pass.

    Args:
        op: Whom an error is to name.
        placing: Of the distribution in force.
        may_end: Whether nobody knows how many batches a process has.

    Attributes:
        has_parts: Whether each process hands in a part, and not all.
    """

    def __init__(
        self, op: str, placing: Placing, may_end: bool = False
    ) -> None:
        self._op = op
        self._placing = placing
        self.has_parts = not placing.distribution.auto_shard_dataset
        self._layout = layout_of_batches(placing.distribution)
        self._shared = SharedBatches(op, self._layout, _NAMES, may_end)

    def __call__(self, batch: Any) -> Any:
        """A batch as global tensors.

        Args:
            batch: Structure of arrays and tensors, whole or the part of this
                process; or `Ended`.

        Returns:
            A structure of global tensors; `Ended` if all have ended.

        Raises:
            ValueError: if the processes' batches do not fit together.
        """
        if not isinstance(batch, Ended):
            batch = tree.map_structure(_as_tensor, batch)
        if self.has_parts:
            return self._shared.join_parts(batch, self._join)
        self._shared.compare_whole(batch)
        return batch if isinstance(batch, Ended) else self._placing(batch)

    def _join(self, part: torch.Tensor, sizes: dict[int, int]) -> Any:
        return batch_parts.join(self._op, part, self._layout, sizes)


def layout_of_batches(distribution: Any) -> Layout:
    """S0 on the axis that cuts batches, R on all others."""
    layout: Layout = distribution.get_data_layout((1,)).backend_layout
    return layout


def is_placed(batches: Any) -> bool:
    """Whether a batch is on the mesh."""
    return any(
        isinstance(leaf, torch.Tensor) and tensors.is_global(leaf)
        for leaf in tree.flatten(batches)
    )


def batches_of(epoch: Any) -> Any:
    """An iterable over the batches of an epoch, which all processes call.

    Args:
        epoch: Keras's epoch iterator.

    Raises:
        ValueError: if the processes have not as many batches.
    """
    with core.device_scope("cpu"):
        iterable = epoch.data_adapter.get_torch_dataloader()
    if len(members()) == 1 or isinstance(iterable, loading.DataLoader):
        return _OnHost(iterable)
    distribution = active.current()
    layout = layout_of_batches(distribution)
    reads_rows = _reads_rows(epoch.data_adapter, iterable, distribution, layout)
    count = epoch.data_adapter.num_batches
    checksum = None
    if distribution.auto_shard_dataset:
        checksum = _checksum_of_rows(epoch.data_adapter)
    compare_at_start(
        "fit",
        layout,
        {
            "number of batches": count,
            "steps of an epoch": epoch.steps_per_epoch,
            "kind of data": type(epoch.data_adapter).__name__,
            f"checksum of {_MOST_ROWS} rows": checksum,
        },
        "give all processes data of one kind, and as many batches; "
        "steps_per_epoch=, or drop_last of a loader, may make them equal. "
        "Arrays are the same in all, and each keeps its rows; with "
        "auto_shard_dataset=False each hands in its own rows.",
    )
    if reads_rows:
        loader = _own_loader(iterable, layout)
        shared = SharedBatches("fit", layout, _NAMES)
        return _OnHost(loader, lambda read: _rows(read, loader, shared))
    handed_in = HandedIn("fit", Placing(distribution), may_end=count is None)
    return _OnHost(iterable, lambda batches: _handed_in(batches, handed_in))


def _checksum_of_rows(adapter: Any) -> int | None:
    """Of some rows of arrays, from the first to the last; None of all else.

    What each process reads is for it alone, so nobody would see that processes
    have been given other data.
    """
    from keras.src.trainers.data_adapters import ArrayDataAdapter

    if not isinstance(adapter, ArrayDataAdapter):
        return None
    facts: list[Any] = []
    for leaf in tree.flatten(getattr(adapter, "_inputs", ())):
        is_array = isinstance(leaf, (np.ndarray, torch.Tensor))
        if not is_array or leaf.ndim == 0 or len(leaf) == 0:
            continue
        last, most = len(leaf) - 1, _MOST_ROWS - 1
        rows = sorted({last * i // most for i in range(_MOST_ROWS)})
        facts.append([str(leaf.dtype), tuple(leaf.shape)])
        try:
            facts.append(batch_facts.checksum_of(torch.as_tensor(leaf[rows])))
        except TypeError:  # of text, which torch has not
            continue
    return batch_facts.checksum_of(facts)


class _OnHost:
    """An iterable whose iterators work under `keras.device("cpu")`.

    An iterator is made when Keras asks for it, not at its first batch: a
    DataLoader draws a random number then, and must draw it here too.

    Args:
        iterable: Gives batches.
        feed: Makes of its iterator one of what the step is to see.
    """

    def __init__(
        self, iterable: Any, feed: Callable[[Any], Iterator[Any]] = iter
    ) -> None:
        self.iterable = iterable
        self._feed = feed

    def __iter__(self) -> Iterator[Any]:
        with core.device_scope("cpu"):
            iterator = self._feed(iter(self.iterable))
        return _OnHostIterator(iterator)


class _OnHostIterator:
    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with core.device_scope("cpu"):
            return next(self.iterator)


def _rows(read: Any, loader: Any, shared: SharedBatches) -> Iterator[Any]:
    """Batches of which each process has read its rows."""
    due = loader.batch_sampler.due  # of the iterator that was just made
    return (shared.join_rows(rows, due.popleft()) for rows in read)


def _handed_in(batches: Any, handed_in: HandedIn) -> Iterator[Any]:
    """Batches of all processes, until the last of them has no more."""
    for batch in batches:
        yield handed_in(batch)
    while not isinstance(batch := handed_in(Ended()), Ended):
        yield batch


def _reads_rows(
    adapter: Any, loader: Any, distribution: Any, layout: Layout
) -> bool:
    """Whether a process can read its rows of each batch, and no others.

    What a `collate_fn` of the user's makes of some rows may not be some rows of
    what it makes of all.
    """
    from keras.src.distribution import DataParallel, ModelParallel
    from keras.src.trainers.data_adapters import (
        ArrayDataAdapter,
        TorchDataLoaderAdapter,
    )

    if not distribution.auto_shard_dataset or type(distribution) not in (
        DataParallel,
        ModelParallel,
    ):
        return False
    places = {
        batch_rows.places_of(layout, process)
        for process in layout.mesh.processes
    }
    if len(places) == 1 or not batch_rows.are_apart(layout):
        return False
    is_of_arrays = isinstance(adapter, ArrayDataAdapter)
    held = (
        adapter._inputs
        if is_of_arrays
        else getattr(getattr(loader, "dataset", None), "tensors", ())
    )
    if any(tensors.is_global(leaf) for leaf in tree.flatten(held)):
        return False  # to read a row of it takes all processes
    if is_of_arrays:
        return True
    return (
        isinstance(adapter, TorchDataLoaderAdapter)
        and type(loader).__iter__ is torch_data.DataLoader.__iter__
        and not isinstance(loader.dataset, torch_data.IterableDataset)
        and loader.batch_sampler is not None
        and loader.collate_fn is torch_data.default_collate
    )


def _own_loader(loader: Any, layout: Layout) -> Any:
    known, own = _own_loaders.get(loader, (None, None))
    if known != layout:
        own = reading.own_loader(
            loader, reading.OwnRows(loader.batch_sampler, layout)
        )
        _own_loaders[loader] = layout, own
    return own


def _as_tensor(leaf: Any) -> Any:
    """A numeric array as a tensor; anything else as it is."""
    if isinstance(leaf, np.ndarray) and data.has_data(leaf):
        return data.as_tensor(leaf)
    return leaf
