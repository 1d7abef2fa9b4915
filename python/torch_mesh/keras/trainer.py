"""How Keras's trainer feeds the mesh.

Batches stay on the host until `train_step`, `test_step` or `predict_step`;
there each is sharded along the batch axis, host memory to shards, before the
step (the user's own, if overridden) sees it. Models that were built elsewhere
move to where the distribution wants them first (`moves.py`).
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from keras.src import tree

from torch_mesh.keras import active, compat, data, moves, parts
from torch_mesh.keras.writing import members

core = compat.core()

# Models whose jit_compile was reported.
_told_eager: weakref.WeakSet[Any] = weakref.WeakSet()


class ShardedStep:
    """A train, test or predict function whose batches are sharded first.

    Without a distribution it calls the function and does nothing else.

    Attributes:
        step: The function that Keras made: takes a list of batches.
    """

    def __init__(self, step: Callable[[Any], Any]) -> None:
        self.step = step
        self._distribution: Any = None
        self._layouts: dict[tuple[int, ...], Any] = {}
        # Whether each process has a part of the batch, and not all of it.
        self._joins_parts = False

    def __call__(self, batches: Any) -> Any:
        distribution = active.current()
        if distribution is not None and active.on_mesh():
            if distribution is not self._distribution:
                self._distribution = distribution
                self._layouts = {}
            self._joins_parts = (
                not distribution.auto_shard_dataset and len(members()) > 1
            )
            batches = self._shard_all(batches)
        return self.step(batches)

    def _shard_all(self, batches: Any) -> Any:
        # The usual structure, [(x, y)], without a look at its kinds of nodes.
        if type(batches) is list or type(batches) is tuple:
            return type(batches)([self._shard_all(part) for part in batches])
        if isinstance(batches, (torch.Tensor, np.ndarray)):
            return self._shard(batches)
        return tree.map_structure(self._shard, batches)

    def _shard(self, x: Any) -> Any:
        if not isinstance(x, (torch.Tensor, np.ndarray)) or x.ndim == 0:
            return x
        shape = tuple(x.shape)
        layout = self._layouts.get(shape)
        if layout is None:
            if len(self._layouts) > 256:  # as many lengths as sentences
                self._layouts.clear()
            layout = self._distribution.get_data_layout(shape)
            self._layouts[shape] = layout
        if self._joins_parts:
            return parts.join(data.as_tensor(x), layout.backend_layout)
        return data.distribute_data_input(
            x, layout, self._distribution.batch_dim_name
        )


# Replacements; `patches.py` says what for.


def make_train_function(original: Any) -> Any:
    """Wraps `TorchTrainer.make_train_function`."""
    return _make_function(original, "train_function")


def make_test_function(original: Any) -> Any:
    """Wraps `TorchTrainer.make_test_function`."""
    return _make_function(original, "test_function")


def make_predict_function(original: Any) -> Any:
    """Wraps `TorchTrainer.make_predict_function`."""
    return _make_function(original, "predict_function")


def call(original: Any) -> Any:
    """Wraps `Model.__call__`, for loops that never come to `fit`."""

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        distribution = active.current()
        if distribution is None or moves.is_placed(self, distribution):
            return original(self, *args, **kwargs)
        moves.at_call(self, distribution)
        result = original(self, *args, **kwargs)
        moves.after_call(self, distribution)
        return result

    return __call__


def tell_eager(model: Any) -> bool:
    """Warns once that a model which asks for jit_compile runs eagerly.

    Args:
        model: A Keras model whose tensors are on the mesh.

    Returns:
        False: it is not to be compiled.
    """
    if model not in _told_eager:
        _told_eager.add(model)
        warnings.warn(
            f'fit: "{model.name}" asks for jit_compile=True, which has no '
            "code generator for the mesh; it runs eagerly.\n"
            "Hint: compile the model with jit_compile=False. "
            "[jit-on-mesh]",
            stacklevel=4,
        )
    return False


def get_iterator(original: Any) -> Any:
    """Wraps `TorchEpochIterator._get_iterator`."""

    @functools.wraps(original)
    def _get_iterator(self: Any) -> Any:
        if active.current() is None or not active.on_mesh():
            return original(self)
        # Not `original`: a Keras with a distribution of its own on torch feeds
        # ModelParallel from NumPy, which shuffles in another order than the
        # DataLoader of one device.
        with core.device_scope("cpu"):
            iterable = self.data_adapter.get_torch_dataloader()
        return _OnHost(iterable)

    return _get_iterator


class _OnHost:
    """An iterable whose iterators work under `keras.device("cpu")`.

    An iterator is made when Keras asks for it, not at its first batch: a
    DataLoader draws a random number then, and must draw it here too.
    """

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        with core.device_scope("cpu"):
            iterator = iter(self.iterable)
        return _OnHostIterator(iterator)


class _OnHostIterator:
    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with core.device_scope("cpu"):
            return next(self.iterator)


def _make_function(original: Any, attribute: str) -> Any:
    """Wraps a `make_*_function`, which leaves its result in `attribute`."""

    @functools.wraps(original)
    def make_function(self: Any, force: bool = False) -> Any:
        distribution = active.current()
        moves.prepare(self, distribution)
        made = getattr(self, attribute)
        if self.jit_compile and made is not None:
            # Compiled for a plain device, or not compiled for the mesh.
            force = force or isinstance(made, ShardedStep) is (
                distribution is None
            )
        result = original(self, force)
        made = getattr(self, attribute)
        if distribution is None or isinstance(made, ShardedStep):
            return result
        sharded = ShardedStep(made)
        setattr(self, attribute, sharded)
        return sharded if result is made else result

    return make_function
