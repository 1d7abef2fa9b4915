"""Is a rule of one's own true? The op in every layout, beside plain torch."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from torch_mesh import _C, tensors
from torch_mesh.counters import counting
from torch_mesh.layouts import Mesh
from torch_mesh.rounding import (
    nudged_copy,
    unlike,
    value_of,
)

# Sizes of the factors of a rule: uneven on all meshes below, and with empty
# shards on some.
_SIZES = ((5, 7, 6, 8, 9, 4, 3), (2, 3, 4, 2, 3, 2, 3))
_MESHES = ({"data": 2}, {"data": 3}, {"data": 2, "model": 2})
_MOST = 100  # choices of layouts a mesh


class Fault(NamedTuple):
    """One choice of layouts for which a rule is wrong.

    Attributes:
        layouts: As "(S0) (R) on mesh data=2".
        what: What is wrong with it.
    """

    layouts: str
    what: str


class RuleCheck:
    """What `check_rule` found. True if the rule held; prints as a report.

    Attributes:
        name: The op.
        rule: Text of its rule, or "" if it has none.
        faults: List of `Fault`.
        compared: Number of choices of layouts, sizes and meshes.
        replicated: How many of them ran on replicas: no factor fitted.
    """

    def __init__(self, name: str, rule: str) -> None:
        self.name = name
        self.rule = rule
        self.faults: list[Fault] = []
        self.compared = 0
        self.replicated = 0

    def __bool__(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        lines = [
            f'{self.name} by "{self.rule}": {self.compared} cases, '
            f"{len(self.faults)} wrong, {self.replicated} on replicas"
        ]
        lines += [f"  {f.layouts}: {f.what}" for f in self.faults[:10]]
        if len(self.faults) > 10:
            lines.append(f"  and {len(self.faults) - 10} more")
        return "\n".join(lines)

    __repr__ = __str__


def check_rule(name: str, *args: Any, **kwargs: Any) -> RuleCheck:
    """Runs an op under all layouts and compares it with plain torch.

    A rule that fits the sizes but not the mathematics gives wrong numbers
    without an error; this finds it. Values and gradients are compared on three
    small meshes with uneven and empty shards, with every placement of every
    tensor on a mesh of one axis and a sample of them on one of two.

    Args:
        name: as for `register_rule`, "mylib::f".
        args: an example call, plain tensors among them. Without any, tensors
            of float32 are made to the letters of the rule.
        kwargs: those of the example with names.

    Returns:
        A `RuleCheck`: true if nothing differs.

    Raises:
        ValueError: if there is no such op, or its arguments cannot be told
            from the rule.

    Example:
        >>> bool(check_rule("aten::mm"))
        True
    """
    op = _op_named(name)
    rule = _C.rule_text(name) or ""
    found = RuleCheck(name, rule)
    if args or kwargs:
        calls = [(args, kwargs)]
    else:
        calls = [(_example(op, name, rule, sizes), {}) for sizes in _SIZES]
    for call in calls:
        try:
            expected = _Expected(op, *call)
        except Exception as error:
            if args or kwargs:
                raise
            raise ValueError(
                f"check_rule: {name} does not take the tensors of float32 that"
                f" the rule asks for: {error}\n"
                "Hint: give an example call, check_rule(name, x, ...)."
                " [rule-example]"
            ) from error
        for axes in _MESHES:
            mesh = Mesh(axes)
            for layouts in _choices(expected.plain, mesh):
                _check(found, op, expected, mesh, layouts)
    return found


class _Expected:
    """A call by plain torch: results, gradients, and in double precision."""

    def __init__(
        self, op: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        self._has_gradient = _has_gradient(op)
        leaves, self.tree = pytree.tree_flatten((args, kwargs))
        self.leaves = leaves
        self.plain = [
            value_of(leaf.detach())
            for leaf in leaves
            if isinstance(leaf, torch.Tensor)
        ]
        self.results, self.gradients = self.run(op, self.plain)
        self._op = op

    def run(
        self, op: Callable[..., Any], given: list[torch.Tensor]
    ) -> tuple[list[Any], list[torch.Tensor | None]]:
        """Results and gradients of the call with these tensors."""
        inputs = [
            t.detach()
            .clone()
            .requires_grad_(
                self._has_gradient and (t.is_floating_point() or t.is_complex())
            )
            for t in given
        ]
        rest = iter(inputs)
        leaves = [
            next(rest) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in self.leaves
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self.tree)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random ops draw alike in each run
            results = pytree.tree_leaves(op(*args, **kwargs))
        outputs = [
            r
            for r in results
            if isinstance(r, torch.Tensor) and r.requires_grad
        ]
        if not outputs:
            return results, []
        total = torch.stack([(o * _weights(o)).sum() for o in outputs]).sum()
        wanted = [t for t in inputs if t.requires_grad]
        return results, list(
            torch.autograd.grad(total, wanted, allow_unused=True)
        )

    def moved(self, kind: int, number: int) -> list[Any]:
        """A result (0) or gradient (1) of the nudged runs."""
        return [run[kind][number] for run in self.nudged]

    @functools.cached_property
    def nudged(self) -> list[tuple[list[Any], list[Any]]]:
        """Both from tensors that are a step of rounding away, twice."""
        found = []
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            moved = [nudged_copy(t, generator) for t in self.plain]
            found.append(self.run(self._op, moved))
        return found


def _check(
    found: RuleCheck,
    op: Callable[..., Any],
    expected: _Expected,
    mesh: Mesh,
    layouts: tuple[tuple[str, ...], ...],
) -> None:
    texts = ["(" + ", ".join(placements) + ")" for placements in layouts]
    where = f"{' '.join(texts)} on mesh {mesh._native}"
    placed = [
        tensors.distribute(t, mesh, placements)
        for t, placements in zip(expected.plain, layouts, strict=True)
    ]
    found.compared += 1
    try:
        with counting() as counts:
            results, gradients = expected.run(op, placed)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        found.faults.append(Fault(where, f"raises: {reason[:200]}"))
        return
    found.replicated += bool(counts.replicated_ops)
    for kind, what, ours, theirs in (
        (0, "result", results, expected.results),
        (1, "gradient", gradients, expected.gradients),
    ):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            wrong = _wrong(a, b, functools.partial(expected.moved, kind, i))
            if wrong:
                found.faults.append(Fault(where, f"{what} {i} {wrong}"))
                return


def _wrong(a: Any, b: Any, nudged: Callable[[], list[Any]]) -> str:
    """What is wrong with `a`; "" if nothing."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        same = a is None and b is None if a is None or b is None else a == b
        return "" if same else f"is {a!r}, plain torch's is {b!r}"
    if a.shape != b.shape or a.dtype != b.dtype:
        return (
            f"is {a.dtype} {list(a.shape)}, plain torch's is"
            f" {b.dtype} {list(b.shape)}"
        )
    found = unlike(value_of(a), value_of(b), nudged)
    if found is None:
        return ""
    return f"differs by {found[0]:.3g} where values reach {found[1]:.3g}"


