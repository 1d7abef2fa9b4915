"""Figures of one run of a step, by which another run is told from it."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from torch_mesh import _C
from torch_mesh.rounding import value_of

# Results whose values nobody has written yet.
UNWRITTEN = ("aten::empty", "aten::new_empty", "aten::resize", "aten::set_")


class Draw(NamedTuple):
    """One call that drew random numbers."""

    op: str
    state: str  # hash of the generator's state before it


class Ran(NamedTuple):
    """One op of a run, with figures by which to tell its results."""

    op: str
    sizes: tuple[tuple[int, ...], ...]
    sums: tuple[float, ...]  # of the values, weighted by their places
    scales: tuple[float, ...]  # what these sums are of


class Drawing:
    """A generator before and after a call that draws from it."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator or torch.default_generator
        self.before = self._state()
        self.after = self.before

    def ended(self) -> Drawing:
        self.after = self._state()
        return self

    def drew_nothing(self) -> bool:
        with torch._C._DisableTorchDispatch():
            return torch.equal(self.before, self.after)

    def _state(self) -> torch.Tensor:
        # What is watched shall not see how it is watched.
        with torch._C._DisableTorchDispatch():
            return self.generator.get_state()


def drawn_from(op: str, generator: torch.Generator | None) -> Draw:
    """The `Draw` of an op that is about to draw."""
    with torch._C._DisableTorchDispatch():
        state = (generator or torch.default_generator).get_state()
    return Draw(op, hash_of(state))


def hash_of(state: torch.Tensor) -> str:
    return hashlib.sha1(state.numpy().tobytes()).hexdigest()


def figures_of(name: str, result: Any) -> Ran:
    """Figures of an op's results: sums weighted by place, in double."""
    sizes, sums, scales = [], [], []
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, bool | int | float):
            leaf = torch.tensor(float(leaf), dtype=torch.float64)
        if not isinstance(leaf, torch.Tensor) or leaf.is_nested:
            continue
        if leaf.layout != torch.strided:
            continue
        sizes.append(tuple(leaf.shape))
        if (
            leaf.is_meta
            or name.startswith(UNWRITTEN)
            or (_C.is_global(leaf) and _C.is_unwritten(leaf))
        ):
            sums.append(0.0)
            scales.append(0.0)
            continue
        value = value_of(leaf).to("cpu")
        value = value.abs() if value.is_complex() else value
        flat = value.to(torch.float64).reshape(-1).nan_to_num(0.0, 0.0, 0.0)
        places = torch.arange(flat.numel(), dtype=torch.float64)
        weights = torch.cos(places)  # no two places alike
        sums.append(float((flat * weights).sum()))
        scales.append(float(flat.abs().sum()))
    return Ran(name, tuple(sizes), tuple(sums), tuple(scales))
