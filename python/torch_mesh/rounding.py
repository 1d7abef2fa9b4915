"""How far a value may lie from plain torch's: the order of its roundings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from torch_mesh import _C

# Steps of rounding, in units of the dtype's epsilon and of the largest value,
# within which two orders of one sum are taken for equal without a closer look.
# Sums of the 16-bit dtypes are formed in float32, and rounded once.
_STEPS = 64
_STEPS_OF_HALF = 4

# What a value may differ by, relative to the largest, where the op cannot be
# asked again how free it is.
LOOSE = 1e-4

# Values below this part of the largest one have a scale of their own, if none
# lies between: scores beside the -1e9 that fills their mask.
_TOWERS = 1e-4

# Times the change that a step of rounding in the arguments makes.
_FREE = 16
_FREE_OF_HALF = 4


def value_of(x: torch.Tensor) -> torch.Tensor:
    """The whole value of a tensor, dense; a sum that is pending stays so."""
    x = x.detach()
    if x._is_zerotensor():  # a tangent without memory
        return torch.zeros(x.shape, dtype=x.dtype)
    if x.layout == torch.sparse_coo:
        x = x.to_dense()
    if not _C.is_global(x):
        return x.resolve_conj().resolve_neg()
    if _C.layout_of(x).has_partial:
        x = x.clone()
    return _C.full(x).resolve_conj().resolve_neg()


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Largest absolute difference, and largest absolute value of `b`.

    NaN equals NaN, and an infinity itself; else they differ by infinity.
    """
    if b.numel() == 0:
        return 0.0, 0.0
    difference, sizes = _differences(a, b)
    return float(difference.max()), float(sizes.max())


def unlike(
    a: torch.Tensor,
    b: torch.Tensor,
    nudged: Callable[[], list[Any]] = list,
    loose: float = LOOSE,
) -> tuple[float, float] | None:
    """By how much `a` differs where no order of roundings explains it.

    Args:
        a: The value in question.
        b: Plain torch's value.
        nudged: Gives the same value from arguments that are a step of rounding
            away, a few times; an empty list if that cannot be had. It is asked
            only where there is a difference of many steps.
        loose: What it may differ by, relative to the largest, without those.

    Returns:
        Largest absolute difference, and the largest absolute value of those
        that it stands among; None if the two are alike.
    """
    if b.numel() == 0:
        return None
    difference, sizes = _differences(a, b)
    if not (b.is_floating_point() or b.is_complex()):
        largest = float(difference.max())
        return (largest, float(sizes.max())) if largest > 0 else None
    is_half = b.dtype.itemsize == 2
    step = torch.finfo(b.dtype).eps * (_STEPS_OF_HALF if is_half else _STEPS)
    free: torch.Tensor | None = None
    for places in _alike_in_size(sizes):
        of_these, scale = difference[places], float(sizes[places].max())
        steps = step * scale
        if float(of_these.max()) <= steps:
            continue
        if free is None:
            free = _free(b, nudged())
        if free.numel() == 0:
            allowed = loose * scale
        else:
            moved = free[places]
            bounded = torch.isfinite(moved)
            of_these, moved = of_these[bounded], moved[bounded]
            if of_these.numel() == 0:
                continue
            allowed = (_FREE_OF_HALF if is_half else _FREE) * float(moved.max())
        largest = float(of_these.max())
        if largest > max(steps, allowed):
            return largest, scale
    return None


def _differences(
    a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Absolute differences, and absolute values of `b`, element by element."""
    if b.dtype == torch.bool or not (b.is_floating_point() or b.is_complex()):
        a, b = a.to(torch.int64), b.to(torch.int64)
    wide = torch.complex128 if b.is_complex() else torch.float64
    same = (a == b) | ((a != a) & (b != b))
    a, b = a.to(wide), b.to(wide)
    finite = torch.isfinite(a) & torch.isfinite(b)
    difference = torch.where(finite, (a - b).abs(), math.inf)
    difference = torch.where(same, 0.0, difference)
    return difference, torch.where(torch.isfinite(b), b.abs(), 0.0)


def _alike_in_size(sizes: torch.Tensor) -> Iterator[torch.Tensor]:
    """Masks of the elements that have one scale.

    All, and where some tower above the rest with nothing between, as what
    fills a mask does, the rest by themselves.
    """
    yield torch.ones_like(sizes, dtype=torch.bool)
    largest = sizes.max()
    rest = sizes < _TOWERS * largest
    between = ~rest & (sizes < 0.1 * largest)
    if rest.any() and not between.any() and sizes[rest].max() > 0:
        yield rest


def _free(plain: torch.Tensor, nudged: list[Any]) -> torch.Tensor:
    """How far each element moves with a step of rounding; empty if unknown."""
    found = [
        _differences(value_of(value), plain)[0]
        for value in nudged
        if isinstance(value, torch.Tensor) and value.shape == plain.shape
    ]
    return torch.stack(found).amax(0) if found else torch.empty(0)


class Moved(NamedTuple):
    """A call with nudged arguments: leaves of its results, and of those."""

    results: list[Any]
    arguments: list[Any]


def nudged_calls(
    func: Callable[..., Any], args: Any, kwargs: Any
) -> list[Moved]:
    """What plain torch makes of nudged arguments, twice."""
    found = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        move = functools.partial(nudged_copy, generator=generator)
        try:
            moved_args, moved_kwargs = pytree.tree_map(move, (args, kwargs))
            results = pytree.tree_leaves(func(*moved_args, **moved_kwargs))
        except Exception:
            return []
        arguments = pytree.tree_leaves((moved_args, moved_kwargs))
        found.append(Moved(results, arguments))
    return found


def nudged_copy(
    leaf: Any, generator: torch.Generator, least: float = 0.0
) -> Any:
    """A copy with each element a step of rounding up or down.

    Args:
        leaf: a tensor; all else is given back.
        generator: draws the directions.
        least: the least step, relative to an element.
    """
    if not isinstance(leaf, torch.Tensor):
        return leaf
    value = copied(leaf)
    if leaf.is_floating_point() or leaf.is_complex():
        signs = torch.rand(leaf.shape, generator=generator).sub_(0.5).sign_()
        steps = signs * max(torch.finfo(leaf.dtype).eps, least)
        moved = (value + leaf * steps).to(leaf.dtype)
        value = torch.where(leaf == 0, value, moved)  # a zero keeps its sign
    return value


def half_step(tree: Any) -> float:
    """The largest epsilon of the tensors of 16-bit floats; 0 without any."""
    return max(
        (
            torch.finfo(leaf.dtype).eps
            for leaf in pytree.tree_leaves(tree)
            if isinstance(leaf, torch.Tensor)
            and leaf.is_floating_point()
            and leaf.dtype.itemsize == 2
        ),
        default=0.0,
    )


def copied(leaf: Any) -> Any:
    """A tensor in memory of its own; all else as it is."""
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
