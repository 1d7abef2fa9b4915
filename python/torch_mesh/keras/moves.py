"""Models and optimizers that were built elsewhere.

A model that was built before the distribution was set, or under another one,
moves when it is used: its variables, its metrics, and the slots of all
optimizers that it holds. Optimizers that no model holds follow their weights
when they are applied.
"""

from __future__ import annotations

import collections
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from keras.src.backend.common import global_state, stateless_scope
from keras.src.models.model import Model
from keras.src.optimizers.base_optimizer import BaseOptimizer

import torch_mesh as tm
from torch_mesh.keras import (
    active,
    compat,
    layout_map,
    pattern_report,
    slots,
    torch_module,
)
from torch_mesh.keras import variable as variables
from torch_mesh.keras.describe import line as line_about

core = compat.core()

# The distribution that each model is placed for; None for none.
_placed: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
# The distribution whose patterns were looked for in each model.
_checked: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
# Models that were taken off the mesh and are to be called there.
_gathered: weakref.WeakSet[Any] = weakref.WeakSet()
# The layout of its first weight when each optimizer last followed.
_followed: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def prepare(model: Any, distribution: Any) -> None:
    """Moves a model to where a distribution wants it, and checks patterns.

    Args:
        model: A Keras model. Nothing happens if it is not built, or if it was
            prepared for this distribution.
        distribution: A `keras.distribution.Distribution`, or None: a model
            that lives on a mesh comes back to Keras's default device.
    """
    if not model.built:
        return
    if distribution is not None and not active.on_mesh():
        return
    _gathered.discard(model)
    if distribution is not None and _has_left(model):
        _placed.pop(model, None)
    _place(model, distribution, "fit")
    check(model, distribution)


def check(model: Any, distribution: Any) -> None:
    """Says once what became of a model: in the log, and what looks wrong.

    Args:
        model: A Keras model. Nothing happens if it is not built, or is a part
            of one that is called.
        distribution: The `keras.distribution.Distribution` in force, or None.
    """
    if (
        distribution is None
        or not model.built
        or _checked.get(model) is distribution
        or global_state.get_global_attribute("current_call_ctx") is not None
    ):
        return
    _checked[model] = distribution
    found = None
    patterns = getattr(distribution, "_layout_map", None)
    if patterns is not None:
        found = pattern_report.report(patterns, model)
        pattern_report.warn(patterns, model, found)
    layout_map.say(1, lambda: line_about(model, found))


def is_placed(model: Any, distribution: Any) -> bool:
    """Whether a model was moved to where a distribution wants it."""
    return _placed.get(model, model) is distribution


def at_call(model: Any, distribution: Any) -> None:
    """Moves a model that is called, unless it is a part of another.

    Args:
        model: A Keras model.
        distribution: The `keras.distribution.Distribution` in force.
    """
    if (
        model.built
        and model not in _gathered
        and active.on_mesh()
        and global_state.get_global_attribute("current_call_ctx") is None
        and not stateless_scope.in_stateless_scope()
        and not torch.compiler.is_compiling()
    ):
        _place(model, distribution, "call")


def after_call(model: Any, distribution: Any) -> None:
    """Says what became of a model that a call has built.

    Args:
        model: A Keras model.
        distribution: The `keras.distribution.Distribution` in force.
    """
    if active.on_mesh() and not stateless_scope.in_stateless_scope():
        check(model, distribution)


def forget(model: Any) -> None:
    """Lets the next `fit` ask again where a model should be.

    Args:
        model: A Keras model whose state has left the mesh. Calls leave it
            there.
    """
    _placed.pop(model, None)
    _gathered.add(model)


def follow(optimizer: Any) -> None:
    """Moves an optimizer's slots to where its weights are now.

    Args:
        optimizer: A Keras optimizer. Nothing happens if it is not built, or
            its weights are where they were at the last call.
    """
    weights = optimizer._trainable_variables
    if not weights:
        return
    layout = weights[0]._layout
    if _followed.get(optimizer, optimizer) is layout:
        return
    if stateless_scope.in_stateless_scope():
        return
    distribution = None
    if layout is not None:
        distribution = active.current()
        mesh = getattr(distribution, "device_mesh", None)
        if mesh is None or getattr(layout, "device_mesh", None) is not mesh:
            return  # weights of a mesh that is not in force
    _move_slots(_optimizers_in([optimizer]), distribution, {})
    _followed[optimizer] = layout


def optimizers_of(model: Any) -> list[Any]:
    """The optimizers that a model holds.

    Args:
        model: A Keras model or layer.

    Returns:
        Those among its attributes and the attributes of its layers, also in
        lists and dicts, and those that they wrap.
    """
    layers = model._flatten_layers()
    return _optimizers_in([list(vars(layer).values()) for layer in layers])


