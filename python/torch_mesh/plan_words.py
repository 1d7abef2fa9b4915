"""The words of transformers' tensor-parallel plans, as placements.

A plan says of a module how a process changes its weights, its inputs and its
outputs. On a mesh the layout of the weights is enough: that of all else follows
from it, and no value depends on it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from torch_mesh import moves, tensors
from torch_mesh.layouts import Layout

_COLUMNS = "the outputs are cut"
_ROWS = "the inputs are cut"
_PACKED_COLUMNS = "the outputs, of two weights in one, are cut"
_PACKED_ROWS = "the inputs, of two weights in one, are cut"
_EXPERTS = "the experts are dealt out"
_WHOLE = "each device holds all of it"
_SEQUENCE = "each device holds all of it, and has a part of the sequence"

# As of transformers 5.17; the last four are of older ones.
WORDS = {
    "colwise": _COLUMNS,
    "colwise_gather_output": _COLUMNS,
    "colwise_rep": _COLUMNS,
    "rowwise": _ROWS,
    "rowwise_rep": _ROWS,
    "rowwise_split_input": _ROWS,
    "embedding_rowwise": _ROWS,
    "packed_colwise": _PACKED_COLUMNS,
    "packed_rowwise": _PACKED_ROWS,
    "grouped_gemm": _EXPERTS,
    "sequence_parallel": _SEQUENCE,
    "ep_router": _WHOLE,
    "megamoe_router": _WHOLE,
    "moe_tp_experts": _WHOLE,
    "megamoe_experts": _WHOLE,
    "moe_identity_expert": _WHOLE,
    "replicated_with_grad_allreduce": _WHOLE,
    "mla_kv_a_proj": _WHOLE,
    "all_reduce": _WHOLE,
    "replicate": _WHOLE,
    "local_colwise": _COLUMNS,
    "local_rowwise": _ROWS,
    "gather": _WHOLE,
}

_NUM_PACKED = 2


def placement_of(
    word: str, module: Module, tensor: Tensor, num_devices: int
) -> str:
    """The placement that a word gives to a parameter.

    Args:
        word: one of `WORDS`.
        module: that owns the parameter.
        tensor: the parameter.
        num_devices: of the mesh axis that the placement is for.

    Returns:
        A placement, e.g. "S0".
    """
    meaning = WORDS[word]
    if meaning == _EXPERTS:
        return "S0" if tensor.dim() > 0 else "R"
    if meaning in (_COLUMNS, _PACKED_COLUMNS):
        dim = output_dim(module, tensor)
    elif meaning in (_ROWS, _PACKED_ROWS):
        dim = _input_dim(module, tensor)
    else:
        dim = None
    if dim is None:
        return "R"
    if meaning in (_PACKED_COLUMNS, _PACKED_ROWS):
        block, rest = divmod(tensor.shape[dim], _NUM_PACKED)
        if rest == 0 and block > 0 and block % num_devices == 0:
            return f"S{dim}/{block}"
    return f"S{dim}"


def output_dim(module: Module, tensor: Tensor) -> int | None:
    """The dim of a parameter along which the module's outputs lie.

    Args:
        module: that owns the parameter.
        tensor: the parameter.

    Returns:
        Number of the dim; None if there is none.
    """
    if tensor.dim() < 2:
        return 0 if tensor.dim() == 1 else None
    if _is_transposed(module):
        # Those of a transposed convolution in groups are in no dim alone.
        return 1 if getattr(module, "groups", 1) == 1 else None
    if _is_convolution(module):
        return 0
    return tensor.dim() - 2


def _input_dim(module: Module, tensor: Tensor) -> int | None:
    if tensor.dim() < 2:
        return None
    if _is_transposed(module):
        return 0
    if _is_convolution(module):
        return 1 if getattr(module, "groups", 1) == 1 else None
    return tensor.dim() - 1


def _is_convolution(module: Module) -> bool:
    return isinstance(module, torch.nn.modules.conv._ConvNd)


def _is_transposed(module: Module) -> bool:
    """Whether a weight has its inputs first: [in, out, ...].

    Embeddings, transposed convolutions, and the Conv1D of transformers.
    """
    if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
        return True
    if _is_convolution(module):
        return bool(module.transposed)
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def cuts_sequence(word: str) -> bool:
    """Whether a word cuts the sequence that goes into a module.

    Args:
        word: one of `WORDS`.
    """
    return WORDS[word] == _SEQUENCE


class CutSequence:
    """A forward pre-hook: the first input is cut on dim 1, its sequence.

    Args:
        axis: name of the mesh axis.
    """

    def __init__(self, axis: str) -> None:
        self.axis = axis

    def __call__(self, module: Module, args: tuple[Any, ...]) -> Any:
        x = args[0] if args else None
        if not isinstance(x, Tensor) or not tensors.is_global(x) or x.dim() < 2:
            return None
        layout = tensors.layout(x)
        axes = layout.mesh.axis_names
        if self.axis not in axes:
            return None
        place = axes.index(self.axis)
        placements = list(layout.placements)
        if placements[place].startswith("S"):
            return None
        placements[place] = "S1"
        cut = moves.redistribute(x, Layout(layout.mesh, placements))
        return (cut, *args[1:])


class FormGradients:
    """A forward pre-hook: sums of the gradients of the inputs are formed there.

    A module whose outputs are cut gives for its input a gradient that is still
    to be summed over the devices. Whatever comes next in the backward pass, a
    norm above all, would carry the sum on and form it several times. Modules
    that share an input form it once, of the sum of their gradients.
    """

    def __call__(self, module: Module, args: tuple[Any, ...]) -> None:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        for x in args:
            if (
                isinstance(x, Tensor)
                and x.requires_grad
                and tensors.is_global(x)
                and not hasattr(x, _HAS_HOOK)
            ):
                setattr(x, _HAS_HOOK, True)
                x.register_hook(_form)


_HAS_HOOK = "_torch_mesh_forms_gradient"


def _form(gradient: Tensor) -> None:
    tensors.reduce_partials([gradient])
