"""Batches that several processes hand in for one: compared, and put together.

A batch is handed in whole by each process; or each has read its own rows of
it; or each has a part of its own, of any number of rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from torch_mesh import agreement, batch_facts, batch_rows, job
from torch_mesh.batch_facts import Leaf
from torch_mesh.layouts import Layout
from torch_mesh.reading import Due, NoRows

# Checksums are compared at the first batch of a pass, and as often as this.
_EVERY = 100

_WHOLE = (
    "each process makes the same whole batch: seed alike what it draws, or set "
    "auto_shard_dataset=False if each has rows of its own."
)
_ORDER = (
    "all processes draw the same batches of indices, of which each reads its "
    "rows: leave out a DistributedSampler, and seed samplers alike."
)
_FIT = (
    "let all processes make batches of one structure and dtype, whose rows "
    "have one size."
)
_SHARED = "processes that have the same rows of a batch hand in the same."


class Ended:
    """What comes after the last batch."""


class _Heard(NamedTuple):
    """What a process says of its batch.

    Attributes:
        leaves: Those of what it has; None if it has no rows.
        skeleton: The structure of it.
        whole_rows: Number of rows of the whole batch, where that is known.
        order: Checksum of its indices; None if nobody asked.
    """

    leaves: list[Leaf] | None
    skeleton: Any
    whole_rows: int | None
    order: int | None


class SharedBatches:
    """The batches of one pass, as all processes of a mesh have them.

    All processes of the mesh call the same method, as often. An error of one is
    an error of all.

    Args:
        op: Whom an error is to name.
        layout: S0 on the axes that cut the batch, R on all others.
        names: What the elements of a batch are called that is a tuple.
        says_always: Whether each batch is spoken of, and not only every
            hundredth: where shapes may differ, or a process may end early.
    """

    def __init__(
        self,
        op: str,
        layout: Layout,
        names: Sequence[str] = (),
        says_always: bool = False,
    ) -> None:
        self._op = op
        self._layout = layout
        self._names = names
        self._says_always = says_always
        self._number = -1  # of the batch
        self._mine = job.process_id()
        self._is_alone = len(layout.mesh.processes) == 1

    def compare_whole(self, batch: Any) -> None:
        """Compares batches that are to be equal in all processes.

        Args:
            batch: Structure of plain tensors, or `Ended`.

        Raises:
            ValueError: if they differ, or not all have ended.
        """
        is_due = self._next()
        if self._is_alone or not (is_due or self._says_always):
            return
        said = self._say(batch, is_due)
        self._check_that_all_go_on(said, list(said))
        self._check(_with_leaves(said), True, _WHOLE)

    def join_rows(self, read: Any, due: Due | None) -> Any:
        """The batch of which each process has read its own rows.

        Args:
            read: Structure of plain tensors, `NoRows`, or `Ended`.
            due: Which batch it is; None at the end.

        Returns:
            The structure, with global tensors; `Ended` at the end. A tensor
            without dims, or of another number of rows, and what is no tensor
            stay as they are.

        Raises:
            ValueError: if processes have read rows of other batches, or rows
                that do not fit together.
        """
        is_due = self._next()
        count = None if due is None else len(due.indices)
        if not self._is_alone and (
            is_due or self._says_always or self._leaves_one_out(count)
        ):
            order = _checksum_of_order(due) if is_due else None
            mine = 0 if due is None else batch_rows.count_of(due.runs)
            said = self._say(read, is_due, (count, order), mine)
            self._check_that_all_go_on(said, list(said))
            self._check_order(said)
            self._check_rows(_with_leaves(said))
            if isinstance(read, NoRows):
                read = _empty(said)
        return read if due is None else self._whole(read, due)

    def join_parts(
        self,
        part: Any,
        join: Callable[[torch.Tensor, dict[int, int]], torch.Tensor],
    ) -> Any:
        """The batch of which each process has a part of its own.

        A process that has ended takes part with no rows, until all have ended.

        Args:
            part: Structure of plain tensors, or `Ended`.
            join: Makes a global tensor of a part and the number of rows of each
                process.

        Returns:
            The structure, with global tensors; `Ended` if all have ended.

        Raises:
            ValueError: if the parts do not fit together, or processes that
                share a part have not the same.
        """
        is_due = self._next() and any(len(g) > 1 for g in self._groups())
        said = self._say(part, is_due)
        there = _with_leaves(said)
        if not there:
            return part
        for group in self._groups():
            self._check_that_all_go_on(said, group)
        self._check_rows(there)
        if isinstance(part, Ended):
            part = _empty(said)
        leaves, spec = pytree.tree_flatten(part, is_leaf=batch_facts.are_texts)
        joined = [
            join(leaf, _rows_of_each(said, place))
            if batch_facts.has_rows(leaf)
            else leaf
            for place, leaf in enumerate(leaves)
        ]
        return pytree.tree_unflatten(joined, spec)

    def _whole(self, read: Any, due: Due) -> Any:
        """The batch of the rows that this process has read."""
        count, mine = len(due.indices), batch_rows.count_of(due.runs)

        def whole(leaf: Any) -> Any:
            if not batch_facts.has_rows(leaf, mine):
                return leaf
            return batch_rows.with_rows_of(
                self._layout, leaf, count, self._mine
            )

        return pytree.tree_map(whole, read, is_leaf=batch_facts.are_texts)

    def _next(self) -> bool:
        """Goes to the next batch; whether its checksums are compared."""
        self._number += 1
        return self._number % _EVERY == 0

    def _say(
        self,
        batch: Any,
        is_due: bool,
        order: tuple[int | None, int | None] = (None, None),
        rows: int | None = None,
    ) -> dict[int, _Heard | None]:
        """What each process says of its batch; None of one that has ended."""
        facts: Any = None
        if isinstance(batch, NoRows):
            facts = [None, None, *order]
        elif not isinstance(batch, Ended):
            leaves = batch_facts.leaves_of(batch, self._names, is_due, rows)
            facts = [leaves, batch_facts.skeleton_of(batch), *order]
        return {
            process: _heard(said)
            for process, said in agreement.said_by_each(
                self._layout.mesh, facts
            ).items()
        }

    def _leaves_one_out(self, count: int | None) -> bool:
        """Whether a process has no row of a batch of so many."""
        return count is not None and any(
            not batch_rows.rows_of(self._layout, count, process)
            for process in self._layout.mesh.processes
        )

    def _groups(self) -> list[list[int]]:
        """The processes that have the same rows."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for process in self._layout.mesh.processes:
            places = batch_rows.places_of(self._layout, process)
            groups.setdefault(places, []).append(process)
        return list(groups.values())

    def _check_that_all_go_on(
        self, said: Mapping[int, _Heard | None], group: list[int]
    ) -> None:
        ended = [process for process in group if said[process] is None]
        if ended and len(ended) < len(group):
            raise self._refuse(
                "some processes have no more batches, and others have.",
                ("batch", self._number),
                {p: "ended" if p in ended else "goes on" for p in group},
                "let all processes make as many batches.",
            )

    def _check_order(self, said: Mapping[int, _Heard | None]) -> None:
        orders = {
            process: f"{heard.whole_rows} rows"
            + ("" if heard.order is None else f", checksum {heard.order:08x}")
            for process, heard in said.items()
            if heard is not None
        }
        if len(set(orders.values())) > 1:
            raise self._refuse(
                "the processes read different batches.",
                ("batch", self._number),
                orders,
                _ORDER,
            )

    def _check_rows(self, there: dict[int, list[Leaf]]) -> None:
        """Checks that rows fit together, and that shared ones are the same."""
        self._check(there, False, _FIT)
        for group in self._groups():
            shared = {p: there[p] for p in group if p in there}
            self._check(shared, True, _SHARED)

    def _check(
        self, said: dict[int, list[Leaf]], is_same: bool, hint: str
    ) -> None:
        """Checks that leaves are the same in all processes, or at least alike.

        Args:
            said: By each process.
            is_same: Which of the two.
            hint: What to do if not.
        """
        if not said:
            return
        found = batch_facts.first_difference(said, is_same)
        if found is not None:
            raise self._refuse(
                f"the processes have different batches (batch {self._number}).",
                ("input", found[0]),
                found[1],
                hint,
            )

    def _refuse(
        self,
        what: str,
        subject: tuple[str, Any],
        said: dict[int, Any],
        hint: str,
    ) -> ValueError:
        return refusal(self._op, what, subject, said, hint)


