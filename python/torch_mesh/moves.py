"""Layouts of parameters and states that modules, optimizers and programs move.

torch moves the tensors of a module one by one, and knows no layouts: they would
come back replicated. What is here lets them keep theirs.
"""

from __future__ import annotations

import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_pre_hook,
)
from torch.utils.weak import WeakTensorKeyDictionary

from torch_mesh import _C, state_layouts, tensors
from torch_mesh.in_force import batches_paused, current_mesh
from torch_mesh.layouts import Layout, Placements, as_layout
from torch_mesh.patching import Group, Patch, Table

# The layouts in which the tensors of modules stood that have left the mesh.
_left: weakref.WeakKeyDictionary[Module, dict[str, Layout]] = (
    weakref.WeakKeyDictionary()
)
# Counts parameters that changed their layout; states of optimizers follow.
_num_changes = 0
_followed: weakref.WeakKeyDictionary[Optimizer, int] = (
    weakref.WeakKeyDictionary()
)
_hook: Any = None
_has_warned_of_no_mesh = False


def redistribute(x: Tensor, placements: Placements | Layout) -> Tensor:
    """The same value in another layout, in memory of its own.

    Args:
        x: a global tensor.
        placements: placements on the mesh of `x`, or a `Layout`.

    Returns:
        A global tensor. Differentiable. Of a `Parameter` it is a tensor like
        any other; assigned to the module in place of that parameter it changes
        its layout, as `redistribute_` does.

    Raises:
        ValueError: if `x` is not on the mesh, or the layout does not fit.
    """
    if tensors.plain_threads and tensors.runs_plain():
        return tensors.plain_copy(tensors.tensor_for("redistribute", x))
    try:
        if not isinstance(placements, Layout):
            if placements is None:
                raise TypeError(
                    "redistribute: placements are due, and this is None.\n"
                    'Hint: ("R",) on each axis replicates. [argument-type]'
                )
            placements = as_layout(tensors.layout(x).mesh, placements, x.dim())
        to = placements._native
        checked = tensors.tensor_for("redistribute", x)
        if tensors.movers:
            moved = tensors.move(
                "redistribute", checked, lambda x: _C.redistribute(x, to)
            )
        else:
            moved = _C.redistribute(checked, to)
    except ValueError:
        if tensors.is_global(x):
            raise
        raise ValueError(
            f"redistribute: the tensor is on {x.device}, not on the mesh.\n"
            "Hint: use distribute. [not-global]"
        ) from None
    # isinstance asks a metaclass in Python, for every tensor.
    if type(x) is not Tensor and isinstance(x, Parameter):
        _remember(x, moved)
    return moved


def redistribute_(x: Tensor, placements: Placements | Layout) -> Tensor:
    """Changes the layout of a tensor in place.

    Views, `detach()` and all else that shares the memory see it too. A
    `Parameter` stays the same object, for modules, ties and optimizers. Its
    gradient follows, and so do the states that optimizers hold of it, at their
    next step.

    Args:
        x: a global tensor that is no view of another.
        placements: placements on the mesh of `x`, or a `Layout`, also of
            another mesh.

    Returns:
        `x`.

    Raises:
        ValueError: if `x` is not on the mesh or is a view, or the layout does
            not fit.

    Example:
        >>> linear = torch.nn.Linear(4, 6)
        >>> linear = parallelize(linear, Mesh({"data": 2, "model": 2}))
        >>> layout(redistribute_(linear.weight, {"model": "S0"}))
        (R, S0)
    """
    if tensors.runs_plain():
        return x
    if not tensors.is_global(x):
        redistribute(x, placements)  # says what is wrong
    if not isinstance(placements, Layout):
        placements = as_layout(tensors.layout(x).mesh, placements, x.dim())
    if x._is_view() or not place(x, placements, may_part=False):
        raise ValueError(
            "redistribute_: the tensor is a view, and shares its memory with"
            f" others.\n  layout  {tensors.layout(x)}\n"
            "Hint: redistribute_ its base, or use redistribute for a copy."
            " [view-layout]"
        )
    return x


def place(x: Tensor, layout: Layout, may_part: bool = True) -> bool:
    """Brings a tensor and its gradient, from wherever, into a layout.

    A global tensor that is all of its storage changes the layout of that, for
    all who share it.

    Args:
        x: any tensor but one of the meta device; keeps its identity.
        layout: fits its shape.
        may_part: whether a part of a storage gets memory of its own.

    Returns:
        Whether it is there now.
    """
    is_global = tensors.is_global(x)
    if is_global and _C.layout_of(x) == layout._native:
        return True
    grad = x.grad if x.is_leaf else None
    with torch.no_grad():
        if not is_global or not _C.change_layout(x.detach(), layout._native):
            if is_global and not may_part:
                return False
            x.grad = None
            x.data = _in_layout(x.detach(), layout)
        if grad is not None:
            x.grad = _in_layout(grad.detach(), layout)
    _note_change()
    return True


