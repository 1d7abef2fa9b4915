"""Feeding a mesh: a loader of which each process reads its own rows alone."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils import data as torch_data

from torch_mesh import _C, batch_facts, reading, registration
from torch_mesh.layouts import Layout, Mesh, check_member
from torch_mesh.reading import OwnRows
from torch_mesh.shared_batches import Ended, SharedBatches, compare_at_start

_PLAIN_NODES = (dict, collections.OrderedDict, collections.defaultdict)
_PLAIN_LEAVES = (torch.Tensor, str, bytes, bool, int, float, complex)


class DistributedBatchSampler(OwnRows):
    """Batches of indices into a dataset, of which each process gets its rows.

    All processes draw the same batches: cut of one permutation, which follows
    from the seed and the epoch, or of the dataset's own order. A batch need not
    divide, and a process without a row of it gets an empty list.

    Each pass is an epoch of its own, counted from 0.

    Args:
        data_source: Whatever has a length, the same in all processes.
        batch_size: Rows of a whole batch, over all processes.
        shuffle: Whether each epoch has an order of its own.
        drop_last: Whether a last batch that is smaller is left out.
        seed: Of the shuffle. The same in all processes.
        mesh: A `Mesh`. None stands for that in force.
        batch: Name of the mesh axis that cuts batches, or several names. None
            stands for what `use` has been told, or the only axis.

    Raises:
        ValueError: if no mesh or axis is known, or `batch_size` is no number of
            rows.
    """

    def __init__(
        self,
        data_source: Sized,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        *,
        mesh: Mesh | None = None,
        batch: str | Iterable[str] | None = None,
    ) -> None:
        layout = layout_of_batches("DistributedBatchSampler", mesh, batch)
        order = _Shuffled(data_source, batch_size, shuffle, drop_last, seed)
        super().__init__(order, layout)
        self._order = order

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of an epoch.

        Args:
            epoch: From 0. If a state was loaded in the middle of this one, the
                pass goes on there.
        """
        self._order.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Which batch is the next one to be given.

        Workers of a loader ask ahead of what the program has seen; a
        `torch_mesh.DataLoader` knows better.

        Returns:
            Dict of numbers, the same in all processes.
        """
        return self._order.state_dict(self._order.at)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called, in as many processes or not.

        Args:
            state: What `state_dict` gave.

        Raises:
            ValueError: if it is of other batches.
        """
        self._order.load_state_dict(state)