def compare_at_start(
    op: str, layout: Layout, facts: dict[str, Any], hint: str
) -> None:
    """Compares what the processes say of a pass before its first batch.

    Args:
        op: Whom an error is to name.
        layout: On the mesh whose processes call this.
        facts: Name to value, of what JSON knows.
        hint: What to do if they differ.

    Raises:
        ValueError: with the values of each process, if they differ.
    """
    said = agreement.said_by_each(layout.mesh, facts)
    for name, value in facts.items():
        values = {p: heard.get(name) for p, heard in said.items()}
        if any(other != value for other in values.values()):
            raise refusal(
                op,
                "the processes do not have the same.",
                ("what", name),
                {p: "unknown" if v is None else v for p, v in values.items()},
                hint,
            )


def refusal(
    op: str,
    what: str,
    subject: tuple[str, Any],
    said: dict[int, Any],
    hint: str,
) -> ValueError:
    """The error of processes that have not the same.

    Args:
        op: Whom it names first.
        what: What is wrong, in a few words.
        subject: A word and a value: which input or batch it is.
        said: What each process has.
        hint: What to do.
    """
    width = max(len(subject[0]), *(len(f"process {i}") for i in said))
    lines = [f"  {subject[0]:<{width}}  {subject[1]}\n"]
    for process, value in said.items():
        own = " (this one)" if process == job.process_id() else ""
        name = f"process {process}"
        lines.append(f"  {name:<{width}}  {value}{own}\n")
    return ValueError(
        f"{op}: {what}\n{''.join(lines)}Hint: {hint} [processes-differ]"
    )


def _heard(said: Any) -> _Heard | None:
    if said is None:
        return None
    leaves, skeleton, count, order = said
    if leaves is not None:
        leaves = [batch_facts.leaf_heard(leaf) for leaf in leaves]
    return _Heard(leaves, skeleton, count, order)


def _with_leaves(said: Mapping[int, _Heard | None]) -> dict[int, list[Leaf]]:
    """What is said by those who have rows."""
    return {
        process: heard.leaves
        for process, heard in said.items()
        if heard is not None and heard.leaves is not None
    }


def _rows_of_each(
    said: Mapping[int, _Heard | None], place: int
) -> dict[int, int]:
    """How many rows each process has of a leaf; none if it has ended."""
    rows = {}
    for process, heard in said.items():
        leaves = heard.leaves if heard is not None else None
        shape = leaves[place].shape if leaves is not None else None
        rows[process] = shape[0] if shape else 0
    return rows


def _empty(said: Mapping[int, _Heard | None]) -> Any:
    """A batch without rows, like those of the others."""
    heard = next(h for h in said.values() if h is not None and h.leaves)
    return batch_facts.without_rows(heard.skeleton, heard.leaves or ())


def _checksum_of_order(due: Due | None) -> int | None:
    if due is None:
        return None
    return zlib.crc32(repr(due.indices).encode())
