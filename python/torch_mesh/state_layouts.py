"""In which layout the states of an optimizer stand: as their weight, or cut.

A cut optimizer keeps its states cut over one axis more than their weights. What
is cut, and along which dim, follows from layouts and sizes alone, so that all
processes find the same. Which weights they are is noted on the weights, and
never asked of the optimizers that live: garbage is collected when it pleases
each process.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from torch_mesh import _C
from torch_mesh.layouts import Layout, Mesh

_PREFERRED_AXES = ("data", "batch", "dp")

# Optimizers whose states are cut.
_cut: weakref.WeakSet[Optimizer] = weakref.WeakSet()
# Weights whose states a cut optimizer holds, and the axis.
_axes = WeakTensorKeyDictionary()


def axis_on(mesh: Mesh, axis: str | None) -> str:
    """The axis that states are cut over.

    Args:
        mesh: of the weights.
        axis: its name; None takes "data", "batch" or "dp", else the first.

    Raises:
        ValueError: if the mesh has no such axis.
    """
    names = mesh.axis_names
    if axis is None:
        preferred = [name for name in _PREFERRED_AXES if name in names]
        return (*preferred, names[0])[0]
    if axis not in names:
        raise ValueError(
            f'shard_optimizer: the mesh has no axis "{axis}".\n'
            f"  mesh  {mesh._native}\n"
            f"Hint: its axes are {', '.join(names)}. [unknown-axis]"
        )
    return axis


def cut_layout(layout: Layout, shape: Sequence[int], axis: str) -> Layout:
    """The layout of a weight, cut over one axis more.

    Args:
        layout: of the weight.
        shape: of the weight.
        axis: of its mesh.

    Returns:
        `layout` with `axis` on a dim that no other axis cuts: the first one
        that divides by the size of `axis`, else the first that has a row for
        each of its devices. `layout` itself if there is none, or if `axis` does
        something else already.
    """
    return Layout._of(_cut_layout(layout._native, tuple(shape), axis))


@functools.lru_cache(maxsize=4096)
def _cut_layout(
    layout: _C.Layout, shape: tuple[int, ...], axis: str
) -> _C.Layout:
    axes = dict(layout.mesh.axes)
    placements = dict(zip(axes, layout.placements, strict=True))
    if placements.get(axis) != "R" or axes[axis] == 1:
        return layout
    taken = {p.partition("/")[0] for p in placements.values()}
    free = [
        (size % axes[axis] != 0, dim)
        for dim, size in enumerate(shape)
        if size >= axes[axis] and f"S{dim}" not in taken
    ]
    if not free:
        return layout
    placements[axis] = f"S{min(free)[1]}"
    return _C.Layout(layout.mesh, list(placements.values()))


def note_optimizer(optimizer: Optimizer) -> None:
    """The states of an optimizer are cut from now on."""
    _cut.add(optimizer)


def note_weight(weight: Tensor, axis: str) -> None:
    """The states of a weight in cut optimizers are cut over `axis`."""
    _axes[weight] = axis


def is_cut(optimizer: Optimizer) -> bool:
    """Whether `note_optimizer` has this one."""
    return optimizer in _cut


def is_updated_cut(weight: Tensor) -> bool:
    """Whether an optimizer, of torch or of Keras, has cut it for an update."""
    return weight in _axes


def forget(weights: Iterable[Tensor]) -> None:
    """Weights that an optimizer updates which does not cut them."""
    if len(_axes) == 0:
        return
    for weight in weights:
        _axes.pop(weight, None)


def weights_of(gradients: Iterable[Tensor]) -> list[Tensor]:
    """The weights among those of `note_weight` that have these gradients."""
    given = set(map(id, gradients))
    return [w for w in list(_axes) if id(w.grad) in given]


def of_states(weight: Tensor, layout: Layout) -> Layout:
    """The layout of a weight's states in cut optimizers.

    Args:
        weight: a global tensor.
        layout: in which it stands, without pending sums.
    """
    axis = _axes.get(weight)
    if axis is None:
        return layout
    return cut_layout(layout, weight.shape, axis)
