"""Copies of what a step reads and writes, and what a function holds on to."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from torch_mesh import _C
from torch_mesh.op_memory import PlainMemory
from torch_mesh.rounding import nudged_copy, value_of


class Twin:
    """A deep copy of objects with tensors on the mesh.

    Hooks of leaves go with their copies.

    Attributes:
        objects: The copies.
        pairs: List of `(original, copy)` of all that was copied.
    """

    def __init__(
        self,
        objects: Any,
        on_mesh: bool,
        nudged: tuple[float, int] | None = None,
    ) -> None:
        memo: dict[int, Any] = {}
        try:
            self.objects = copy.deepcopy(objects, memo)
        except RuntimeError as error:
            raise TypeError(
                f"check_parity: the state cannot be copied: {error}\n"
                "Hint: give leaves, or x.detach(). [parity-state]"
            ) from error
        originals = memo.get(id(memo), [])
        self.pairs = [
            (original, memo[id(original)])
            for original in originals
            if id(original) in memo
        ]
        plain = PlainMemory([])
        for original, twin in self.pairs:
            if not isinstance(original, torch.Tensor):
                continue
            gradient = original.grad if original.is_leaf else None
            if not on_mesh and _C.is_global(twin):
                twin.grad = None
                twin.data = plain(twin)
            if nudged is not None:
                nudge(twin, *nudged)
            if gradient is not None:
                if on_mesh or not _C.is_global(gradient):
                    twin.grad = gradient.clone()
                else:
                    twin.grad = value_of(gradient)
            if original.is_leaf and original.requires_grad:
                _copy_hooks(original, twin)


def _copy_hooks(original: torch.Tensor, twin: torch.Tensor) -> None:
    """Gives a copy the hooks that a deep copy leaves out."""
    for hooks, register in (
        (original._backward_hooks, twin.register_hook),
        (
            original._post_accumulate_grad_hooks,
            twin.register_post_accumulate_grad_hook,
        ),
    ):
        for hook in (hooks or {}).values():
            if getattr(hook, "__module__", "").startswith("torch_mesh"):
                continue
            for name, value in held_by(hook):
                if on_mesh(value):
                    raise TypeError(
                        f"check_parity: a hook of a tensor uses {name}, which"
                        " is on the mesh, so no copy of it can be made.\n"
                        "Hint: do in the step what the hook does."
                        " [parity-state]"
                    )
            register(hook)


def nudge(x: torch.Tensor, least: float = 0.0, seed: int = 0) -> None:
    """Moves each element by a step of rounding, up or down, in place."""
    generator = torch.Generator().manual_seed(x.numel() + seed)
    x.data.copy_(nudged_copy(x.detach(), generator, least))


def held_by(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What a function uses beside its arguments: names and values.

    Args:
        function: Of Python; others hold nothing that can be seen.
    """
    inner: Any = function
    held: list[tuple[str, Any]] = []
    while isinstance(inner, functools.partial):
        held += [("an argument of the partial", a) for a in inner.args]
        held += list(inner.keywords.items())
        inner = inner.func
    if hasattr(inner, "__self__"):
        held.append(("the object of the method", inner.__self__))
        inner = getattr(inner, "__func__", inner)
    code = getattr(inner, "__code__", None)
    if code is not None:
        for name, cell in zip(
            code.co_freevars, inner.__closure__ or (), strict=True
        ):
            held.append((name, _contents(cell)))
        held += [
            (name, inner.__globals__[name])
            for name in code.co_names
            if name in inner.__globals__
        ]
    return held


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def on_mesh(value: Any) -> bool:
    """Whether there is a global tensor in a value."""
    return any(True for _ in global_tensors_in(value))


def global_tensors_in(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    """The global tensors in a value.

    Args:
        value: Anything.
        depth: How many levels below are looked into.
    """
    inside: Iterable[Any]
    if isinstance(value, torch.Tensor):
        if _C.is_global(value):
            yield value
        return
    if isinstance(value, torch.nn.Module):
        inside = (*value.parameters(), *value.buffers())
    elif isinstance(value, torch.optim.Optimizer):
        inside = [p for g in value.param_groups for p in g["params"]]
    elif depth == 0 or isinstance(value, type | types.ModuleType):
        return
    elif isinstance(value, dict):
        inside = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    else:
        inside = getattr(value, "__dict__", {}).values()
    for member in inside:
        yield from global_tensors_in(member, depth - 1)
