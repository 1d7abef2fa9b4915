"""NumPy arrays of global tensors, as plain CPU tensors give them.

Where the devices of a mesh are CPUs, `x.numpy()`, `np.asarray(x)` and all that
asks for an array (ufuncs, scikit-learn, indices of arrays) get a copy of the
whole value. It is read-only: a write to it would be lost, where in plain torch
it reaches the tensor. On a mesh of GPUs torch refuses, as it does for CUDA.

All go through `to_array`, and a value is gathered in `whole_on_host` alone.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import has_torch_function_unary

from torch_mesh import _C

if TYPE_CHECKING:
    import numpy as np

_torchs_own = torch.Tensor.numpy


def numpy(original: Any) -> Any:
    """Wraps `Tensor.numpy`."""
    return _C.numpy_method(original, to_array)


def array_wrap(original: Any) -> Any:
    """Wraps `Tensor.__array_wrap__`: what NumPy computes stays on the mesh.

    `array / x` and `np.sin(x)` are tensors on the device of `x` in plain torch.
    Here they are replicated on its mesh.
    """

    @functools.wraps(original)
    def wrapped(self: torch.Tensor, array: Any) -> torch.Tensor:
        result: torch.Tensor = original(self, array)
        if self.is_cpu or not _C.is_global(self):
            return result
        mesh = _C.layout_of(self).mesh
        return _C.distribute(result, _C.Layout.replicated(mesh))

    return wrapped


def to_array(
    x: torch.Tensor, *args: Any, **kwargs: Any
) -> np.ndarray[Any, Any]:
    """What `x.numpy(*args, **kwargs)` gives for a global tensor.

    Args:
        x: A global tensor.
        args: None, for torch's own method to refuse others.
        kwargs: `force`, as torch's own method takes it.

    Returns:
        A read-only `numpy.ndarray` of the shape and dtype of `x`, in memory of
        its own.

    Raises:
        RuntimeError: if `x` requires grad and `force` is not set.
        TypeError: if NumPy has no such dtype, or the mesh is one of GPUs and
            `force` is not set. Both are torch's own.
    """
    if has_torch_function_unary(x) or not is_on_host(x):
        theirs: np.ndarray[Any, Any] = _torchs_own(x, *args, **kwargs)
        return theirs
    # What torch refuses it refuses before anything is gathered.
    _torchs_own(_empty_like(x), *args, **kwargs)
    array: np.ndarray[Any, Any] = _torchs_own(whole_on_host(x), force=True)
    array.flags.writeable = False
    return array


def is_on_host(x: torch.Tensor) -> bool:
    """Whether the devices of a global tensor are CPUs."""
    return _C.layout_of(x).mesh.devices[0].startswith("cpu")


def whole_on_host(x: torch.Tensor) -> torch.Tensor:
    """The whole value of a global tensor as a plain CPU tensor of its own."""
    return x.detach().cpu()


def _empty_like(x: torch.Tensor) -> torch.Tensor:
    """A plain tensor of no elements that `numpy` judges as it judges `x`."""
    empty = torch.empty(0, dtype=x.dtype)
    if x.is_conj():
        empty = empty.conj()
    if x.is_neg():
        empty = torch._neg_view(empty)
    return empty.requires_grad_(x.requires_grad)
