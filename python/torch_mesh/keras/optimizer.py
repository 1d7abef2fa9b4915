"""Gradients of one `optimizer.apply` are reduced together.

After a backward pass over a sharded batch the gradients are open partial sums,
one per device. Each would be reduced by the first op that needs its value, one
collective each. Reduced here they share buckets: one collective per mesh axis
and bucket, also before norms, loss scaling and accumulation look at them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

import torch_mesh as tm
from torch_mesh import overlap
from torch_mesh.keras import moves
from torch_mesh.keras.device_name import MESH


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


def _values_of(optimizer: Any, variables: Any) -> list[torch.Tensor]:
    """The tensors of the variables that an `apply` updates."""
    if variables is None:
        variables = getattr(optimizer, "_trainable_variables", ())
    return [variable.value for variable in variables]


def apply(original: Any) -> Any:
    """Wraps an optimizer's `apply`.

    Args:
        original: `apply(self, grads, trainable_variables=None)`.

    Returns:
        The same method with reduced gradients, and with slots that follow
        weights which have moved.
    """

    @functools.wraps(original)
    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        moves.follow(self)
        grads = list(grads)
        ours = [
            g
            for g in grads
            if isinstance(g, torch.Tensor) and g.device.type == MESH
        ]
        if ours:
            overlap.before_step(self, _values_of(self, trainable_variables))
            tm.reduce_partials(ours)
        return original(self, grads, trainable_variables)

    return apply
