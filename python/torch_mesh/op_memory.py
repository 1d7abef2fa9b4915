"""Where the values of a call lie: whose memory they share, who holds copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from torch_mesh import _C
from torch_mesh.rounding import value_of


class PlainMemory:
    """Gives plain tensors that lie to one another as global ones do.

    Attributes:
        unwritten: Set of the memories, by `memory_of`, in which nothing stood.
    """

    def __init__(self, written: list[Any]) -> None:
        self.unwritten: set[int] = set()
        self._written = {id(tensor) for tensor in written}
        self._bases: dict[int, torch.UntypedStorage] = {}
        self._found: dict[int, torch.Tensor] = {}

    def __call__(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.device) and leaf.type == "mesh":
            return torch.device("cpu")
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf._is_zerotensor():
            found = value_of(leaf)
        elif _C.is_global(leaf):
            found = self._of_global(leaf.detach())
        elif id(leaf) in self._written:
            found = torch.empty_strided(
                leaf.shape, leaf.stride(), dtype=leaf.dtype
            ).copy_(leaf.detach())
        else:
            found = leaf.detach()
        self._found[id(leaf)] = found
        return found

    def of(self, leaf: torch.Tensor) -> torch.Tensor:
        """The plain tensor that stood for `leaf`."""
        return self._found[id(leaf)]

    def _of_global(self, x: torch.Tensor) -> torch.Tensor:
        key = memory_of(x)
        if key not in self._bases:
            if _C.is_unwritten(x):
                self.unwritten.add(key)
            self._bases[key] = bytes_of(x)
        found = torch.empty(0, dtype=x.dtype).set_(
            self._bases[key], x.storage_offset(), x.shape, x.stride()
        )
        if x.is_conj():
            found = torch._conj(found)
        return torch._neg_view(found) if x.is_neg() else found


def bytes_of(x: torch.Tensor) -> torch.UntypedStorage:
    """What the storage of `x` holds, without a change to its state."""
    size = x.untyped_storage().nbytes()
    if _C.is_unwritten(x):
        return torch.zeros(size, dtype=torch.uint8).untyped_storage()
    if not _C.layout_of(x).has_partial:
        return x.untyped_storage().cpu()
    base = torch.zeros(size, dtype=torch.uint8).untyped_storage()
    torch.empty(0, dtype=x.dtype).set_(
        base, x.storage_offset(), x.shape, x.stride()
    ).copy_(value_of(x))
    return base


def strides_of(x: torch.Tensor) -> list[int]:
    """Strides that say where an element lies."""
    if x.layout != torch.strided or x.numel() == 0:
        return []
    return [
        stride
        for stride, size in zip(x.stride(), x.shape, strict=True)
        if size > 1
    ]


def copies_of(layout: _C.Layout) -> Iterator[tuple[int, int]]:
    """Devices that hold the same in different memories, the first of each."""
    lanes = layout.lane_of_device
    first: dict[tuple[int, ...], int] = {}
    sizes = [size for _, size in layout.mesh.axes]
    places = itertools.product(*(range(size) for size in sizes))
    for device, place in enumerate(places):
        shard = tuple(
            0 if placement == "R" else index
            for index, placement in zip(place, layout.placements, strict=True)
        )
        holder = first.setdefault(shard, device)
        if lanes[holder] != lanes[device]:
            yield holder, device


def memory_of(x: torch.Tensor) -> int:
    """A number for each storage; 0 for a tensor that has none."""
    if not _has_memory(x):
        return 0
    return x.untyped_storage().data_ptr()


def shared(results: list[Any], arguments: list[Any]) -> list[bool]:
    """Of each result, whether it lies in the memory of an argument."""
    memories = {memory_of(x) for x in arguments if isinstance(x, torch.Tensor)}
    memories.discard(0)
    return [
        isinstance(x, torch.Tensor) and memory_of(x) in memories
        for x in results
    ]


def _has_memory(x: torch.Tensor) -> bool:
    return (
        x.layout == torch.strided
        and not x.is_nested
        and not x._is_zerotensor()
        and x.untyped_storage().nbytes() > 0
    )
