"""Large tensors in pieces, so that none is ever whole on a device.

Elements are numbered row-major by global index, whatever the layout. Values
pass from host memory to the shards and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from torch_mesh import _C, registration
from torch_mesh.layouts import Layout

# What is read or written at once, and larger than which a tensor is streamed.
BLOCK_BYTES = 2**20

Index = tuple[int | slice, ...]


def zeros(layout: Layout, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A new global tensor of zeros, made shard by shard.

    Args:
        layout: a `Layout`.
        sizes: global sizes.
        dtype: dtype of the elements.

    Raises:
        ValueError: if the layout does not fit the sizes.
    """
    registration.register()
    like = torch.empty((), dtype=dtype)
    return _C.zeros(layout._native, list(sizes), like)


def read_block(x: Tensor, start: int, count: int) -> Tensor:
    """Elements [start, start + count) as a plain CPU tensor [count].

    Args:
        x: a global tensor. Pending sums are reduced first.
        start: number of the first element.
        count: how many.

    Raises:
        ValueError: if `x` has not that many elements, or is not global.
    """
    return _C.read_block(x, start, count)


def write_block(x: Tensor, start: int, values: Tensor) -> None:
    """Writes elements from `start` on, in place; the layout stays.

    Args:
        x: a global tensor. No gradient flows through the write.
        start: number of the first element.
        values: plain CPU tensor, row-major; cast to the dtype of `x`.

    Raises:
        ValueError: if `x` has not that many elements, or is not global.
    """
    _C.write_block(x, start, values)


def pieces(
    sizes: Sequence[int], max_elements: int
) -> Iterator[tuple[Index, int, int]]:
    """Cuts a tensor of `sizes` into runs of elements that an index can name.

    Args:
        sizes: sizes of the tensor.
        max_elements: of a piece, at least 1.

    Yields:
        `(index, start, count)`: `t[index]` are the elements
        [start, start + count) of `t`.
    """
    # The first dim at which a piece can be a range of whole rows.
    dim = 0
    while dim < len(sizes) and math.prod(sizes[dim + 1 :]) > max_elements:
        dim += 1
    if dim == len(sizes):
        yield (), 0, 1
        return
    row = math.prod(sizes[dim + 1 :])
    step = max(1, max_elements // max(row, 1))
    outer = [range(size) for size in sizes[:dim]]
    start = 0
    for prefix in _product(outer):
        for first in range(0, sizes[dim], step):
            num = min(step, sizes[dim] - first)
            yield (*prefix, slice(first, first + num)), start, num * row
            start += num * row


def write(x: Tensor, part: Callable[[Index], Tensor]) -> None:
    """Writes a whole tensor, piece by piece.

    Args:
        x: a global tensor; it keeps its layout.
        part: gives the plain CPU tensor of the values at an index.
    """
    max_elements = max(1, BLOCK_BYTES // x.element_size())
    for index, start, _ in pieces(x.shape, max_elements):
        write_block(x, start, part(index))


def _product(ranges: list[range]) -> Iterator[tuple[int, ...]]:
    if not ranges:
        yield ()
        return
    for first in ranges[0]:
        for rest in _product(ranges[1:]):
            yield (first, *rest)
