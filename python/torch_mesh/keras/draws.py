"""What an initializer draws: noted first, and then drawn in blocks.

Keras's random functions are patched (`patches.py`). While a thread asks an
initializer what it draws, they note the call in the place of drawing; while it
draws blocks, all of them draw from one generator. So no formula of Keras's is
repeated here.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from keras.src.backend.torch import random

from torch_mesh.keras import compat

core = compat.core()

_RANDOM_INITIALIZERS = "keras.src.initializers.random_initializers"
_PATCHED = ("normal", "truncated_normal", "uniform", "torch_seed_generator")

# Threads that note draws, and the generators of those that draw blocks. Empty
# but for the moment, so that all other calls ask one short question.
_noting: set[int] = set()
_generators: dict[int, torch.Generator] = {}


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


def of(initializer: Any, shape: tuple[int, ...], dtype: str) -> Draw | None:
    """What one of Keras's initializers would draw.

    Args:
        initializer: Any initializer.
        shape: Of the weight.
        dtype: Keras's name of the dtype to draw in.

    Returns:
        None, with nothing drawn, for an initializer that works on what it has
        drawn (`Orthogonal`), or that is not Keras's.
    """
    if type(initializer).__call__.__module__ != _RANDOM_INITIALIZERS or not all(
        hasattr(getattr(random, name), "torch_mesh_draws") for name in _PATCHED
    ):
        return None
    try:
        with core.device_scope("cpu"), _notes():
            draw = initializer(shape, dtype=dtype)
    except Exception:  # it works on what it has drawn
        return None
    if not isinstance(draw, Draw) or draw.shape != shape:
        return None
    return draw


def blocks_of(draw: Draw, sizes: Iterable[int]) -> Iterator[torch.Tensor]:
    """The elements of a draw, in order, as plain CPU tensors.

    Args:
        draw: What is to be drawn.
        sizes: Numbers of elements of the blocks.

    Yields:
        Tensor [size] for each size.
    """
    function = getattr(random, draw.function)
    with core.device_scope("cpu"):
        generator = random.torch_seed_generator(draw.arguments["seed"])
    for size in sizes:
        with core.device_scope("cpu"), _draws_from(generator):
            block = function((size,), **draw.arguments)
        yield block


@contextmanager
def _notes() -> Iterator[None]:
    thread = threading.get_ident()
    _noting.add(thread)
    try:
        yield
    finally:
        _noting.remove(thread)


@contextmanager
def _draws_from(generator: torch.Generator) -> Iterator[None]:
    thread = threading.get_ident()
    _generators[thread] = generator
    try:
        yield
    finally:
        del _generators[thread]


# Replacements; `patches.py` says what for.


def normal(original: Any) -> Any:
    """Wraps `keras.random.normal` of the backend."""
    return _drawing("normal", original)


def truncated_normal(original: Any) -> Any:
    """Wraps `keras.random.truncated_normal` of the backend."""
    return _drawing("truncated_normal", original)


def uniform(original: Any) -> Any:
    """Wraps `keras.random.uniform` of the backend."""
    return _drawing("uniform", original)


def torch_seed_generator(original: Any) -> Any:
    """Wraps the function that makes a generator for each draw."""

    @functools.wraps(original)
    def torch_seed_generator(seed: Any) -> Any:
        if _generators:
            generator = _generators.get(threading.get_ident())
            if generator is not None:
                return generator
        return original(seed)

    return _marked(torch_seed_generator)


def _drawing(name: str, original: Any) -> Any:
    names = list(inspect.signature(original).parameters)[1:]

    @functools.wraps(original)
    def function(shape: Any, *args: Any, **kwargs: Any) -> Any:
        if _noting and threading.get_ident() in _noting:
            given = dict(zip(names, args, strict=False))
            return Draw(name, tuple(shape), {**given, **kwargs})
        return original(shape, *args, **kwargs)

    return _marked(function)


def _marked(function: Any) -> Any:
    function.torch_mesh_draws = True
    return function
