"""How a Keras variable gets its layout and its place on the mesh.

The counterpart of the JAX backend's `Variable`: the distribution in force is
asked for a layout by the variable's path, the value is placed, and only then
wrapped in a `Parameter`, because a Parameter that is moved is another one.
Later assignments are copies into the placed memory and keep the layout.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from keras.src.distribution import TensorLayout

from torch_mesh import blocks
from torch_mesh.keras import (
    active,
    compat,
    data,
    host_memory,
    initial,
    layout_map,
    torch_module,
)
from torch_mesh.keras.describe import placement_text

core = compat.core()

# The state of a SeedGenerator steers every device, so it is whole on each,
# whatever a greedy pattern says.
_SEED_STATE = "seed_generator_state"

# Attribute of a variable that `keras.device` or `gather` keeps off the mesh
# under a distribution: "device" or "gathered".
OFF_THE_MESH = "_torch_mesh_off"


def initialize_layout(variable: Any) -> None:
    """Gives a variable the layout that the distribution has for it.

    Args:
        variable: A Keras `Variable` whose `_shape` is known. One that brings
            its own layout keeps it.

    Raises:
        ValueError: if two patterns of a LayoutMap match its path, or its
            layout has more entries than it has dims (a pattern that only
            torch-mesh matches warns instead).
    """
    distribution = active.current()
    if variable._layout is not None:
        axes = getattr(variable._layout, "axes", ())
        if len(axes) > len(variable._shape):
            layout_map.report_rank(variable, axes, None)
    elif distribution is not None:
        variable._layout = layout_for(variable, distribution)
    if variable._layout is not None:
        layout_map.say(2, lambda: placement_text(variable))


def layout_for(variable: Any, distribution: Any) -> Any:
    """The layout of a variable under a distribution.

    Args:
        variable: A Keras `Variable`.
        distribution: A `keras.distribution.Distribution`.

    Returns:
        A Keras `TensorLayout`, or what the distribution gives.

    Raises:
        ValueError: as `initialize_layout`.
    """
    replicated = TensorLayout(
        [None] * len(variable.shape), distribution.device_mesh
    )
    variable._torch_mesh_pattern = ""
    if variable.name == _SEED_STATE:
        return replicated
    layout = distribution.get_variable_layout(variable)
    found = layout_map.found_by(distribution, variable)
    if torch_module.has_name(variable) and found and found.layout is not None:
        layout = found.layout
    axes = getattr(layout, "axes", ())
    if len(axes) > len(variable.shape):
        layout_map.report_rank(variable, axes, found)
        return replicated
    if found is not None and found.layout is layout:
        variable._torch_mesh_pattern = found.pattern or ""
    return layout


def initialize(
    variable: Any, value: Any, original: Callable[[Any, Any], None]
) -> None:
    """`Variable._initialize` under a distribution.

    Args:
        variable: A Keras `Variable`.
        value: A tensor. A `Parameter` is kept, as the same object.
        original: Keras's own method.
    """
    if not _is_placed(variable):
        _note_device(variable)
        original(variable, value)
        return
    variable._shape = variable._validate_shape(value.shape)
    torch_module.name_variable(variable, value)
    initialize_layout(variable)
    if isinstance(value, torch.nn.Parameter):
        put(value, variable._layout)
        variable._value = value
        return
    _wrap(variable, core.convert_to_tensor(value, dtype=variable._dtype))


def initialize_with_initializer(
    variable: Any, initializer: Any, original: Callable[[Any, Any], None]
) -> None:
    """`Variable._initialize_with_initializer` under a distribution.

    Initial values are drawn on the host, with the numbers of a plain CPU
    program, and go from there to the shards: block by block if there are more
    than `initial.BLOCK_ELEMENTS`, so that a large weight is whole nowhere.

    Args:
        variable: A Keras `Variable`.
        initializer: A callable `(shape, dtype)`, or `(shape, dtype, layout)`
            that places its result itself.
        original: Keras's own method.
    """
    if not _is_placed(variable):
        _note_device(variable)
        original(variable, initializer)
        return
    initialize_layout(variable)
    if _takes_layout(initializer):
        value = initializer(
            variable._shape, dtype=variable._dtype, layout=variable._layout
        )
        _wrap(variable, core.convert_to_tensor(value))
        return
    if _is_large(variable):
        host_memory.trim()  # of a model that was there before
        blank = blocks.zeros(
            getattr(variable._layout, "backend_layout", variable._layout),
            variable._shape,
            core.to_torch_dtype(variable._dtype),
        )
        if initial.fill(blank, initializer, variable._dtype):
            variable._value = torch.nn.Parameter(
                blank, requires_grad=variable.trainable
            )
            return
        del blank
    with core.device_scope("cpu"):
        value = core.convert_to_tensor(
            initializer(variable._shape, dtype=variable._dtype)
        )
    _wrap(variable, value)


def put(parameter: torch.nn.Parameter, layout: Any) -> bool:
    """Moves a Parameter to a layout; it stays the same object.

    Args:
        parameter: A Parameter on any device. Its gradient is dropped if it
            has to move.
        layout: A Keras `TensorLayout` or a `torch_mesh.Layout`.

    Returns:
        Whether it had to move.
    """
    with torch.no_grad():
        value = parameter.detach()
        placed = data.distribute_tensor(value, layout)
    if placed is value:
        return False
    parameter.grad = None
    parameter.data = placed
    return True


def _is_placed(variable: Any) -> bool:
    """Whether this variable goes to the mesh.

    It does with a layout of its own, and under a distribution unless
    `keras.device` says otherwise.
    """
    if str(core.get_device()) == "meta":
        return False
    return variable._layout is not None or active.on_mesh()


def _note_device(variable: Any) -> None:
    """Remembers that `keras.device` keeps a variable off the mesh."""
    if str(core.get_device()) != "meta":
        setattr(variable, OFF_THE_MESH, "device")


def _is_large(variable: Any) -> bool:
    """Whether a variable's initial values are drawn in blocks."""
    return (
        variable._layout is not None
        and math.prod(variable._shape) > initial.BLOCK_ELEMENTS
    )


def _wrap(variable: Any, value: torch.Tensor) -> None:
    placed = data.distribute_variable(value, variable._layout)
    variable._value = torch.nn.Parameter(
        placed, requires_grad=variable.trainable
    )


def _takes_layout(initializer: Any) -> bool:
    try:
        return "layout" in inspect.signature(initializer).parameters
    except (TypeError, ValueError):  # builtins have no signature
        return False
