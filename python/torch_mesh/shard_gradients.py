"""Gradients through shards: taking a tensor apart, and putting one together.

The two are each other's adjoint, so that gradients of gradients follow. What a
device holds of a value, and what of a value a device makes, is said by each
placement:

    S   device i holds its slice, and makes its slice
    R   each device holds the whole: gradients of all are summed.
        The first device of the axis makes the value: it alone gets a gradient
    P+  each device makes a part: each gets the whole gradient.
        The first device of the axis holds the sum formed so far, the others
        zeros: the gradient of the first is the value's
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_mesh import _C
from torch_mesh.layouts import Layout, coordinates_of

# R where the other has a sum over devices, and the reverse.
_ADJOINT = {"R": "P+", "P+": "R"}


def _adjoint(layout: Layout) -> Layout:
    return Layout(
        layout.mesh, [_ADJOINT.get(p, p) for p in layout._native.placements]
    )


def _reduced(layout: Layout) -> Layout:
    return Layout(
        layout.mesh,
        ["R" if p == "P+" else p for p in layout._native.placements],
    )


def _makes_value(layout: Layout, device: int) -> bool:
    """Whether the value is made of what this device, row-major, gives."""
    return not any(
        placement == "R" and coordinate
        for coordinate, placement in zip(
            coordinates_of(layout.mesh, device),
            layout._native.placements,
            strict=True,
        )
    )


class _TakeApart(torch.autograd.Function):
    """Shards of a global tensor, row-major."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> tuple[Tensor, ...]:
        context.layout = Layout._of(_C.layout_of(x))
        parts = tuple(_C.shards(x))
        context.parts = [
            None if part is None else (part.shape, part.dtype, part.device)
            for part in parts
        ]
        context.set_materialize_grads(False)
        return parts

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> Tensor | None:
        if all(gradient is None for gradient in gradients):
            return None
        given = [
            _zeros_like(part) if gradient is None else gradient
            for gradient, part in zip(gradients, context.parts, strict=True)
        ]
        return put_together(given, _adjoint(context.layout))


class _PutTogether(torch.autograd.Function):
    """The global tensor of which each device holds one of these."""

    @staticmethod
    def forward(context: Any, layout: Layout, *parts: Tensor | None) -> Tensor:
        context.layout = layout
        context.devices = [
            None if part is None else part.device for part in parts
        ]
        context.set_materialize_grads(False)
        return _C.from_shards(list(parts), layout._native)

    @staticmethod
    def backward(context: Any, gradient: Tensor | None) -> Any:
        if gradient is None:
            return (None,) * (1 + len(context.devices))
        layout = context.layout
        if _C.is_global(gradient):
            gradient = _C.redistribute(gradient, _reduced(layout)._native)
        else:
            gradient = _C.distribute(gradient, _reduced(layout)._native)
        return None, *(
            part.to(device)
            if part is not None and _makes_value(layout, number)
            else None
            for number, (part, device) in enumerate(
                zip(take_apart(gradient), context.devices, strict=True)
            )
        )


def _zeros_like(part: tuple[Any, ...] | None) -> Tensor | None:
    """Zeros of a shard's shape, dtype and device; None has none."""
    if part is None:
        return None
    shape, dtype, device = part
    return torch.zeros(shape, dtype=dtype, device=device)


def take_apart(x: Tensor) -> list[Any]:
    """The shards of a global tensor, row-major; differentiable.

    Args:
        x: A global tensor.

    Returns:
        List of plain tensors, one for each device of the mesh; None for those
        of other processes.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return list(_TakeApart.apply(x))
    return _C.shards(x)


def put_together(parts: Sequence[Tensor | None], layout: Layout) -> Tensor:
    """The global tensor of these shards; differentiable.

    Args:
        parts: Plain tensors, one for each device, row-major; None for those of
            other processes.
        layout: In which they make up a value.

    Returns:
        A global tensor, in memory of its own.
    """
    if torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in parts
    ):
        whole: Tensor = _PutTogether.apply(layout, *parts)
        return whole
    return _C.from_shards(list(parts), layout._native)