def _place(model: Any, distribution: Any, user: str) -> None:
    """Moves a model and says so, unless it is there."""
    if is_placed(model, distribution):
        return
    torch_module.name_variables(model)
    moved = _move(model, distribution)
    for part in model._flatten_layers():  # itself too
        if isinstance(part, Model):
            _placed[part] = distribution
    if moved:
        where = "the mesh" if distribution is not None else core.get_device()
        lines = [f"  {n}  {_STORIES[why][0]}" for why, n in moved.items()]
        why = moved.most_common(1)[0][0]
        warnings.warn(
            f'{user}: {moved.total()} variables of "{model.name}" move to '
            f"{where}. They were\n" + "\n".join(lines) + "\n"
            f"Hint: {_STORIES[why][1]} [late-distribution]",
            stacklevel=4,
        )


# Why a variable is not where it should be: what happened, and the way out.
_STORIES = {
    "before": (
        "made before the distribution was set",
        "call set_distribution before the model is built.",
    ),
    "device": (
        "made under keras.device, which holds inside of its block",
        "build the model outside of keras.device, or use it inside.",
    ),
    "taken": (
        'taken off the mesh since, as by model.to("cpu")',
        'to use the model off the mesh do so under keras.device("cpu"), or '
        "end the distribution.",
    ),
    "gathered": (
        "taken off the mesh by torch_mesh.keras.gather",
        "end the distribution with set_distribution(None) to stay off it.",
    ),
    "other": (
        "made under another distribution",
        "build the model under the distribution that it is used with.",
    ),
    "ended": (
        "on the mesh of a distribution that has ended: its scope was left, or "
        "set_distribution(None) or clear_session() called",
        "use the model inside of the scope; values and slots are kept.",
    ),
}


def _has_left(model: Any) -> bool:
    """Whether a weight that had a layout is plain: `model.to` took it."""
    return any(
        v._layout is not None
        and v._value is not None
        and not tm.is_global(v._value)
        for v in model.variables
    )


def _move(model: Any, distribution: Any) -> collections.Counter[str]:
    """Moves all state of a model; counts the variables that had to, by why."""
    own = {id(v): v for v in model.variables + model.metrics_variables}
    moved = collections.Counter(
        _move_one(v, distribution, None) for v in own.values()
    )
    moved += _move_slots(optimizers_of(model), distribution, own)
    del moved[""]
    return moved


def _move_slots(
    optimizers: list[Any], distribution: Any, own: Any
) -> collections.Counter[str]:
    """Moves the variables of optimizers but for those in `own`."""
    owners: dict[int, Any] = {}
    slots: dict[int, Any] = {}
    for optimizer in optimizers:
        owners.update(_owners(optimizer))
        slots.update((id(v), v) for v in optimizer.variables)
    return collections.Counter(
        _move_one(slot, distribution, owners.get(key))
        for key, slot in slots.items()
        if key not in own
    )


def _story(variable: Any, distribution: Any) -> str:
    """Why a variable is where it is."""
    if distribution is None:
        return "ended"
    if tm.is_global(variable._value):
        return "other"
    if variable._layout is not None:
        return "taken"
    story: str = getattr(variable, variables.OFF_THE_MESH, "before")
    return story


def _move_one(variable: Any, distribution: Any, owner: Any) -> str:
    """Moves one variable; a slot goes where its owner is.

    Returns:
        Why it had to, a key of `_STORIES`; "" if it stays.
    """
    value = variable._value
    if value is None:
        return ""
    why = _story(variable, distribution)
    if distribution is None:
        if not tm.is_global(value):
            return ""
        variable._layout = None
        value.grad = None
        value.data = tm.full(value.detach()).to(core.get_device())
        return why
    mesh = getattr(variable._layout, "device_mesh", None)
    if mesh is not None and mesh is not distribution.device_mesh:
        variable._layout = None
    if variable._layout is None:
        variable._layout = slots.layout_of(owner, distribution)
    if variable._layout is None:
        variable._layout = variables.layout_for(variable, distribution)
    if not variables.put(value, variable._layout):
        return ""
    vars(variable).pop(variables.OFF_THE_MESH, None)
    return why


def _owners(optimizer: Any) -> dict[int, Any]:
    """Id of a slot to the weight that it belongs to.

    Keras has a list for each kind of slot, in the order of the weights. Their
    names say less: two paths may become one name.
    """
    weights = optimizer._trainable_variables
    owners = {}
    for name, values in vars(optimizer).items():
        if (
            isinstance(values, (list, tuple))
            and len(values) == len(weights)
            and name not in ("_variables", "_trainable_variables")
        ):
            for slot, weight in zip(values, weights, strict=True):
                # Factored moments have other dims than their weight.
                if isinstance(slot, core.Variable) and (
                    slot.shape == weight.shape
                ):
                    owners[id(slot)] = weight
    return owners


def _optimizers_in(things: Iterable[Any]) -> list[Any]:
    """The optimizers in a nested structure, and those that they wrap."""
    found: list[Any] = []
    seen: set[int] = set()

    def look(thing: Any) -> None:
        parts: Any = ()
        if isinstance(thing, BaseOptimizer):
            parts = vars(thing).values()
        elif isinstance(thing, dict):
            parts = thing.values()
        elif isinstance(thing, (list, tuple, set)):
            parts = thing
        else:
            return
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, BaseOptimizer):
            found.append(thing)
        for part in parts:
            look(part)

    for thing in things:
        look(thing)
    return found
