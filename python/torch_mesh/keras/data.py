"""Values that get a layout: tensors, variables, batches.

Loaded with Keras: what it uses of the engine, of torch.distributed and of Keras
itself is imported when it is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from torch_mesh.keras import compat
from torch_mesh.keras.layouts import (
    backend_layout,
    describe_layout,
    dims_needed,
    target_layout,
)


def distribute_tensor(tensor: Any, layout: Any) -> Any:
    """Gives a tensor a layout; the values stay.

    Differentiable, and free if the tensor has the layout already.

    Args:
        tensor: A tensor on any device, a Keras `Variable`, which stands for
            its value, a NumPy array, or a nested structure of them.
            `KerasTensor`s, tensors without data (`meta`, fake) and
            anything else in the structure pass unchanged; so do leaves of a
            structure with fewer dims than the layout speaks of.
        layout: A Keras `TensorLayout`, a `torch_mesh.Layout`, or None, which
            leaves `tensor` as it is.

    Returns:
        A global tensor, or a structure of them.

    Raises:
        TypeError: if `layout` is no layout.
        ValueError: if `tensor` is a single tensor with fewer dims than the
            layout speaks of.
    """
    if not isinstance(tensor, (torch.Tensor, np.ndarray)):
        tensor = value_of(tensor)
    if layout is None:
        return tensor
    target = target_layout("distribute_tensor", layout)
    if not isinstance(tensor, (torch.Tensor, np.ndarray)):
        return _distribute_structure(tensor, target)
    if not has_data(tensor):
        return tensor
    dims = dims_needed(target)
    if tensor.ndim < dims:
        raise ValueError(
            f"distribute_tensor: the layout speaks of dim {dims - 1}, the "
            f"tensor has {tensor.ndim} dims.\n"
            f"  layout  {describe_layout(layout)}\n"
            f"  tensor  {list(tensor.shape)}\n"
            "Hint: give a layout with one entry per dim of the tensor. "
            "[layout-rank]"
        )
    return place(as_tensor(tensor), target)


def distribute_variable(value: Any, layout: Any) -> Any:
    """Places the value of a variable.

    Args:
        value: A tensor on any device, a Keras `Variable`, or a NumPy array.
        layout: A Keras `TensorLayout` or a `torch_mesh.Layout`.

    Returns:
        A global tensor outside of any autograd graph. Its memory is its own,
        but for a global tensor that has the layout already: that one's memory
        becomes the variable's, as with a Parameter in plain torch.

    Raises:
        ValueError: if `value` has fewer dims than the layout speaks of.
    """
    with torch.no_grad():
        placed = distribute_tensor(value, layout)
    if isinstance(placed, torch.Tensor) and placed.requires_grad:
        return placed.detach()
    return placed


def distribute_data_input(
    per_process_batch: Any, layout: Any, batch_dim_name: str | None = None
) -> Any:
    """Shards a batch of data that this process holds.

    Memory of a CPU batch is borrowed, not copied: each device reads its part
    of the batch where it lies. Any batch size will do; the last shards are
    smaller or empty if it does not divide.

    Args:
        per_process_batch: Tensor, Keras `Variable` or NumPy array, or a
            structure of them. None, scalars and what is not numeric pass
            unchanged.
        layout: A Keras `TensorLayout` or a `torch_mesh.Layout`.
        batch_dim_name: The mesh axis of the batch. `layout` says it already;
            Keras passes it as JAX needs it.

    Returns:
        A global tensor, or a structure of them.

    Raises:
        TypeError: if `layout` is no layout.
    """
    target = target_layout("distribute_data_input", layout)
    x = per_process_batch
    if not isinstance(x, (torch.Tensor, np.ndarray)):
        value = value_of(x)
        if isinstance(value, torch.Tensor):
            # Not borrowed: a variable's memory is written again.
            return (
                value if value.ndim == 0 else distribute_tensor(value, target)
            )

        def one(leaf: Any) -> Any:
            if not isinstance(value_of(leaf), (torch.Tensor, np.ndarray)):
                return leaf
            return distribute_data_input(leaf, target, batch_dim_name)

        return map_structure(one, x)
    if not has_data(x) or x.ndim == 0:
        return x
    tensor = as_tensor(x)
    if tensor.is_cpu and not tensor.requires_grad:
        import torch_mesh as tm

        return tm.borrow(tensor, target)
    return place(tensor, target)


def to_dtensor(tensor: Any, device_mesh: Any = None) -> Any:
    """`torch_mesh.to_dtensor`, for Keras's variables too.

    Args:
        tensor: A global tensor, or a Keras `Variable` on the mesh.
        device_mesh: A `torch.distributed.device_mesh.DeviceMesh`. None makes
            one over all processes.

    Returns:
        A `torch.distributed.tensor.DTensor`.

    Raises:
        ValueError: if `tensor` is not global, or `device_mesh` does not fit.
        RuntimeError: if there is no process group.
    """
    import torch_mesh as tm

    return tm.to_dtensor(as_tensor(tensor), device_mesh)


def from_dtensor(tensor: Any, layout: Any = None) -> torch.Tensor:
    """`torch_mesh.from_dtensor`, for Keras's layouts too.

    Args:
        tensor: A `torch.distributed.tensor.DTensor`.
        layout: A Keras `TensorLayout` or a `torch_mesh.Layout`. None takes
            over what `tensor` has.

    Returns:
        A global tensor.

    Raises:
        ValueError: if `tensor` is no DTensor, or the layout does not fit it.
    """
    import torch_mesh as tm

    return tm.from_dtensor(tensor, backend_layout(layout))


def has_data(x: Any) -> bool:
    """Whether `x` is a numeric array or a strided tensor with values.

    `meta` and fake tensors have none.
    """
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "biufc" or x.dtype.name == "bfloat16"
    if x.is_meta or x.layout != torch.strided:
        return False
    return _plain_type(type(x)) or not _stands_for_a_tensor(x)


def _plain_type(kind: type) -> bool:
    return kind is torch.Tensor or kind is torch.nn.Parameter


def _stands_for_a_tensor(x: torch.Tensor) -> bool:
    """Whether a tensor subclass stands for a tensor, as fake ones do."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(x, (FakeTensor, FunctionalTensor))


