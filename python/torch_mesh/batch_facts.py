"""What a process says of a batch, and an error where two say different things.

Of each leaf: its name, dtype, shape, and where asked a checksum of all its
bytes, 0.4 ms for 1 MiB.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

_NO_ROWS = " (no rows)"


class Leaf(NamedTuple):
    """What is said of one leaf of a batch.

    Attributes:
        name: Where it stands, such as "x" or "batch[0]['image']".
        kind: The dtype of a tensor, the type of anything else.
        shape: Of a tensor; None for anything else.
        checksum: Of what it holds; None if nobody asked. What is no rows is to
            be the same in all processes, and always has one.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    checksum: int | None

    def __str__(self) -> str:
        text = self.kind
        if self.shape is not None:
            text += f"[{', '.join(map(str, self.shape))}]"
        if self.checksum is not None:
            text += f", checksum {self.checksum:08x}"
        return text


def leaves_of(
    batch: Any, names: Sequence[str], is_summed: bool, rows: int | None = None
) -> list[Leaf]:
    """What is to be said of a batch.

    Args:
        batch: Structure of tensors, or of anything.
        names: What the elements are called of a batch that is a tuple or list.
        is_summed: Whether a checksum is asked for.
        rows: How many rows it has; tensors of another number are none. None
            where all tensors are rows that have a dim.
    """
    pairs, _ = pytree.tree_flatten_with_path(batch, is_leaf=are_texts)
    return [
        _leaf(_name(path, names), value, is_summed, rows)
        for path, value in pairs
    ]


def leaf_heard(said: Any) -> Leaf:
    """A `Leaf` as JSON brings it."""
    name, kind, shape, checksum = said
    return Leaf(name, kind, None if shape is None else tuple(shape), checksum)


def has_rows(value: Any, rows: int | None = None) -> bool:
    """Whether a leaf is a tensor of rows, of so many where that is said."""
    return (
        isinstance(value, torch.Tensor)
        and value.dim() > 0
        and rows in (None, value.shape[0])
    )


def checksum_of(value: Any) -> int | None:
    """A checksum of a strided tensor or a plain value, None for all else."""
    if isinstance(value, torch.Tensor):
        return _checksum_of_tensor(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return zlib.crc32(repr(value).encode())
    if isinstance(value, (list, tuple)):
        return zlib.crc32(repr(value).encode())
    return None


def are_texts(value: Any) -> bool:
    """Whether a value is a list of texts: a leaf, with one for each row."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(text, (str, bytes)) for text in value
    )


def skeleton_of(batch: Any) -> Any:
    """The structure of a batch, as JSON takes it; leaves are 0."""
    if are_texts(batch):
        return 0
    if isinstance(batch, dict):
        return {"dict": [[key, skeleton_of(v)] for key, v in batch.items()]}
    if isinstance(batch, tuple):
        return {"tuple": [skeleton_of(value) for value in batch]}
    if isinstance(batch, list):
        return {"list": [skeleton_of(value) for value in batch]}
    return 0


def without_rows(skeleton: Any, leaves: Iterable[Leaf]) -> Any:
    """A batch of no rows.

    Args:
        skeleton: The structure of a batch that has rows.
        leaves: What is said of its leaves.

    Returns:
        The structure, with empty tensors and lists of texts. What is neither is
        None, and a named tuple is a plain one.
    """
    return _without_rows(skeleton, iter(leaves))


def first_difference(
    said: dict[int, list[Leaf]], is_same: bool
) -> tuple[str, dict[int, str]] | None:
    """The first leaf that is not alike in all processes.

    Args:
        said: What each process says of its batch; at least one does.
        is_same: Whether leaves are to be the same, and not only alike: of one
            dtype and of rows of one size.

    Returns:
        Its name, and what each process says of it; None if there is none.
    """
    for place in range(max(map(len, said.values()))):
        there = {
            process: leaves[place] if place < len(leaves) else None
            for process, leaves in said.items()
        }
        if len({_compared(leaf, is_same) for leaf in there.values()}) > 1:
            name = next(leaf.name for leaf in there.values() if leaf)
            return name, {
                process: "nothing" if leaf is None else _shown(leaf, name)
                for process, leaf in there.items()
            }
    return None


def _shown(leaf: Leaf, name: str) -> str:
    return str(leaf) if leaf.name == name else f'{leaf} as "{leaf.name}"'


def _compared(leaf: Leaf | None, is_same: bool) -> Leaf | None:
    has_no_rows = leaf is not None and leaf.kind.endswith(_NO_ROWS)
    if leaf is None or is_same or has_no_rows:
        return leaf
    shape = leaf.shape and (0, *leaf.shape[1:])
    return leaf._replace(shape=shape, checksum=None)


def _leaf(name: str, value: Any, is_summed: bool, rows: int | None) -> Leaf:
    shape, kind = None, type(value).__name__
    if isinstance(value, torch.Tensor):
        shape = tuple(value.shape)
        kind = str(value.dtype).removeprefix("torch.")
    if not (has_rows(value, rows) or are_texts(value)):
        kind, is_summed = kind + _NO_ROWS, True
    return Leaf(name, kind, shape, checksum_of(value) if is_summed else None)


def _name(path: tuple[Any, ...], names: Sequence[str]) -> str:
    head, rest = "batch", path
    if path and names:
        place = getattr(path[0], "idx", None)
        if place is not None and place < len(names):
            head, rest = names[place], path[1:]
    return head + pytree.keystr(rest)


def _checksum_of_tensor(x: torch.Tensor) -> int | None:
    if x.layout != torch.strided or not x.is_cpu:
        return None
    x = x.detach().resolve_conj().resolve_neg().contiguous()
    if not x.nbytes:
        return 0
    held = (ctypes.c_char * x.nbytes).from_address(x.data_ptr())
    return zlib.crc32(held)


def _without_rows(skeleton: Any, leaves: Any) -> Any:
    if skeleton == 0:
        leaf = next(leaves)
        if not leaf.shape or leaf.kind.endswith(_NO_ROWS):
            return [] if leaf.kind in ("list", "tuple") else None
        dtype = getattr(torch, leaf.kind)
        return torch.empty((0, *leaf.shape[1:]), dtype=dtype)
    kind, members = next(iter(skeleton.items()))
    if kind == "dict":
        return {key: _without_rows(value, leaves) for key, value in members}
    made = [_without_rows(value, leaves) for value in members]
    return tuple(made) if kind == "tuple" else made
