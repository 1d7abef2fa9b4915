"""Models off the mesh: plain tensors for export, other programs, other code."""

from __future__ import annotations

from typing import Any

import keras
import torch

import torch_mesh as tm


def gather(model: Any) -> int:
    """Brings all state of a model to the host, as plain tensors, in place.

    For `model.export`, `torch.export` and code that knows nothing of a mesh,
    after `set_distribution(None)`. Parameters stay the same objects, gradients
    are dropped. Under a distribution the next `fit` moves the model back.

    Args:
        model: A Keras model or layer, or any `torch.nn.Module`.

    Returns:
        How many variables were on the mesh.
    """
    from torch_mesh.keras import moves
    from torch_mesh.keras.variable import OFF_THE_MESH

    variables = list(getattr(model, "variables", []))
    variables += getattr(model, "metrics_variables", [])
    if isinstance(model, keras.Layer):
        for part in model._flatten_layers():
            if isinstance(part, keras.Model):
                moves.forget(part)
        for optimizer in moves.optimizers_of(model):
            variables += optimizer.variables
    for variable in variables:
        variable._layout = None
        setattr(variable, OFF_THE_MESH, "gathered")
    values = [v._value for v in variables if v._value is not None]
    if isinstance(model, torch.nn.Module):
        values += [*model.parameters(), *model.buffers()]
    moved = 0
    for value in {id(v): v for v in values}.values():
        if tm.is_global(value):
            value.grad = None
            value.data = tm.full(value.detach()).cpu()
            moved += 1
    return moved
