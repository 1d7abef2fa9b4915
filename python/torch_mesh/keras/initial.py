"""Initial values in blocks, with the numbers of a plain CPU program.

A weight that is drawn whole would stand on the host in full, with temporaries
several times its size, before it is cut. Torch's CPU generator gives the same
bits when a tensor is drawn in blocks of a multiple of 16 elements (Box-Muller
works on 16 at a time), so large weights are drawn block by block into their
shards.

What to draw, and the drawing, is Keras's own (`draws`).
"""

from __future__ import annotations

from typing import Any

import torch
from keras.src.initializers import constant_initializers as constants

from torch_mesh import blocks
from torch_mesh.keras import compat, draws

core = compat.core()

# Elements of a block: 256 KiB of float32. A truncated normal takes 45 bytes of
# temporaries for each.
BLOCK_ELEMENTS = 2**16


def fill(value: torch.Tensor, initializer: Any, dtype: str) -> bool:
    """Writes initial values into a tensor of zeros, block by block.

    Args:
        value: A global tensor of zeros.
        initializer: A Keras initializer.
        dtype: Keras's name of the dtype to draw in.

    Returns:
        Whether it could: False, with nothing drawn, for an initializer whose
        values depend on each other (`Orthogonal`), or that is not Keras's.
    """
    if type(initializer) is constants.Zeros:
        return True
    constant = _constant(initializer, dtype)
    if constant is not None:
        block = constant.expand(min(BLOCK_ELEMENTS, value.numel()))
        for start in range(0, value.numel(), BLOCK_ELEMENTS):
            count = min(BLOCK_ELEMENTS, value.numel() - start)
            blocks.write_block(value, start, block[:count])
        return True
    draw = draws.of(initializer, tuple(value.shape), dtype)
    if draw is None:
        return False
    start = 0
    for block in draws.blocks_of(draw, sizes_of_blocks(value.numel())):
        blocks.write_block(value, start, block)
        start += block.numel()
    return True


def sizes_of_blocks(numel: int) -> list[int]:
    """Numbers of elements of the blocks that are drawn one after the other.

    Args:
        numel: Number of elements of the whole.

    Returns:
        List of sizes: all but the last a multiple of 16, the last at least 16
        if the whole is, because torch redraws the last 16 elements if their
        number is none.
    """
    sizes = [BLOCK_ELEMENTS] * (numel // BLOCK_ELEMENTS)
    rest = numel % BLOCK_ELEMENTS
    if 0 < rest < 16 and sizes:
        sizes[-1] -= 16
        rest += 16
    return sizes + [rest] * (rest > 0)


def _constant(initializer: Any, dtype: str) -> torch.Tensor | None:
    """The one value [1] of all elements, if there is one."""
    kind = type(initializer)
    if kind is not constants.Ones and not (
        kind is constants.Constant
        and isinstance(initializer.value, (bool, int, float))
    ):
        return None
    with core.device_scope("cpu"):
        return core.convert_to_tensor(initializer((1,), dtype=dtype))