def as_tensor(x: Any) -> torch.Tensor:
    """The tensor that a value is or stands for.

    Args:
        x: A tensor, a Keras `Variable`, a NumPy array, a number, or a list of
            numbers.

    Returns:
        A tensor as it is, the value of a variable, anything else as a CPU
        tensor of the dtype that Keras gives it.
    """
    if isinstance(x, torch.Tensor):
        return x
    x = value_of(x)
    if isinstance(x, torch.Tensor):
        return x
    core = compat.core()
    with core.device_scope("cpu"):
        return core.convert_to_tensor(x)


def value_of(x: Any) -> Any:
    """The value of a Keras `Variable`; anything else as it is."""
    return x.value if isinstance(x, compat.core().Variable) else x


def place(tensor: torch.Tensor, layout: Any) -> torch.Tensor:
    """Gives a tensor a layout, from wherever it is.

    Args:
        tensor: A plain tensor, a global one on any mesh, or a DTensor.
        layout: A `torch_mesh.Layout`.

    Returns:
        A global tensor; `tensor` itself if it has the layout already.
    """
    import torch_mesh as tm
    from torch_mesh import dtensor

    if dtensor.is_dtensor(tensor):
        return tm.from_dtensor(tensor, layout)
    if tm.is_global(tensor):
        mine = tm.layout(tensor)
        if mine == layout:
            return tensor
        if not mine.mesh.axis_names or mine.mesh == layout.mesh:
            return tm.redistribute(tensor, layout)
        tensor = tensor.cpu()  # another mesh: by way of the host
    return tm.distribute(tensor, layout)


def _distribute_structure(structure: Any, layout: Any) -> Any:
    """`distribute_tensor` on the leaves of a structure that have the dims."""
    if not isinstance(structure, (list, tuple, dict)):
        return structure
    dims = dims_needed(layout)

    def one(leaf: Any) -> Any:
        leaf = value_of(leaf)
        if not isinstance(leaf, (torch.Tensor, np.ndarray)) or leaf.ndim < dims:
            return leaf
        return distribute_tensor(leaf, layout)

    return map_structure(one, structure)


def map_structure(function: Any, structure: Any) -> Any:
    """Keras's `tree.map_structure`, imported when it is needed."""
    from keras.src import tree

    return tree.map_structure(function, structure)