def _note_change() -> None:
    """Has the states of all optimizers follow at their next step."""
    global _num_changes, _hook
    _num_changes += 1
    if _hook is None:
        _hook = register_optimizer_step_pre_hook(
            lambda optimizer, args, kwargs: states_follow(optimizer)
        )


def _in_layout(x: Tensor, layout: Layout) -> Tensor:
    to = layout._native
    if not _C.is_global(x):
        return tensors.move("distribute", x, lambda x: _C.distribute(x, to))
    if _C.is_unwritten(x):
        return unwritten_like(x, layout)
    if _C.layout_of(x) == to:
        return x
    return tensors.move("redistribute_", x, lambda x: _C.redistribute(x, to))


def unwritten_like(x: Tensor, layout: Layout) -> Tensor:
    """Memory for a tensor of this shape in a layout, not yet allocated.

    Args:
        x: tensor on any device, also the meta device.
        layout: fits its shape.

    Returns:
        A global tensor of the sizes, strides and dtype of `x`.
    """
    return _C.unwritten(
        list(x.shape), list(x.stride()), x.dtype, layout._native
    )


def let_states_follow(optimizer: Optimizer) -> None:
    """Has the states of an optimizer follow at its next step."""
    _followed.pop(optimizer, None)


def states_follow(optimizer: Optimizer) -> None:
    """Before a step: states take the layouts that their parameters have.

    Those of a cut optimizer are cut.
    """
    if _followed.get(optimizer) == _num_changes:
        return
    now = _num_changes
    is_cut = state_layouts.is_cut(optimizer)
    for parameter, states in optimizer.state.items():
        if not tensors.is_global(parameter) or not isinstance(states, dict):
            continue
        layout = _settled(tensors.layout(parameter))
        if is_cut:
            layout = state_layouts.of_states(parameter, layout)
        for name, state in states.items():
            if (
                isinstance(state, Tensor)
                and state.dim() > 0
                and state.shape == parameter.shape
            ):
                with torch.no_grad():
                    states[name] = _in_layout(state, layout)
    _followed[optimizer] = now


def _settled(layout: Layout) -> Layout:
    """With R for each sum that is still to be formed."""
    if not layout._native.has_partial:
        return layout
    return Layout(
        layout.mesh,
        ["R" if p.startswith("P") else p for p in layout.placements],
    )


# Replacements; `torch_patches.py` says what for.


def distributed_data_parallel_init(init: Any) -> Any:
    """Wraps `DistributedDataParallel.__init__`: of the mesh it raises."""

    @functools.wraps(init)
    def checked(self: Any, module: Module, *args: Any, **kwargs: Any) -> None:
        if isinstance(module, Module) and any(
            map(tensors.is_global, module.parameters())
        ):
            raise ValueError(
                "DistributedDataParallel: the module is on the mesh, where it"
                " is not needed: gradients are summed over the devices by"
                " themselves.\nHint: use the module as it is, and cut batches"
                " with torch_mesh.use(mesh, batch=...). [not-needed]"
            )
        init(self, module, *args, **kwargs)

    return checked


