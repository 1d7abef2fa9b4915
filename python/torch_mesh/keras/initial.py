"""Initial values in blocks, with the numbers of a plain CPU program.

A weight that is drawn whole would stand on the host in full, with temporaries
several times its size, before it is cut. Torch's CPU generator gives the same
bits when a tensor is drawn in blocks of a multiple of 16 elements (Box-Muller
works on 16 at a time), so large weights are drawn block by block into their
shards.

What to draw is asked of the initializer itself: Keras's `__call__` runs with a
recorder in the place of `keras.src.backend.random`, and the recorded call is
then carried out on blocks by Keras's own random functions, with one generator
for all of them. So no formula is repeated here.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from keras.src.initializers import constant_initializers as constants

from torch_mesh import blocks
from torch_mesh.keras import install

core = install.core()

# Elements of a block: 256 KiB of float32. A truncated normal takes 45 bytes of
# temporaries for each.
BLOCK_ELEMENTS = 2**16

_RANDOM_INITIALIZERS = "keras.src.initializers.random_initializers"


class Draw(NamedTuple):
    """A call of one of Keras's random functions.

    Attributes:
        function: "normal", "uniform" or "truncated_normal".
        shape: Of the result.
        arguments: All others, by name.
    """

    function: str
    shape: tuple[int, ...]
    arguments: dict[str, Any]


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
    draw = _recorded(initializer, tuple(value.shape), dtype)
    if draw is None:
        return False
    start = 0
    for block in _drawn(draw):
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


class _Recorder:
    """Stands for Keras's module of random functions, and notes the call."""

    def normal(self, shape: Any, *args: Any, **kwargs: Any) -> Draw:
        return self._note("normal", shape, ("mean", "stddev"), args, kwargs)

    def truncated_normal(self, shape: Any, *args: Any, **kwargs: Any) -> Draw:
        names = ("mean", "stddev")
        return self._note("truncated_normal", shape, names, args, kwargs)

    def uniform(self, shape: Any, *args: Any, **kwargs: Any) -> Draw:
        return self._note("uniform", shape, ("minval", "maxval"), args, kwargs)

    @staticmethod
    def _note(
        function: str,
        shape: Any,
        names: tuple[str, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Draw:
        given = dict(zip((*names, "dtype", "seed"), args, strict=False))
        return Draw(function, tuple(shape), {**given, **kwargs})


def _recorded(
    initializer: Any, shape: tuple[int, ...], dtype: str
) -> Draw | None:
    """What one of Keras's initializers would draw."""
    method = type(initializer).__call__
    if (
        not isinstance(method, types.FunctionType)
        or method.__module__ != _RANDOM_INITIALIZERS
        or "random" not in method.__code__.co_names
    ):
        return None
    try:
        with core.device_scope("cpu"):
            draw = _with_globals(method, random=_Recorder())(
                initializer, shape, dtype=dtype
            )
    except Exception:  # it works on what it has drawn
        return None
    if not isinstance(draw, Draw) or draw.shape != shape:
        return None
    return draw


def _drawn(draw: Draw) -> Iterator[torch.Tensor]:
    """The blocks of a draw, in order, as plain CPU tensors."""
    from keras.src.backend.torch import random

    with core.device_scope("cpu"):
        generator = random.torch_seed_generator(draw.arguments["seed"])
        names = {"torch_seed_generator": lambda seed: generator}
        function = _with_globals(getattr(random, draw.function), **names)
        if draw.function == "truncated_normal":
            normal = _with_globals(random.normal, **names)
            function = _with_globals(function, normal=normal)
    for size in sizes_of_blocks(math.prod(draw.shape)):
        with core.device_scope("cpu"):
            block = function((size,), **draw.arguments)
        yield block


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


def _with_globals(function: Any, **names: Any) -> Any:
    """A function that sees other objects under some global names."""
    made = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made
