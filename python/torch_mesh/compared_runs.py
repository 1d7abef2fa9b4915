"""Runs of one step, on the mesh and plainly, and where they differ."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from torch_mesh import _C, tensors
from torch_mesh.op_check import Difference, Watch
from torch_mesh.rounding import largest_difference, value_of
from torch_mesh.run_figures import Ran

# Largest difference of a value after a step, relative to the largest element.
_TOLERANCE = {
    torch.float64: 1e-10,
    torch.complex128: 1e-10,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
_TOLERANCE_OF_SINGLE = 1e-4

# The same, in steps of a 16-bit dtype that ops of the step compute in.
_STEPS_OF_HALF = 6

# Times what the nudged run, a step of rounding away, moves: a gradient that
# cancels is noise, ten times more in one order of sums than in another, and its
# square in an optimizer a hundred times.
_FREE = 256

# The same where the step is one of a 16-bit dtype.
_FREE_OF_HALF = 16

# Nudged runs at most: a branch of a line search is taken by
# one in ten, or in thirty.
_NUDGES = 64

# Ops after one that only one of the runs has, among which a difference is laid
# to that one.
_NEAR = 3

# What a run leaves behind: names and values.
Named = list[tuple[str, Any]]
Run = Callable[[], Named]

# Two runs of one op have parted where their figures do by more than this.
_PARTED = 1e-3


class Value(NamedTuple):
    """One tensor after the step, on the mesh beside plain.

    Attributes:
        name: As "0.weight", "0.weight.grad", "state 0.weight exp_avg" or
            "result".
        layout: On the mesh, as a text.
        largest: Largest absolute difference.
        scale: Largest absolute value in the plain run.
        agrees: Whether that is within the tolerance.
    """

    name: str
    layout: str
    largest: float
    scale: float
    agrees: bool


class Parity:
    """What `check_parity` found. True if nothing differs; prints as a report.

    Attributes:
        first: The `Difference` of the first op that differs, or None.
        differences: List of `Difference`, all ops that differ from plain torch
            on the same arguments, in the order in which they ran.
        values: List of `Value`, what the step leaves behind.
        compared: Number of ops that were compared.
        unchecked: Dict of op to why plain torch could not be asked.
    """

    def __init__(
        self,
        first: Difference | None,
        differences: list[Difference],
        values: list[Value],
        compared: int,
        unchecked: dict[str, str],
    ) -> None:
        self.first = first
        self.differences = differences
        self.values = values
        self.compared = compared
        self.unchecked = unchecked

    def __bool__(self) -> bool:
        return self.first is None and all(v.agrees for v in self.values)

    def __str__(self) -> str:
        lines = [
            f"{self.compared} ops and {len(self.values)} values compared: "
            + ("no difference" if self else "they differ")
        ]
        if self.first is not None:
            lines.append(f"first  {self.first}")
        others = len(self.differences) - (self.first in self.differences)
        if others > 0:
            lines.append(f"{others} more ops differ, on arguments of their own")
        wrong = [v for v in self.values if not v.agrees]
        shown = wrong or sorted(
            self.values, key=lambda v: -(v.largest / (v.scale or 1))
        )
        if shown:
            lines.append(_table(shown[:20]))
        if len(shown) > 20:
            lines.append(f"and {len(shown) - 20} more values")
        for op, why in self.unchecked.items():
            lines.append(f"not compared: {op}: {why}")
        return "\n".join(lines)

    __repr__ = __str__


def compare_runs(
    on_mesh: Callable[[], Run],
    plain: Callable[[], Run],
    nudged: Callable[[float, int], Run],
    rtol: float | None,
) -> Parity:
    """Runs a step several times from one state of the generator, and keeps it.

    Each of these functions makes ready what it gives, a function that runs the
    step and gives names and values of what that leaves behind.

    Args:
        on_mesh: The step on the mesh.
        plain: The step on one device; the same names.
        nudged: As `plain`, from values that are a step of rounding away. It is
            run where values differ though no op does: what such a step moves,
            another order of sums may move too.
        rtol: As for `check_parity`.
    """
    generator = torch.default_generator.get_state()

    def from_here(watch: Watch, ready: Callable[[], Run]) -> Named:
        run = ready()
        torch.default_generator.set_state(generator)
        with watch:
            return run()

    def off_the_mesh(watch: Watch, ready: Callable[[], Run]) -> Named:
        run = ready()
        with _OffTheMesh(), tensors.plain_run():
            return from_here(watch, lambda: run)

    ours, theirs = Watch(compares=True), Watch(compares=False)
    try:
        expected = dict(off_the_mesh(theirs, plain))
        given = from_here(ours, on_mesh)
        step = max(ours.half_step, theirs.half_step)
        values = [
            _compared(n, v, expected.get(n), rtol, step) for n, v in given
        ]
        first = ours.differences[0] if ours.differences else None
        first = first or _other_draw(ours, theirs)
        if first is None and not all(value.agrees for value in values):
            free: dict[str, float] = {}
            for seed in range(_NUDGES):
                others = Watch(compares=False)
                ready = functools.partial(nudged, step, seed)
                for n, v in off_the_mesh(others, ready):
                    moved = _free(expected.get(n), v, step)
                    free[n] = max(free.get(n, 0.0), moved)
                values = [
                    _compared(
                        n, v, expected.get(n), rtol, step, free.get(n, 0.0)
                    )
                    for n, v in given
                ]
                if all(value.agrees for value in values):
                    break
            else:
                first = _parted(ours, theirs, others)
    finally:
        torch.default_generator.set_state(generator)
    return Parity(
        first, ours.differences, values, ours.compared, ours.unchecked
    )


class _OffTheMesh(TorchFunctionMode):
    """`.to("mesh")` and `device="mesh"` mean the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args, kwargs = pytree.tree_map(_off_the_mesh, (args, kwargs or {}))
        return func(*args, **kwargs)