def _tensors_of(module: Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that are the module's own."""
    for owned in (module._parameters, module._buffers):
        for name, tensor in owned.items():
            if tensor is not None:
                yield name, tensor


def _layouts_of(module: Module) -> dict[str, Layout]:
    return {
        name: _settled(tensors.layout(tensor))
        for name, tensor in _tensors_of(module)
        if tensors.is_global(tensor)
    }


def module_apply(apply: Callable[..., Module]) -> Callable[..., Module]:
    """Wraps `Module._apply`: `module.cpu()` and back is as it stood.

    No parameter is a batch.
    """

    @functools.wraps(apply)
    def applied(self: Module, fn: Any, recurse: bool = True) -> Module:
        before = _layouts_of(self)
        with batches_paused():
            result = apply(self, fn, recurse)
        _follow(self, before)
        return result

    return applied


def _follow(module: Module, before: dict[str, Layout]) -> None:
    left = _left.get(module)
    mesh = current_mesh()
    for name, tensor in _tensors_of(module):
        is_global = tensors.is_global(tensor)
        if name in before and not is_global:
            if left is None:
                left = _left[module] = {}
            left[name] = before[name]
        elif name not in before and is_global:
            layout = None if left is None else left.pop(name, None)
            if layout is not None and mesh in (None, layout.mesh):
                if fits(layout, tensor):
                    place(tensor, layout)
            elif mesh is None:
                _warn_of_no_mesh(tensor)


def fits(layout: Layout, tensor: Tensor) -> bool:
    try:
        layout.shard_shape(tensor.shape)
    except ValueError:
        return False
    return True


def _warn_of_no_mesh(tensor: Tensor) -> None:
    global _has_warned_of_no_mesh
    if _has_warned_of_no_mesh or tensors.layout(tensor).mesh.axis_names:
        return
    _has_warned_of_no_mesh = True
    warnings.warn(
        'Module.to("mesh"): no mesh is in force, so nothing is distributed:'
        " the module has one copy, and takes the mesh of what it meets.\n"
        "Hint: torch_mesh.use(mesh) before, or torch_mesh.parallelize(model,"
        " mesh). [no-mesh]",
        stacklevel=_level_of_caller(),
    )


def _level_of_caller() -> int:
    """Of the frame that called into torch, as `warnings.warn` counts."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in ("torch", "torch_mesh"):
            break
        level, frame = level + 1, frame.f_back
    return level


def load_from_state_dict(load: Callable[..., None]) -> Callable[..., None]:
    """Wraps `Module._load_from_state_dict`: layouts stay.

    But for `assign=True` of tensors on the mesh: what is assigned is taken.
    Memory that nobody has written would take the layout of what is copied.
    """

    @functools.wraps(load)
    def loaded(
        self: Module,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        is_assigned = local_metadata.get("assign_to_params_buffers", False)
        before = _layouts_of(self)
        load(self, state_dict, prefix, local_metadata, *args, **kwargs)
        for name, tensor in _tensors_of(self) if before else ():
            if name not in before or tensor.is_meta:
                continue
            is_chosen = is_assigned and tensors.is_global(tensor)
            if not is_chosen and fits(before[name], tensor):
                place(tensor, before[name])

    return loaded


def process_value(process: Callable[..., Tensor]) -> Any:
    """Wraps what `Optimizer.load_state_dict` does with a state.

    It stands as its parameter does, or cut if a cut optimizer has the
    parameter: torch does not say whose the state is.
    """

    @functools.wraps(process)
    def processed(
        param: Tensor,
        value: Tensor,
        param_id: int,
        param_groups: list[dict[Any, Any]],
        key: Any = None,
    ) -> Tensor:
        if not tensors.is_global(param):
            return process(param, value, param_id, param_groups, key)
        layout = _settled(tensors.layout(param))
        if key == "step" or value.dim() == 0 or value.shape != param.shape:
            with batches_paused():
                state = process(param, value, param_id, param_groups, key)
            if not tensors.is_global(state) or not layout.mesh.axis_names:
                return state
            layout = as_layout(layout.mesh)
        else:
            if state_layouts.is_updated_cut(param):
                layout = state_layouts.of_states(param, layout)
                _note_change()
            is_float = param.is_floating_point()
            state = value.to(param.dtype) if is_float else value
        with torch.no_grad():
            return _in_layout(state, layout)

    return staticmethod(processed)


def _remember(parameter: Tensor, moved: Tensor) -> None:
    """`model.weight = redistribute(model.weight, ...)` means `redistribute_`.

    Args:
        parameter: what was redistributed.
        moved: what `redistribute` gives for it.
    """
    if not _ASSIGNMENTS.done:
        _ASSIGNMENTS.apply()
    _source_of[moved] = weakref.ref(parameter)


_source_of = WeakTensorKeyDictionary()


def _set_attribute(assigns: Callable[..., None]) -> Callable[..., None]:
    """Wraps `Module.__setattr__`."""

    @functools.wraps(assigns)
    def __setattr__(self: Module, name: str, value: Any) -> None:
        try:
            assigns(self, name, value)
        except TypeError as error:
            parameter = self.__dict__.get("_parameters", {}).get(name)
            if parameter is None or not tensors.is_global(value):
                raise
            source = _source_of.get(value)
            if source is None or source() is not parameter:
                raise TypeError(
                    f"{error}.\nHint: torch_mesh.redistribute_(parameter,"
                    " placements) changes a layout; a new value goes in with"
                    " torch.nn.Parameter(value). [not-a-parameter]"
                ) from None
            place(parameter, tensors.layout(value))

    return __setattr__


# Applied by the first who redistributes a parameter: all others assign as fast
# as in plain torch.
_ASSIGNMENTS = Table(
    (
        Group(
            "assigned parameters",
            (
                Patch(
                    "torch.nn",
                    "Module.__setattr__",
                    _set_attribute,
                    "a parameter in another layout stays the same parameter",
                    expects="self, name, value",
                ),
            ),
        ),
    ),
    lambda: torch.__version__,
)
