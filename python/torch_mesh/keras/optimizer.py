"""Gradients of one `optimizer.apply` are reduced together.

After a backward pass over a sharded batch the gradients are open partial sums,
one per device. Each would be reduced by the first op that needs its value, one
collective each. Reduced here they share buckets: one collective per mesh axis
and bucket, also before norms, loss scaling and accumulation look at them.

Under a distribution with `shard_optimizer` each device keeps its part of the
slots, and computes its part of an update: `torch_mesh.cut_update` does it.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import torch
from keras.src.backend.common import stateless_scope

import torch_mesh as tm
from torch_mesh import cut_update, overlap
from torch_mesh.keras import active, moves, slots
from torch_mesh.keras.device_name import MESH

# The update that an optimizer is in.
_updates: weakref.WeakKeyDictionary[Any, cut_update.CutUpdate] = (
    weakref.WeakKeyDictionary()
)


def scale_loss(original: Any) -> Any:
    """Wraps `LossScaleOptimizer.scale_loss`.

    Args:
        original: `scale_loss(self, loss)`.

    Returns:
        The same method with a scale that is where the weights are.
    """

    @functools.wraps(original)
    def scale_loss(self: Any, loss: Any) -> Any:
        moves.follow(self)
        return original(self, loss)

    return scale_loss


def apply(original: Any) -> Any:
    """Wraps an optimizer's `apply`.

    Args:
        original: `apply(self, grads, trainable_variables=None)`.

    Returns:
        The same method with reduced gradients, with slots that follow weights
        which have moved, and with weights that are cut while it runs if the
        distribution says so.
    """

    @functools.wraps(original)
    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        grads, variables = list(grads), _listed(trainable_variables)
        overlap.before_step(self, (v.value for v in _updated(self, variables)))
        weights = _formed(self, grads, variables)
        if not weights:
            return original(self, grads, variables)
        update = _updates[self] = cut_update.CutUpdate()
        update.take(weights)
        try:
            result = original(self, grads, variables)
        except BaseException:
            # Nothing that waits for other processes.
            update.give_back(is_updated=False)
            raise
        finally:
            del _updates[self]
        update.give_back()
        return result

    return apply


def apply_of_others(original: Any) -> Any:
    """Wraps the `apply` of an optimizer that hands over to others.

    Args:
        original: `apply(self, grads, trainable_variables=None)`.

    Returns:
        The same method with reduced gradients, and with slots that follow.
    """

    @functools.wraps(original)
    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        grads, variables = list(grads), _listed(trainable_variables)
        _formed(self, grads, variables)
        return original(self, grads, variables)

    return apply


def increment_gradient_accumulators(original: Any) -> Any:
    """Wraps `_backend_increment_gradient_accumulators`.

    A step that only accumulates writes no weight, so none is gathered after it.
    """

    @functools.wraps(original)
    def increment(self: Any, grads: Any, acc_grads: Any) -> Any:
        update = _updates.get(self)
        if update is not None:
            update.give_back(is_updated=False)
        return original(self, grads, acc_grads)

    return increment


def add_variable_from_reference(original: Any) -> Any:
    """Wraps `BaseOptimizer.add_variable_from_reference`: slots are cut."""

    @functools.wraps(original)
    def add(
        self: Any,
        reference_variable: Any,
        name: Any = None,
        initializer: Any = "zeros",
    ) -> Any:
        reference = slots.reference_of(reference_variable, active.current())
        return original(self, reference, name, initializer)

    return add


def _listed(variables: Any) -> Any:
    return None if variables is None else list(variables)


def _updated(optimizer: Any, variables: list[Any] | None) -> list[Any]:
    """The variables that an `apply` updates."""
    if variables is None:
        variables = optimizer._trainable_variables
    return variables


def _formed(
    optimizer: Any, grads: list[Any], variables: list[Any] | None
) -> list[cut_update.Weight]:
    """Forms gradients; gives the weights that are to be cut."""
    moves.follow(optimizer)
    weights = _to_cut(optimizer, grads, variables)
    cut_update.form_gradients(weights)
    ours = [
        g
        for g in grads
        if isinstance(g, torch.Tensor) and g.device.type == MESH
    ]
    if ours:
        tm.reduce_partials(ours)
    return weights


def _to_cut(
    optimizer: Any, grads: list[Any], variables: list[Any] | None
) -> list[cut_update.Weight]:
    """The weights of an update that the distribution in force cuts."""
    axis = slots.axis_of(active.current())
    if axis is None or stateless_scope.in_stateless_scope():
        return []
    return cut_update.to_cut(
        [
            (variable._value, grad)
            for variable, grad in zip(
                _updated(optimizer, variables), grads, strict=False
            )
            if grad is not None
            and slots.is_on_mesh_of(variable, active.current())
            and not getattr(variable, "overwrite_with_gradient", False)
        ],
        axis,
    )