class DataLoader(torch_data.DataLoader[Any]):
    """A `torch.utils.data.DataLoader` whose batches are global tensors.

    Each process reads the rows of its own devices, in the main process or in
    workers, and nothing is sent but a few facts that are compared. In one
    process it is torch's loader, with batches on the mesh.

    Each pass is an epoch of its own, counted from 0; with `shuffle` its order
    follows from `seed` and the epoch.

    Args:
        dataset: A map-style dataset, the same in all processes.
        batch_size: Rows of a whole batch, over all processes. They need not
            divide.
        shuffle: Whether each epoch has an order of its own.
        sampler: Gives indices instead, the same in all processes.
        batch_sampler: Gives lists of indices, the same in all processes.
        num_workers: As for torch's; in each process.
        collate_fn: Makes a batch of a list of rows. Among processes it gets the
            rows of this process, so it must not depend on which rows are
            together; rows must have one size in all processes. None is torch's
            `default_collate`.
        drop_last: Whether a last batch that is smaller is left out.
        seed: Of the shuffle. The same in all processes.
        mesh: A `Mesh`. None stands for that in force.
        batch: Name of the mesh axis that cuts batches, or several names. None
            stands for what `use` has been told, or the only axis.
        options: Other keyword arguments of torch's DataLoader.

    Raises:
        TypeError: if the dataset is iterable only.
        ValueError: if arguments exclude each other, or no mesh or axis is
            known.

    A pass raises `ValueError` [processes-differ] in all processes if their
    batches do not fit together.

    Example:
        >>> mesh = Mesh({"data": 2})
        >>> rows = torch.arange(10.0).reshape(5, 2)
        >>> [x.shape[0] for x in DataLoader(rows, 3, mesh=mesh)]
        [3, 2]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        *,
        drop_last: bool = False,
        seed: int = 0,
        mesh: Mesh | None = None,
        batch: str | Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        if (
            isinstance(dataset, torch_data.IterableDataset)
            or batch_size is None
        ):
            raise TypeError(
                "DataLoader: a map-style dataset and a batch_size are due, and "
                f"these are {type(dataset).__name__} and {batch_size}.\n"
                "Hint: cut batches of a torch DataLoader with torch_mesh."
                'use(mesh, batch=...) and x.to("mesh"). [argument-type]'
            )
        layout = layout_of_batches("DataLoader", mesh, batch)
        # torch checks which arguments exclude each other.
        plain = torch_data.DataLoader(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            drop_last=drop_last,
        )
        if sampler is None and batch_sampler is None:
            shuffles = bool(shuffle)
            order: _Order = _Shuffled(
                dataset, batch_size, shuffles, drop_last, seed
            )
        else:
            order = _Given(plain.batch_sampler, dataset)
        collate = collate_fn or torch_data.default_collate
        start = options.pop("worker_init_fn", None)
        super().__init__(
            num_workers=num_workers,
            **reading.how_to_read(
                dataset, OwnRows(order, layout), collate, start
            ),
            **options,
        )
        self._mesh_order = order
        self._mesh_layout = layout
        # Where the program is: the batch that it has not seen yet.
        self._mesh_at: tuple[int, int] | None = None
        # Batches that torch's own collate_fn makes are alike.
        self._mesh_speaks = collate_fn is not None or order.count() is None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self._mesh_pass()

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of an epoch.

        Args:
            epoch: From 0. If a state was loaded in the middle of this one, the
                pass goes on there.
        """
        self._mesh_order.set_epoch(epoch)
        self._mesh_at = None

    def state_dict(self) -> dict[str, Any]:
        """Which batch is the next one that the program has not seen.

        What a dataset draws is no part of it.

        Returns:
            Dict of numbers, the same in all processes.
        """
        at = self._mesh_at or self._mesh_order.next
        return self._mesh_order.state_dict(at)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called, in as many processes or not.

        Args:
            state: What `state_dict` gave.

        Raises:
            ValueError: if it is of other batches.
        """
        self._mesh_order.load_state_dict(state)
        self._mesh_at = None

    def _mesh_pass(self) -> Iterator[Any]:
        """The batches of a pass, which begins with the first of them."""
        order, layout = self._mesh_order, self._mesh_layout
        epoch, place = order.next
        compare_at_start(
            "DataLoader",
            layout,
            {
                "number of batches": order.count(),
                **order.state_dict(order.next),
            },
            "let all processes have the same dataset, arguments and state.",
        )
        shared = SharedBatches(
            "DataLoader", layout, says_always=self._mesh_speaks
        )
        source = super().__iter__()
        rows = self.batch_sampler
        assert isinstance(rows, OwnRows)
        due = rows.due
        for read in source:
            batch = shared.join_rows(
                plain_batch("DataLoader: collate_fn", read), due.popleft()
            )
            place += 1
            self._mesh_at = epoch, place
            yield batch
        if self._mesh_speaks:
            shared.join_rows(Ended(), None)
        self._mesh_at = epoch + 1, 0


class _Order:
    """Whole batches of indices, epoch after epoch.

    Attributes:
        next: Epoch, and the number of the first batch, of the next pass.
        at: The same of the batch that comes next in the present pass.
    """

    def __init__(self) -> None:
        self.next = (0, 0)
        self.at = (0, 0)

    def count(self) -> int | None:
        """Number of batches of an epoch, None if nobody knows."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What a state must have been saved with."""
        raise NotImplementedError

    def batches(self, epoch: int) -> Iterable[list[Any]]:
        """The whole batches of an epoch."""
        raise NotImplementedError

    def __len__(self) -> int:
        count = self.count()
        if count is None:
            raise TypeError("the batch_sampler has no length")
        return count

    def __iter__(self) -> Iterator[list[Any]]:
        # A pass begins with its first batch: a loader with workers makes two
        # iterators, and uses the second.
        epoch, start = self.at = self.next
        self.next = epoch + 1, 0
        for place, batch in enumerate(self.batches(epoch)):
            if place >= start:
                self.at = epoch, place + 1
                yield batch
        self.at = epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        if self.next[0] != epoch:
            self.next = self.at = epoch, 0

    def state_dict(self, at: tuple[int, int]) -> dict[str, Any]:
        return {"epoch": at[0], "batch": at[1], **self.settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in self.settings().items():
            if state.get(name) != value:
                raise ValueError(
                    f"load_state_dict: the state is of other batches.\n"
                    f"  {name}  {state.get(name)}, here {value}\n"
                    "Hint: make the loader with the arguments that it had when "
                    "the state was saved; the number of processes may change. "
                    "[loader-state]"
                )
        self.next = self.at = int(state["epoch"]), int(state["batch"])


class _Shuffled(_Order):
    """Batches of all rows, in their order or in that of a permutation."""

    def __init__(
        self,
        source: Sized,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self._source = source
        self._shuffle = shuffle
        self._seed = seed
        # torch checks the two.
        self._cut = torch_data.BatchSampler((), batch_size, drop_last)

    def count(self) -> int:
        rows, size = len(self._source), self._cut.batch_size
        return rows // size if self._cut.drop_last else -(-rows // size)

    def settings(self) -> dict[str, Any]:
        return {
            "rows": len(self._source),
            "batch_size": self._cut.batch_size,
            "drop_last": self._cut.drop_last,
            "seed": self._seed if self._shuffle else None,
        }

    def batches(self, epoch: int) -> Iterable[list[int]]:
        rows = len(self._source)
        order: Any = range(rows)
        if self._shuffle:
            generator = torch.Generator().manual_seed(self._seed + epoch)
            order = torch.randperm(rows, generator=generator).tolist()
        return torch_data.BatchSampler(
            order, self._cut.batch_size, self._cut.drop_last
        )


class _Given(_Order):
    """The batches of somebody's sampler."""

    def __init__(self, batches: Any, source: Any) -> None:
        super().__init__()
        self._batches = batches
        self._source = source

    def count(self) -> int | None:
        try:
            return len(self._batches)
        except (TypeError, NotImplementedError):
            return None

    def settings(self) -> dict[str, Any]:
        return {
            "rows": len(self._source),
            "batch_size": getattr(self._batches, "batch_size", None),
            "drop_last": getattr(self._batches, "drop_last", None),
        }

    def batches(self, epoch: int) -> Iterable[list[Any]]:
        batches: Any = self._batches
        for sampler in (batches, getattr(batches, "sampler", None)):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        return batches


def layout_of_batches(
    op: str, mesh: Mesh | None, batch: str | Iterable[str] | None
) -> Layout:
    """S0 on the axes that cut batches, R on all others.

    Args:
        op: Whom an error is to name.
        mesh: None: the one in force.
        batch: Axes; None: those of the mesh in force, or the only one.

    Raises:
        ValueError: if there is no mesh, or nobody says which axes.
    """
    in_force = Layout._of(_C.layout_in_force())
    if mesh is None:
        mesh = in_force.mesh
    names = [batch] if isinstance(batch, str) else batch
    if names is None and mesh == in_force.mesh:
        names = [
            name
            for name, placement in zip(
                mesh.axis_names, in_force.placements, strict=True
            )
            if placement == "S0"
        ]
    names = list(names or ())
    if not names and len(mesh.axis_names) == 1:
        names = list(mesh.axis_names)
    if not names:
        axes = ", ".join(mesh.axis_names) or "no mesh is in force"
        raise ValueError(
            f"{op}: no axis of a mesh is named that cuts batches.\n"
            f"  axes  {axes}\n"
            "Hint: give mesh= and batch=, or make it within "
            "torch_mesh.use(mesh, batch=...). [batch-axis]"
        )
    check_member(op, mesh)
    registration.register()
    return Layout(mesh, dict.fromkeys(names, "S0"))


def plain_batch(op: str, batch: Any) -> Any:
    """A batch of plain dicts, lists and tuples, with tensors for arrays.

    Args:
        op: Whom an error is to name: who gives the batch.
        batch: Structure of anything.

    Raises:
        TypeError: of what may hold rows that nobody finds.
    """

    def plain(leaf: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if isinstance(leaf, Mapping):
            return plain_batch(op, dict(leaf))
        if numpy is not None and isinstance(leaf, numpy.ndarray):
            return torch.as_tensor(leaf)
        if (
            leaf is None
            or isinstance(leaf, (*_PLAIN_LEAVES, reading.NoRows))
            or batch_facts.are_texts(leaf)
        ):
            return leaf
        raise TypeError(
            f"{op} gives a {type(leaf).__name__}, in which no rows are found.\n"
            "Hint: let it give dicts, lists or tuples of tensors. "
            "[argument-type]"
        )

    return pytree.tree_map(
        plain,
        batch,
        is_leaf=lambda node: (
            batch_facts.are_texts(node)
            or (isinstance(node, Mapping) and type(node) not in _PLAIN_NODES)
        ),
    )