def _weights(x: torch.Tensor) -> torch.Tensor:
    """Numbers to weigh a result with, no two alike, where `x` is."""
    places = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape)
    return torch.cos(places).to(x.dtype).to(x.device)


def _choices(
    given: list[torch.Tensor], mesh: Mesh
) -> list[tuple[tuple[str, ...], ...]]:
    """Placements for each tensor: all of them, or a sample that is the same
    each time."""
    axes = len(mesh.axis_names)
    each = []
    for t in given:
        placements = ["R"] + [f"S{d}" for d in range(t.dim())]
        if t.is_floating_point() or t.is_complex():
            placements.append("P+")
        each.append(list(itertools.product(placements, repeat=axes)))
    number = 1
    for options in each:
        number *= len(options)
    if number <= _MOST:
        return list(itertools.product(*each))
    chance = random.Random(0)
    return [tuple(chance.choice(o) for o in each) for _ in range(_MOST)]


def _op_named(name: str) -> Any:
    """The callable of "mylib::f" or "mylib::f.overload"."""
    library, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    try:
        packet = getattr(getattr(torch.ops, library), base)
        op = getattr(packet, overload or "default")
    except (AttributeError, RuntimeError):
        known = _overloads_of(library, base)
        raise ValueError(
            f'check_rule: there is no op "{name}".\n'
            + (
                f"Hint: give one of {', '.join(known)}. [op-name]"
                if known
                else "Hint: define it first, as with torch.library. [op-name]"
            )
        ) from None
    if op._schema.is_mutable:
        raise ValueError(
            f"check_rule: {name} writes to its arguments, and here each layout"
            " is to start from the same.\n"
            "Hint: check the op that returns a new tensor; one that writes runs"
            " by the same letters. [rule-example]"
        )
    return op


def _overloads_of(library: str, base: str) -> list[str]:
    """Full names of the overloads of an op, if there is one."""
    try:
        packet = getattr(getattr(torch.ops, library), base)
    except (AttributeError, RuntimeError):
        return []
    return [f"{library}::{base}.{overload}" for overload in packet.overloads()]


def _has_gradient(op: Any) -> bool:
    """Whether autograd knows the op, and not the ops that it is made of."""
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key)
        for key in ("Autograd", "AutogradCPU", "CompositeImplicitAutograd")
    )


def _example(
    op: Any, name: str, rule: str, sizes: tuple[int, ...]
) -> tuple[Any, ...]:
    """Arguments to the letters of a rule."""
    schema = op._schema
    terms = [t.strip() for t in rule.partition("->")[0].split(",")]
    letters: dict[str, int] = {}
    args: list[Any] = []
    for argument in schema.arguments:
        if str(argument.type) == "Tensor" and terms and rule:
            shape: list[int] = []
            for word in terms.pop(0).split():
                if not re.fullmatch(r"[a-z]\d*|[a-z]\*|\d+", word):
                    raise _no_example(name, rule)
                if word.isdigit():
                    shape.append(int(word))
                    continue
                for letter in (word, word + "'") if "*" in word else (word,):
                    letters.setdefault(letter, sizes[len(letters) % len(sizes)])
                    shape.append(letters[letter])
            generator = torch.Generator().manual_seed(len(args))
            args.append(torch.randn(shape, generator=generator))
        elif argument.has_default_value():
            break
        else:
            raise _no_example(name, rule)
    return tuple(args)


def _no_example(name: str, rule: str) -> ValueError:
    return ValueError(
        f'check_rule: the arguments of "{name}" cannot be told from its rule'
        f' "{rule}".\nHint: give an example call, as in'
        ' check_rule("mylib::f", torch.randn(4, 3)).'
        " [rule-example]"
    )