def _off_the_mesh(leaf: Any) -> Any:
    if isinstance(leaf, torch.device) and leaf.type == "mesh":
        return torch.device("cpu")
    if isinstance(leaf, str) and leaf.partition(":")[0] == "mesh":
        return "cpu"
    return leaf


def _free(plain: Any, nudged: Any, step: float) -> float:
    """How far a value may move for want of digits in the state."""
    if not isinstance(plain, torch.Tensor) or not plain.is_floating_point():
        return 0.0
    if not isinstance(nudged, torch.Tensor) or nudged.shape != plain.shape:
        return 0.0
    moved, _ = largest_difference(value_of(nudged), value_of(plain))
    return (_FREE_OF_HALF if step else _FREE) * moved


def _compared(
    name: str,
    a: Any,
    b: Any,
    rtol: float | None,
    step: float,
    free: float = 0.0,
) -> Value:
    if not isinstance(b, torch.Tensor) or not isinstance(a, torch.Tensor):
        if isinstance(a, float) and isinstance(b, float):
            a, b = torch.tensor(a), torch.tensor(b)
            return _compared(name, a, b, rtol, step, free)
        same = type(a) is type(b) and (
            not isinstance(a, bool | int | str | None) or a == b
        )
        return Value(name, "", 0.0 if same else math.inf, 0.0, same)
    layout = str(_C.layout_of(a)) if _C.is_global(a) else str(a.device)
    ours, theirs = value_of(a).to("cpu"), value_of(b).to("cpu")
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Value(name, layout, math.inf, 0.0, False)
    largest, scale = largest_difference(ours, theirs)
    if rtol is None:
        rtol = _TOLERANCE.get(theirs.dtype, _TOLERANCE_OF_SINGLE)
        rtol = max(rtol, _STEPS_OF_HALF * step)
    if not (theirs.is_floating_point() or theirs.is_complex()):
        rtol = 0.0
    agrees = largest <= max(rtol * scale, free)
    return Value(name, layout, largest, scale, agrees)


def _other_draw(ours: Watch, theirs: Watch) -> Difference | None:
    """The first call that draws other random numbers than the plain run."""
    for a, b in zip(ours.draws, theirs.draws, strict=False):
        if a != b:
            return Difference(
                a.op,
                "draws from another state of the generator than the plain run:"
                " another seed, or another number of draws before it",
                "",
                math.nan,
                math.nan,
            )
    if len(ours.draws) != len(theirs.draws):
        longer = max(ours.draws, theirs.draws, key=len)
        extra = longer[min(len(ours.draws), len(theirs.draws))]
        run = "on the mesh" if longer is ours.draws else "in the plain run"
        return Difference(extra.op, f"draws only {run}", "", math.nan, math.nan)
    return None


def _parted(ours: Watch, theirs: Watch, nudged: Watch) -> Difference | None:
    """The first op from which on the two runs go apart.

    Every op is right on its arguments, and yet the values differ: the runs do
    not call the same ops, or not on the same values.
    """
    matcher = difflib.SequenceMatcher(
        None,
        [(r.op, r.sizes) for r in ours.ran],
        [(r.op, r.sizes) for r in theirs.ran],
        autojunk=False,
    )
    suspect: Difference | None = None
    for kind, a0, a1, b0, _ in matcher.get_opcodes():
        if kind == "equal":
            for i in range(a1 - a0):
                a, b = ours.ran[a0 + i], theirs.ran[b0 + i]
                c = nudged.ran[b0 + i] if b0 + i < len(nudged.ran) else b
                if _figures_differ(a, b, c):
                    return suspect or _where(a.op, "has other values")
                if i == _NEAR:  # what came before has changed nothing
                    suspect = None
            suspect = None
        elif a1 > a0:
            suspect = suspect or _where(
                ours.ran[a0].op, "runs only on the mesh"
            )
        else:
            suspect = suspect or _where(theirs.ran[b0].op, "runs only plainly")
    return suspect


def _where(op: str, what: str) -> Difference:
    what += ": there the two runs part, though each op agrees on its arguments"
    return Difference(op, what, "", math.nan, math.nan)


def _figures_differ(a: Ran, b: Ran, nudged: Ran) -> bool:
    """Whether two runs of an op differ by more than a nudge moves it."""
    free = [abs(x - y) for x, y in zip(b.sums, nudged.sums, strict=False)]
    return any(
        abs(x - y) > max(_PARTED * scale, _FREE * moved, 1e-30)
        for x, y, scale, moved in zip(
            a.sums, b.sums, b.scales, free, strict=False
        )
    )


def _table(values: list[Value]) -> str:
    head = ("value", "layout", "difference", "largest")
    cells = [
        (v.name, v.layout, f"{v.largest:.3g}", f"{v.scale:.3g}") for v in values
    ]
    widths = [max(len(row[i]) for row in (head, *cells)) for i in range(4)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *cells)
    )
