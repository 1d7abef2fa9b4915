"""How far a value may lie from plain torch's: the order of its roundings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_mesh import _C, tensors

# Steps of rounding, in units of the dtype's epsilon and of the largest value,
# within which two orders of one sum are taken for equal without a closer look.
_STEPS = 64

# What a value may differ by, relative to the largest, where the op cannot be
# asked again how free it is.
LOOSE = 1e-4

# Times the change that a step of rounding in the arguments makes.
_FREE = 16


def value_of(x: torch.Tensor) -> torch.Tensor:
    """The whole value of a tensor; a sum that is pending stays so."""
    x = x.detach()
    if not _C.is_global(x):
        return x.resolve_conj().resolve_neg()
    if _C.layout_of(x).has_partial:
        x = x.clone()
    return tensors.full(x).resolve_conj().resolve_neg()


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Largest absolute difference, and largest absolute value of `b`.

    NaN equals NaN, and an infinity itself; else they differ by infinity.
    """
    if b.numel() == 0:
        return 0.0, 0.0
    if b.dtype == torch.bool or not (b.is_floating_point() or b.is_complex()):
        a, b = a.to(torch.int64), b.to(torch.int64)
    wide = torch.complex128 if b.is_complex() else torch.float64
    same = (a == b) | ((a != a) & (b != b))
    a, b = a.to(wide), b.to(wide)
    finite = torch.isfinite(a) & torch.isfinite(b)
    difference = torch.where(finite, (a - b).abs(), math.inf)
    difference = torch.where(same, 0.0, difference)
    sizes = torch.where(torch.isfinite(b), b.abs(), 0.0)
    return float(difference.max()), float(sizes.max())


def allowed_difference(
    plain: torch.Tensor,
    largest: float,
    scale: float,
    nudged: Callable[[], list[Any]],
) -> float:
    """How far from plain torch's value another order of roundings may lie.

    Args:
        plain: Plain torch's value.
        largest: The difference in question: it decides how closely to look.
        scale: Largest absolute value of `plain`.
        nudged: Gives the same value from arguments that are a step of rounding
            away, a few times; an empty list if that cannot be had.

    Returns:
        An absolute difference; 0 for integers and truths.
    """
    if not (plain.is_floating_point() or plain.is_complex()):
        return 0.0
    steps = _STEPS * torch.finfo(plain.dtype).eps * scale
    if largest <= steps:
        return steps
    moved = [
        largest_difference(value_of(value), plain)[0]
        for value in nudged()
        if isinstance(value, torch.Tensor) and value.shape == plain.shape
    ]
    return max(steps, _FREE * max(moved) if moved else LOOSE * scale)


def nudged_results(
    func: Callable[..., Any], args: Any, kwargs: Any
) -> list[list[Any]]:
    """Leaves of what plain torch gives for nudged arguments, twice."""
    found = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        move = functools.partial(nudged_copy, generator=generator)
        try:
            moved_args, moved_kwargs = pytree.tree_map(move, (args, kwargs))
            found.append(pytree.tree_leaves(func(*moved_args, **moved_kwargs)))
        except Exception:
            return []
    return found


def nudged_copy(leaf: Any, generator: torch.Generator) -> Any:
    """A copy with each element a step of rounding up or down."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    value = copied(leaf)
    if leaf.is_floating_point() or leaf.is_complex():
        signs = torch.rand(leaf.shape, generator=generator).sub_(0.5).sign_()
        steps = signs * torch.finfo(leaf.dtype).eps
        value = (value + leaf * steps).to(leaf.dtype)
    return value


def copied(leaf: Any) -> Any:
    """A tensor in memory of its own; all else as it is."""
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
