"""Files of large weights, a block at a time.

Keras gathers a variable, copies it to NumPy and writes it; to load, it reads a
variable, uploads it whole and then lays it out. Here what is larger than a
block passes between the file and the shards in blocks, in the same file
format. Smaller variables and plain tensors take Keras's own way.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

import torch_mesh as tm
from torch_mesh import blocks
from torch_mesh.keras import active, compat, host_memory, writing

core = compat.core()


class StoredArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that stays in its file until it is looked at.

    It gives parts by index as NumPy does, and acts as the whole array in
    every other use.

    Args:
        dataset: An `h5py.Dataset` of an open file.
        dtype: NumPy dtype of the values.
    """

    def __init__(self, dataset: Any, dtype: np.dtype[Any]) -> None:
        self._dataset = dataset
        self.dtype = dtype
        self.shape: tuple[int, ...] = tuple(dataset.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        part = self._dataset[index]
        return part if part.dtype == self.dtype else part.view(self.dtype)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        whole = self[()]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any
    ) -> Any:
        arrays = [np.asarray(x) if x is self else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


# Replacements; `patches.py` says what for.


def assign(original: Any) -> Any:
    """Wraps `Variable.assign`, for a variable on the mesh.

    Arrays and plain CPU tensors of more than a block go to the shards block by
    block; then the result is the variable's own tensor.
    """

    @functools.wraps(original)
    def assign(self: Any, value: Any) -> Any:
        target = self._value
        if target is None:
            return original(self, value)
        if (
            is_large(target)
            and isinstance(value, (np.ndarray, StoredArray, torch.Tensor))
            and tuple(value.shape) == tuple(self.shape)
            and not _is_elsewhere(value)
            and not core.in_stateless_scope()
        ):
            blocks.write(target, functools.partial(_part, value, self._dtype))
            host_memory.trim()
            return target
        if isinstance(value, StoredArray):
            value = np.asarray(value)
        return original(self, value)

    return assign


def h5_setitem(original: Any) -> Any:
    """Wraps `H5IOStore.__setitem__`."""

    @functools.wraps(original)
    def __setitem__(self: Any, key: str, value: Any) -> None:
        tensor = value._value if isinstance(value, core.Variable) else value
        if writing.only_gathers() and isinstance(tensor, torch.Tensor):
            _gather(tensor)
            return
        if not is_large(tensor) or self.mode not in ("w", "a"):
            original(self, key, value)
            return
        if not self._h5_entry_initialized:
            self._create_h5_group(self._h5_entry_path)
        first = _as_numpy(torch.empty(0, dtype=tensor.dtype))
        dataset = self._h5_entry_group.create_dataset(
            key, shape=tuple(tensor.shape), dtype=first.dtype
        )
        if tensor.dtype == torch.bfloat16:
            dataset.attrs["dtype"] = "bfloat16"
        tensor = tensor.detach()
        elements = max(1, blocks.BLOCK_BYTES // tensor.element_size())
        for index, start, count in blocks.pieces(tensor.shape, elements):
            block = _as_numpy(blocks.read_block(tensor, start, count))
            rest = tensor.shape[len(index) :]
            dataset[index] = block.reshape(-1, *rest) if index else block[0]
        host_memory.trim()

    return __setitem__


def h5_getitem(original: Any) -> Any:
    """Wraps `H5IOStore.__getitem__`."""

    @functools.wraps(original)
    def __getitem__(self: Any, key: str) -> Any:
        from keras.src.saving import saving_lib

        # A store of several files closes each after the look-up.
        if active.current() is None or type(self) is not saving_lib.H5IOStore:
            return original(self, key)
        dataset = saving_lib.safe_get_h5_dataset(self._h5_entry_group, key)
        dtype = dataset.dtype
        if dataset.attrs.get("dtype") == "bfloat16":
            dtype = _as_numpy(torch.empty(0, dtype=torch.bfloat16)).dtype
        elif dtype.kind not in "biuf":
            return original(self, key)
        stored = StoredArray(dataset, dtype)
        if stored.nbytes <= blocks.BLOCK_BYTES or not stored.shape:
            return original(self, key)
        return stored

    return __getitem__


def is_memory_sufficient(original: Any) -> Any:
    """Wraps `saving_lib.is_memory_sufficient`.

    Asked when an archive is written or read: whether the weights may stand in
    memory once more. Those of a mesh go by way of a file beside the archive.
    """

    @functools.wraps(original)
    def is_memory_sufficient(model: Any) -> bool:
        if any(is_large(v._value) for v in model.variables):
            return False
        return bool(original(model))

    return is_memory_sufficient


def is_large(tensor: Any) -> bool:
    """Whether a tensor is on the mesh, and more than one block.

    Args:
        tensor: Anything.
    """
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.numel() * tensor.element_size() > blocks.BLOCK_BYTES
        and tm.is_global(tensor)
    )


def _gather(tensor: torch.Tensor) -> None:
    """Takes part in reading a tensor that another process writes."""
    if not tm.is_global(tensor):
        return
    tensor = tensor.detach()
    if not is_large(tensor):
        core.convert_to_numpy(tensor)
        return
    elements = max(1, blocks.BLOCK_BYTES // tensor.element_size())
    for _, start, count in blocks.pieces(tensor.shape, elements):
        blocks.read_block(tensor, start, count)


def _is_elsewhere(value: Any) -> bool:
    """Whether a value is a tensor that is not in plain host memory."""
    return isinstance(value, torch.Tensor) and (
        value.device.type != "cpu" or tm.is_global(value)
    )


def _part(value: Any, dtype: str, index: blocks.Index) -> torch.Tensor:
    """A part of a value as a plain CPU tensor of Keras's `dtype`."""
    part = value[index]
    with core.device_scope("cpu"):
        return core.convert_to_tensor(part, dtype=dtype)


def _as_numpy(block: torch.Tensor) -> Any:
    """A plain tensor as an array of the dtype that Keras stores."""
    if block.dtype == torch.bfloat16:
        return core.convert_to_numpy(block)
    return block.numpy()
