"""Layouts of slots under a distribution that cuts optimizers."""

from __future__ import annotations

from typing import Any

from keras.src.distribution import TensorLayout

from torch_mesh import state_layouts
from torch_mesh.keras import layouts


def axis_of(distribution: Any) -> str | None:
    """The axis over which a distribution cuts optimizers.

    Args:
        distribution: A `keras.distribution.Distribution`, or None.

    Returns:
        That of its batches if its `shard_optimizer` is true, else None.
    """
    if not getattr(distribution, "shard_optimizer", False):
        return None
    name: str = distribution.batch_dim_name
    return name


def is_on_mesh_of(variable: Any, distribution: Any) -> bool:
    """Whether a variable is laid out on the mesh of a distribution."""
    layout = getattr(variable, "_layout", None)
    mesh = getattr(layout, "device_mesh", None)
    return mesh is not None and mesh is distribution.device_mesh


def layout_of(variable: Any, distribution: Any) -> Any:
    """The layout of the slots of a variable.

    Args:
        variable: A Keras `Variable`; None has no layout.
        distribution: The `keras.distribution.Distribution` in force, or None.

    Returns:
        The layout of the variable, cut over the axis of batches if the
        distribution says so and there is a dim to cut.
    """
    layout: Any = getattr(variable, "_layout", None)
    axis = axis_of(distribution)
    if axis is None or not is_on_mesh_of(variable, distribution):
        return layout
    whole = layouts.backend_layout(layout)
    shape = tuple(variable.shape)
    cut = state_layouts.cut_layout(whole, shape, axis)
    if cut == whole:
        return layout
    placement = cut.placements[cut.mesh.axis_names.index(axis)]
    axes = [*layout.axes, *[None] * (len(shape) - len(layout.axes))]
    axes[int(placement.removeprefix("S"))] = axis
    return TensorLayout(axes, layout.device_mesh)


def reference_of(variable: Any, distribution: Any) -> Any:
    """What `add_variable_from_reference` is to see of a variable.

    Args:
        variable: A Keras `Variable`.
        distribution: The `keras.distribution.Distribution` in force, or None.

    Returns:
        The variable itself, or what looks like it but for its layout.
    """
    layout = layout_of(variable, distribution)
    if layout is getattr(variable, "_layout", None):
        return variable
    return _Reference(variable, layout)


class _Reference:
    """A variable in another layout."""

    def __init__(self, variable: Any, layout: Any) -> None:
        self._variable = variable
        self._layout = layout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._variable, name)
