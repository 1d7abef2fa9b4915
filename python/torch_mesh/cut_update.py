"""Weights that are cut while an optimizer updates them.

In one update a device reads and writes its part of each weight, with its part
of the gradient and of the states: gradients that are pending sums are
reduce-scattered, and the new weights all-gathered, each in buckets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_mesh import _C, moves, state_layouts, tensors
from torch_mesh.layouts import Layout


class Weight(NamedTuple):
    """A weight that an update is about to cut.

    Attributes:
        tensor: the weight, whole over the axis.
        gradient: of its shape; None if it has none on its mesh.
        layout: in which it is updated.
    """

    tensor: Tensor
    gradient: Tensor | None
    layout: Layout


def to_cut(
    pairs: Iterable[tuple[Tensor, Any]], axis: str | None
) -> list[Weight]:
    """Those among weights that can be cut over an axis.

    Not cut are plain weights, those that share their memory with another of
    them, and those of which `state_layouts.cut_layout` finds no dim.

    Args:
        pairs: weights, and the gradient of each or None.
        axis: as for `state_layouts.axis_on`.

    Raises:
        ValueError: if the mesh has no such axis.
    """
    known = [(w, g) for w, g in pairs if tensors.is_global(w)]
    users = Counter(w.untyped_storage()._cdata for w, _ in known)
    found = []
    for weight, gradient in known:
        layout = tensors.layout(weight)
        over = state_layouts.axis_on(layout.mesh, axis)
        cut = state_layouts.cut_layout(layout, weight.shape, over)
        if cut == layout or users[weight.untyped_storage()._cdata] > 1:
            continue
        state_layouts.note_weight(weight, over)
        found.append(
            Weight(weight, gradient if _fits(gradient, cut) else None, cut)
        )
    return found


def of_gradients(gradients: Iterable[Tensor]) -> list[Weight]:
    """The weights that were cut before, and have these gradients."""
    found = []
    for weight in state_layouts.weights_of(gradients):
        layout = tensors.layout(weight)
        cut = state_layouts.of_states(weight, layout)
        if cut != layout and _fits(weight.grad, cut):
            found.append(Weight(weight, weight.grad, cut))
    return found


def form_gradients(weights: Iterable[Weight]) -> None:
    """Brings gradients to the layouts in which their weights are updated.

    Pending sums are formed in parts, a reduce-scatter for each bucket of 25
    MiB; what is summed already is cut, and nothing moves. The tensors stay the
    same objects, with the same values.
    """
    found = [(w.gradient, w.layout) for w in weights if w.gradient is not None]
    with torch.no_grad():
        pending = [(g, to) for g, to in found if _C.layout_of(g).has_partial]
        # A list op forms the sums that it reads where they lie, in the layout
        # of what it writes.
        _copy([(moves.unwritten_like(g, to), g) for g, to in pending])
        for gradient, to in found:
            if _C.layout_of(gradient) != to._native:
                _C.change_layout(gradient.detach(), to._native)


class CutUpdate:
    """Weights that stand cut, until they are given back.

    A weight stays the same tensor, and its memory what it is: it looks at a cut
    copy meanwhile. So views of weights, and tensors that share their memory, do
    not see an update before its end.
    """

    def __init__(self) -> None:
        self._taken: list[tuple[Tensor, Tensor]] = []

    def take(self, weights: Iterable[Weight]) -> None:
        """Cuts weights; nothing moves.

        Args:
            weights: what `to_cut` gives.
        """
        with torch.no_grad():
            pairs = [
                (w.tensor, moves.unwritten_like(w.tensor, w.layout))
                for w in weights
            ]
            _copy([(cut, weight) for weight, cut in pairs])
            # From here on nothing fails.
            for weight, cut in pairs:
                self._taken.append((weight, weight.data))
                weight.data = cut

    def give_back(self, is_updated: bool = True) -> None:
        """Has each weight look at its memory again.

        Args:
            is_updated: whether what stands cut is written there: an all-gather
                for each bucket of 25 MiB. Else weights have the values that
                they had when they were taken.
        """
        with torch.no_grad():
            updated = [(weight, weight.data) for weight, _ in self._taken]
            for weight, memory in self._taken:
                weight.data = memory
            self._taken.clear()
            if is_updated:
                _copy(updated)


def _fits(gradient: Any, layout: Layout) -> bool:
    return (
        tensors.is_global(gradient)
        and gradient.layout == torch.strided
        and _C.layout_of(gradient).mesh == layout._native.mesh
    )


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copies the second of each pair to the first, in buckets."""
    for group in _alike(pairs):
        torch._foreach_copy_([to for to, _ in group], [x for _, x in group])


def _alike(
    pairs: list[tuple[Tensor, Tensor]],
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Pairs of one mesh and of the same dtypes, which share a call."""
    groups: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for to, x in pairs:
        key = _C.layout_of(to).mesh, to.dtype, x.dtype
        groups.setdefault(key, []).append((to, x))
    yield from groups.values()
