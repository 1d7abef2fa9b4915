"""Keras's recurrent layers run whole in each memory.

Off CUDA Keras takes a step of an LSTM or a GRU by some ten small ops, and more
with a mask. Where the batch alone is cut, each memory runs Keras's own function
on all that it holds: the ops, and so the numbers, are those of one device,
nothing is planned for each, and the whole is one node of the graph. Features or
weights that are cut are made whole first where the copies take no more memory
than the gates.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from torch_mesh import _C
from torch_mesh.keras import compat
from torch_mesh.keras.device_name import MESH

_WEIGHT = -1  # no dim of it is the batch


def fallback_lstm(original: Any) -> Any:
    """Wraps Keras's LSTM out of torch's ops.

    Args:
        original: `_fallback_lstm(inputs, initial_state_h, initial_state_c,
            kernel, recurrent_kernel, bias, activation, recurrent_activation,
            return_sequences, batch_first)`.

    Returns:
        The same function, which runs whole in each memory if it can.
    """
    return _fallback(original, "keras::lstm", num_states=2)


def fallback_gru(original: Any) -> Any:
    """Wraps Keras's GRU out of torch's ops.

    Args:
        original: `_fallback_gru(inputs, initial_state, kernel,
            recurrent_kernel, bias, activation, recurrent_activation,
            return_sequences)`.

    Returns:
        The same function, which runs whole in each memory if it can.
    """
    return _fallback(original, "keras::gru", num_states=1)


def _fallback(original: Any, name: str, num_states: int) -> Any:
    """Wraps a function of inputs, states, kernels, a bias or None, activations,
    `return_sequences` and, of one, `batch_first`."""
    signature = inspect.signature(original)
    num_tensors = 1 + num_states + 3

    @functools.wraps(original)
    def fallback(*args: Any, **named: Any) -> Any:
        args = signature.bind(*args, **named).args
        inputs, *parts = args[:num_tensors]
        *options, return_sequences = args[num_tensors : num_tensors + 3]
        batch_first = args[num_tensors + 3 :] in ((), (True,))

        def layer(tensors: list[torch.Tensor]) -> Any:
            missing = [None] * (num_tensors - len(tensors))
            return original(*tensors, *missing, *args[num_tensors:])

        found = _whole(
            name,
            layer,
            inputs,
            tuple(parts[:num_states]),
            tuple(parts[num_states:]),
            (*options, return_sequences),
            0 if batch_first else 1,
        )
        return original(*args) if found is None else found

    return fallback


def inner_loop(original: Any) -> Any:
    """Wraps `RNN.inner_loop`, which steps a cell: with a mask, or a SimpleRNN.

    Args:
        original: `inner_loop(self, sequences, initial_state, mask, training)`.

    Returns:
        The same method, which runs whole in each memory if the cell is one of
        Keras's own.
    """

    @functools.wraps(original)
    def inner_loop(
        self: Any,
        sequences: Any,
        initial_state: Any,
        mask: Any,
        training: Any = False,
    ) -> Any:
        states = initial_state
        if not isinstance(states, (list, tuple)):
            states = [states]
        found = None
        if _steps_by_itself(self, sequences, states, mask, training):
            found = _stepped(original, self, sequences, states, mask, training)
        if found is None:
            found = original(self, sequences, initial_state, mask, training)
        return found

    return inner_loop


def _stepped(
    original: Any,
    layer: Any,
    sequences: Any,
    states: Any,
    mask: Any,
    training: Any,
) -> Any:
    """What `RNN.inner_loop` returns; None if the layer cannot run so."""
    from keras import StatelessScope

    variables = layer.cell.weights
    masks = [] if mask is None else [mask]

    def composed(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        x, *rest = tensors
        own_states, rest = rest[: len(states)], rest[len(states) :]
        own_mask = rest.pop(0) if masks else None
        values = list(zip(variables, rest, strict=True))
        with StatelessScope(state_mapping=values):
            _, outputs, last = original(
                layer, x, own_states, own_mask, training
            )
        return [outputs, *last]

    batch, steps, _ = sequences.shape
    found = _on_memories(
        f"keras::{type(layer.cell).__name__}",
        composed,
        [sequences, *states, *masks, *[v.value for v in variables]],
        [*[0] * (1 + len(states) + len(masks)), *[_WEIGHT] * len(variables)],
        # Outputs are stacked step by step.
        [(0, (1, 0, 2)), *[(0, (0, 1))] * len(states)],
        batch * steps * variables[0].shape[-1],
    )
    if found is None:
        return None
    outputs, *last = found
    return outputs[:, -1], outputs, last


def _steps_by_itself(
    layer: Any, sequences: Any, states: Any, mask: Any, training: Any
) -> bool:
    """Whether the steps are Keras's own, on tensors of the mesh, with nothing
    drawn and nobody who looks on."""
    cell = layer.cell
    tensors = [sequences, *states] + ([] if mask is None else [mask])
    return (
        type(cell) in _cells()
        and not layer.unroll
        and all(
            isinstance(t, torch.Tensor) and t.device.type == MESH
            for t in tensors
        )
        and sequences.dim() == 3
        and all(state.dim() == 2 for state in states)
        and not (training and (cell.dropout or cell.recurrent_dropout))
        and cell.built
        and cell.compute_dtype == layer.compute_dtype
        and cell.activity_regularizer is None
        and not (cell._forward_hooks or cell._forward_pre_hooks)
        and _is_own(cell.activation)
        and _is_own(getattr(cell, "recurrent_activation", cell.activation))
    )


@functools.cache
def _cells() -> frozenset[Any]:
    from keras import layers

    return frozenset([layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell])


def _whole(
    name: str,
    layer: Callable[[list[torch.Tensor]], Any],
    inputs: Any,
    states: tuple[Any, ...],
    weights: tuple[Any, ...],
    arguments: tuple[Any, ...],
    batch_dim: int,
) -> Any:
    """Runs a layer in each memory.

    Returns:
        What Keras's function returns: the last output, the outputs, a list of
        states. None if the layer cannot run so.
    """
    if not _is_keras_own(inputs, states, arguments):
        return None
    return_sequences = arguments[2]
    weights = tuple(w for w in weights if w is not None)

    def composed(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        last, outputs, states = layer(tensors)
        return [outputs, *states] if return_sequences else states

    results: list[tuple[int, tuple[int, ...]]] = [(0, (0, 1))] * len(states)
    if return_sequences:
        # Stacked step by step.
        order = (1, 0, 2) if batch_dim == 0 else (0, 1, 2)
        results.insert(0, (batch_dim, order))
    steps, batch = inputs.shape[1 - batch_dim], inputs.shape[batch_dim]
    found = _on_memories(
        name,
        composed,
        [inputs, *states, *weights],
        [batch_dim, *[0] * len(states), *[_WEIGHT] * len(weights)],
        results,
        steps * batch * weights[1].shape[-1],
    )
    if found is None:
        return None
    if return_sequences:
        outputs, *found = found
    else:
        outputs = found[0].unsqueeze(1 if batch_dim == 0 else 0)
    return found[0], outputs, found


def _is_keras_own(
    inputs: Any, states: tuple[Any, ...], arguments: tuple[Any, ...]
) -> bool:
    """Whether a step is Keras's own, of tensors of the usual sizes.

    A function of the user's may use tensors of the mesh, or mix the batch.
    """
    return (
        inputs.device.type == MESH
        and inputs.dim() == 3
        and all(state.dim() == 2 for state in states)
        and all(_is_own(function) for function in arguments[:2])
    )


def _is_own(function: Any) -> bool:
    """Whether an activation is Keras's own: each row by itself, none drawn."""
    from keras.src import activations

    return any(function is own for own in activations.ALL_OBJECTS)


def _on_memories(
    name: str,
    composed: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    *lies: Any,
) -> list[torch.Tensor] | None:
    """`_C.run_on_memories`; there Keras takes tensors of the device as they
    are. `lies`: the inputs, and how they and the results lie."""

    def local(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        with compat.core().device_scope(str(tensors[0].device)):
            return composed(tensors)

    return _C.run_on_memories(name, local, composed, *lies)
