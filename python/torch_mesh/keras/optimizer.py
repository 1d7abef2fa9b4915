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
from torch_mesh.keras.device_name import MESH


def apply(original: Any) -> Any:
    """Wraps an optimizer's `apply`.

    Args:
        original: `apply(self, grads, trainable_variables=None)`.

    Returns:
        The same method with reduced gradients.
    """

    @functools.wraps(original)
    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        ours = [
            g
            for g in grads
            if isinstance(g, torch.Tensor) and g.device.type == MESH
        ]
        if ours:
            tm.reduce_partials(ours)
        return original(self, grads, trainable_variables)

    return apply
