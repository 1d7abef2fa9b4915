"""How Keras's trainer feeds the mesh.

Batches stay on the host until `train_step`, `test_step` or `predict_step`;
there each is sharded along the batch axis, host memory to shards, before the
step (the user's own, if overridden) sees it. Those of several processes come
to the step on the mesh already (`feeding.py`). Models that were built elsewhere
move to where the distribution wants them first (`moves.py`).
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from torch_mesh.keras import active, feeding, moves
from torch_mesh.keras.writing import members

# Models whose jit_compile was reported.
_told_eager: weakref.WeakSet[Any] = weakref.WeakSet()


class ShardedStep:
    """A train, test or predict function whose batches are sharded first.

    Without a distribution it calls the function and does nothing else.

    Args:
        step: The function that Keras made: takes a list of batches.
        op: The method of the model that calls it with a batch of the user's.
    """

    def __init__(self, step: Callable[[Any], Any], op: str) -> None:
        self.step = step
        self._op = op
        self._placing = feeding.Placing(None)
        self._handed_in: feeding.HandedIn | None = None

    def __call__(self, batches: Any) -> Any:
        distribution = active.current()
        if distribution is not None and active.on_mesh():
            if distribution is not self._placing.distribution:
                self._placing = feeding.Placing(distribution)
                self._handed_in = None
            if len(members()) > 1 and not feeding.is_placed(batches):
                batches = [self._take(batch) for batch in batches]
            else:
                batches = self._placing(batches)
        return self.step(batches)

    def _take(self, batch: Any) -> Any:
        """A batch that each process has given to `*_on_batch`."""
        has_parts = not self._placing.distribution.auto_shard_dataset
        if self._handed_in is None or self._handed_in.has_parts != has_parts:
            self._handed_in = feeding.HandedIn(self._op, self._placing)
        return self._handed_in(batch)


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
        return feeding.batches_of(self)

    return _get_iterator


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
        op = attribute.removesuffix("function") + "on_batch"
        sharded = ShardedStep(made, op)
        setattr(self, attribute, sharded)
        return sharded if result is made else result

    return make_function
