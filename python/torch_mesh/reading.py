"""How a process reads its rows of each batch, and no others.

All processes draw the same batches of indices, whole, so that the order of rows
is one; each reads those of its own devices. What a dataset draws while it is
read comes from a stream of its own: the generators that the processes draw from
alike, for dropout and the next shuffle, stay alike.
"""

from __future__ import annotations

import collections
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree
from torch.utils import data as torch_data

from torch_mesh import batch_rows, job, tensors
from torch_mesh.layouts import Layout


class Due(NamedTuple):
    """A batch that is being read.

    Attributes:
        indices: All of its indices into the dataset.
        runs: The rows of this process.
    """

    indices: list[Any]
    runs: tuple[slice, ...]


class OwnRows(torch_data.Sampler[list[Any]]):
    """A batch sampler that keeps this process's rows of each batch.

    Args:
        batches: Lists of indices, the same in all processes.
        layout: S0 on the axes that cut the batch, R on all others.

    Attributes:
        due: What the last iterator has given, and nobody has taken yet. Workers
            read ahead, so it may be several.
    """

    def __init__(self, batches: Iterable[list[Any]], layout: Layout) -> None:
        self.batches = batches
        self.layout = layout
        self.due: collections.deque[Due] = collections.deque()

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Any]]:
        self.due = collections.deque()
        return self._own(iter(self.batches), self.due)

    def _own(
        self, batches: Iterator[list[Any]], due: collections.deque[Due]
    ) -> Iterator[list[Any]]:
        mine = job.process_id()
        for batch in batches:
            indices = list(batch)
            runs = batch_rows.rows_of(self.layout, len(indices), mine)
            due.append(Due(indices, runs))
            yield [index for run in runs for index in indices[run]]


class NoRows:
    """What is read of a batch of which this process has no row."""


def own_loader(loader: Any, batches: OwnRows) -> torch_data.DataLoader[Any]:
    """A loader that reads this process's rows.

    Args:
        loader: A DataLoader over a map-style dataset, which has batches.
        batches: Which rows it is to read.

    Returns:
        A DataLoader like `loader`. It gives what `collate_fn` makes of the rows
        of this process, or `NoRows`.
    """
    options = {
        name: getattr(loader, name)
        for name in (
            "num_workers",
            "pin_memory",
            "timeout",
            "multiprocessing_context",
            "generator",
            "prefetch_factor",
            "persistent_workers",
        )
    }
    how = how_to_read(
        loader.dataset, batches, loader.collate_fn, loader.worker_init_fn
    )
    return torch_data.DataLoader(**how, **options)


def how_to_read(
    dataset: Any, batches: OwnRows, collate_fn: Any, worker_init_fn: Any
) -> dict[str, Any]:
    """Arguments with which torch's DataLoader reads this process's rows.

    Args:
        dataset: A map-style dataset.
        batches: Which rows are to be read.
        collate_fn: Makes a batch of rows.
        worker_init_fn: Begins a worker; None does nothing.

    Returns:
        Dict from name to argument.
    """
    place = _place_of_this_process(batches.layout)
    draws = _OwnDraws(place)
    return {
        "dataset": _Rows(dataset, draws),
        "batch_sampler": batches,
        "collate_fn": _Collate(collate_fn, draws),
        "worker_init_fn": _StartOfWorker(worker_init_fn, place),
    }


class _Rows(torch_data.Dataset[Any]):
    """A dataset of which many rows are read at once."""

    def __init__(self, dataset: Any, draws: _OwnDraws) -> None:
        self.dataset = dataset
        self._draws = draws

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[Any]) -> Any:
        if not indices:
            return NoRows()
        with self._draws:
            get_many = getattr(self.dataset, "__getitems__", None)
            if get_many:
                rows = get_many(indices)
                _check_is_plain(rows)
                return rows
            first = self.dataset[indices[0]]
            _check_is_plain(first)
            return [first, *(self.dataset[index] for index in indices[1:])]

    def __getattr__(self, name: str) -> Any:
        # What a `worker_init_fn` asks of the dataset of its worker.
        if name in ("dataset", "_draws"):  # not there yet: being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _check_is_plain(rows: Any) -> None:
    """Raises ValueError for tensors of the mesh, of which each has its rows.

    What is done to them would be another program in each process.
    """
    if job.num_processes() == 1:
        return
    for leaf in pytree.tree_leaves(rows):
        if isinstance(leaf, torch.Tensor) and tensors.is_global(leaf):
            raise ValueError(
                "DataLoader: the dataset gives tensors of the mesh, which all "
                "processes would have to read together.\n"
                f"  the first  {tensors.layout(leaf)} of {tuple(leaf.shape)}\n"
                "Hint: keep the dataset in plain tensors or NumPy arrays: each "
                "process reads its rows, and the batch goes to the mesh. "
                "[mesh-rows]"
            )


class _Collate:
    """A `collate_fn` that lets a batch without rows pass."""

    def __init__(self, collate: Callable[[Any], Any], draws: _OwnDraws) -> None:
        self._collate = collate
        self._draws = draws

    def __call__(self, rows: Any) -> Any:
        if isinstance(rows, NoRows):
            return rows
        with self._draws:
            return self._collate(rows)


class _OwnDraws:
    """In this block the generators of the host are those of the rows' place.

    Processes that read the same rows draw the same. In a worker, whose
    generators are its own, it does nothing.

    Args:
        place: A number of the place.
    """

    def __init__(self, place: int) -> None:
        self._place = place
        self._own: Any = None
        self._shared: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_place": self._place, "_own": None, "_shared": None}

    def __enter__(self) -> None:
        if job.num_processes() == 1 or torch_data.get_worker_info() is not None:
            return
        self._shared = _states()
        if self._own is None:
            # Equal in all processes, and another one in each epoch.
            seed = zlib.crc32(bytes(self._shared[0].tolist()))
            _seed(seed + self._place)
        else:
            _set_states(self._own)

    def __exit__(self, *error: object) -> None:
        if self._shared is not None:
            self._own = _states()
            _set_states(self._shared)
            self._shared = None


class _StartOfWorker:
    """A `worker_init_fn` after which places draw different numbers."""

    def __init__(self, then: Any, place: int) -> None:
        self._then = then
        self._place = place

    def __call__(self, worker: int) -> None:
        info = torch_data.get_worker_info()
        if self._place and info is not None:
            _seed(info.seed + self._place)
        if self._then is not None:
            self._then(worker)


def _place_of_this_process(layout: Layout) -> int:
    """A number for the rows of this process; 0 for those of the first."""
    if job.num_processes() == 1:
        return 0
    places = batch_rows.places_of(layout, job.process_id())
    return places[0] << 20


def _states() -> tuple[torch.Tensor, Any, Any]:
    """Of torch's generator, Python's and NumPy's."""
    numpy = sys.modules.get("numpy")
    return (
        torch.get_rng_state(),
        random.getstate(),
        None if numpy is None else numpy.random.get_state(),
    )


def _set_states(states: tuple[torch.Tensor, Any, Any]) -> None:
    numpy = sys.modules.get("numpy")
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    if numpy is not None and states[2] is not None:
        numpy.random.set_state(states[2])


def _seed(seed: int) -> None:
    numpy = sys.modules.get("numpy")
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if numpy is not None:
        numpy.random.seed(seed % (1 << 32))
