"""Each op of a step on the mesh, beside plain torch's answer to it."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
)

from torch_mesh import _C
from torch_mesh.rounding import (
    LOOSE,
    allowed_difference,
    copied,
    largest_difference,
    nudged_results,
    value_of,
)

# Results whose values nobody has written yet.
_UNWRITTEN = ("aten::empty", "aten::new_empty", "aten::resize", "aten::set_")

# Ops that runs on different devices call differently, and that make no value.
_NO_VALUE = (*_UNWRITTEN, "aten::_to_copy", "aten::lift", "aten::equal")


class Difference(NamedTuple):
    """One op whose result on the mesh is not plain torch's.

    Attributes:
        op: Name, as "aten::mm" or "torch.nn.functional.dropout".
        what: The result that differs, and how.
        layouts: The call's tensors with their layouts.
        largest: Largest absolute difference; nan where that has no meaning.
        scale: Largest absolute value of plain torch's result.
    """

    op: str
    what: str
    layouts: str
    largest: float
    scale: float

    def __str__(self) -> str:
        text = f"{self.op}: {self.what}"
        if not math.isnan(self.largest):
            text += f", by {self.largest:.3g} where values reach "
            text += f"{self.scale:.3g}"
        if self.layouts:
            text += f"\n  called with  {self.layouts}"
        return text


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


class Watch:
    """Watches a step in a `with` block.

    On the mesh (`compares=True`) each op that takes or gives a global tensor
    is run once more by plain torch, on the whole values of the same arguments
    and with the same random numbers. So an error is found at the op that makes
    it, and what follows from it is not called wrong too.

    Attributes:
        differences: List of `Difference`, in the order of the ops.
        draws: List of `Draw`.
        ran: List of `Ran`.
        compared: Number of ops that were compared.
        unchecked: Dict of op to the reason why plain torch could not be asked.
    """

    def __init__(self, compares: bool) -> None:
        self.compares = compares
        self.differences: list[Difference] = []
        self.draws: list[Draw] = []
        self.ran: list[Ran] = []
        self.compared = 0
        self.unchecked: dict[str, str] = {}
        self._modes = (_Ops(self), _Functions(self))

    def __enter__(self) -> Watch:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Ops(TorchDispatchMode):
    """What reaches the devices, below autograd."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        call = Call(func._schema.name, func, args, kwargs)
        draws = torch.Tag.nondeterministic_seeded in func.tags
        generator = _generator_of(args, kwargs)
        if draws and (not _in_function.depth or generator is not None):
            self.watch.draws.append(_draw(call.name, generator))
        if not self.watch.compares or not call.is_on_mesh():
            result = func(*args, **kwargs)
        else:
            written = _written(func._schema, args, kwargs)
            beside = _Beside(self.watch, call, written)
            if draws:
                drawing = _Drawing(generator)
                result = func(*args, **kwargs)
                beside.compare(result, drawing.ended())
            else:
                result = func(*args, **kwargs)
                beside.compare(result)
        skipped = draws or call.name.startswith(_NO_VALUE)
        if not (skipped or _is_view(func._schema)):
            self.watch.ran.append(_ran(call.name, result))
        return result


class _Depth:
    depth = 0


_in_function = _Depth()


class _Functions(TorchFunctionMode):
    """Functions that draw above autograd, such as dropout.

    There the mesh has kernels of its own, of which the ops below show a part.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        drawing = _Drawing()
        found = len(self.watch.differences)
        _in_function.depth += 1
        try:
            result = func(*args, **kwargs)
        finally:
            _in_function.depth -= 1
        drawing.ended()
        if drawing.drew_nothing() or _is_seed(func):
            return result
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        self.watch.draws.append(Draw(name, _hash(drawing.before)))
        call = Call(name, func, args, kwargs)
        writes = name.endswith("_") or kwargs.get("inplace", False)
        if (
            self.watch.compares
            and len(self.watch.differences) == found
            and not writes
            and (call.is_on_mesh() or _any_global(result))
        ):
            with _disable_current_modes(), torch.no_grad():
                _Beside(self.watch, call, []).compare(result, drawing)
        return result


class _Drawing:
    """A generator before and after a call that draws from it."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator or torch.default_generator
        self.before = self._state()
        self.after = self.before

    def ended(self) -> _Drawing:
        self.after = self._state()
        return self

    def drew_nothing(self) -> bool:
        with torch._C._DisableTorchDispatch():
            return torch.equal(self.before, self.after)

    def _state(self) -> torch.Tensor:
        # What is watched shall not see how it is watched.
        with torch._C._DisableTorchDispatch():
            return self.generator.get_state()


class Call(NamedTuple):
    """A function and its arguments."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def is_on_mesh(self) -> bool:
        """Whether a tensor of the call is global, or a result will be."""
        return _any_global((self.args, self.kwargs)) or any(
            isinstance(leaf, torch.device) and leaf.type == "mesh"
            for leaf in pytree.tree_leaves((self.args, self.kwargs))
        )

    def layouts(self) -> str:
        """Its tensors with sizes and layouts."""
        return ", ".join(
            f"{list(leaf.shape)} "
            f"{_C.layout_of(leaf) if _C.is_global(leaf) else leaf.device}"
            for leaf in pytree.tree_leaves((self.args, self.kwargs))
            if isinstance(leaf, torch.Tensor)
        )


class _Beside:
    """One call on the mesh, and what plain torch gives for it.

    Made before the call runs, or after one that writes nothing.
    """

    def __init__(self, watch: Watch, call: Call, written: list[Any]) -> None:
        self._watch = watch
        self._call = call
        self._written = written
        self._layouts = call.layouts()
        self._plain = _Plain(written)
        self._args, self._kwargs = pytree.tree_map(
            self._plain, (call.args, call.kwargs)
        )

    def compare(self, result: Any, drawing: _Drawing | None = None) -> None:
        """Notes how `result` differs; draws again what the call drew."""
        call = self._call
        if call.name.startswith(_UNWRITTEN):
            return
        nudged = None
        if drawing is None:
            given = (self._args, self._kwargs)
            if self._written:
                given = pytree.tree_map(copied, given)
            nudged = functools.partial(nudged_results, call.func, *given)
        note = _Note(self._watch, call, self._layouts, nudged)
        if drawing is not None:
            drawing.generator.set_state(drawing.before)
        try:
            expected = call.func(*self._args, **self._kwargs)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            self._watch.unchecked[call.name] = reason[:200]
            return
        finally:
            if drawing is not None:
                drawn = drawing.generator.get_state()
                drawing.generator.set_state(drawing.after)
        self._watch.compared += 1
        if drawing is not None and not torch.equal(drawn, drawing.after):
            note("draws another number of random numbers")
        note.results(result, expected)
        for number, tensor in enumerate(self._written):
            note.written(tensor, self._plain.of(tensor), number)


class _Plain:
    """Gives plain tensors that lie to one another as global ones do."""

    def __init__(self, written: list[Any]) -> None:
        self._written = {id(tensor) for tensor in written}
        self._bases: dict[int, torch.UntypedStorage] = {}
        self._found: dict[int, torch.Tensor] = {}

    def __call__(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.device) and leaf.type == "mesh":
            return torch.device("cpu")
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if _C.is_global(leaf):
            found = self._of_global(leaf.detach())
        elif id(leaf) in self._written:
            found = torch.empty_strided(
                leaf.shape, leaf.stride(), dtype=leaf.dtype
            ).copy_(leaf.detach())
        else:
            found = leaf.detach()
        self._found[id(leaf)] = found
        return found

    def of(self, leaf: torch.Tensor) -> torch.Tensor:
        """The plain tensor that stood for `leaf`."""
        return self._found[id(leaf)]

    def _of_global(self, x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        key = storage.data_ptr()
        if key not in self._bases:
            self._bases[key] = _bytes_of(x)
        found = torch.empty(0, dtype=x.dtype).set_(
            self._bases[key], x.storage_offset(), x.shape, x.stride()
        )
        if x.is_conj():
            found = torch._conj(found)
        return torch._neg_view(found) if x.is_neg() else found


def _bytes_of(x: torch.Tensor) -> torch.UntypedStorage:
    """What the storage of `x` holds, without a change to its state."""
    size = x.untyped_storage().nbytes()
    if _C.is_unwritten(x):
        return torch.zeros(size, dtype=torch.uint8).untyped_storage()
    if not _C.layout_of(x).has_partial:
        return x.untyped_storage().cpu()
    base = torch.zeros(size, dtype=torch.uint8).untyped_storage()
    torch.empty(0, dtype=x.dtype).set_(
        base, x.storage_offset(), x.shape, x.stride()
    ).copy_(value_of(x))
    return base


class _Note:
    """Notes how the results of one call differ."""

    def __init__(
        self,
        watch: Watch,
        call: Call,
        layouts: str,
        nudged: Callable[[], list[list[Any]]] | None,
    ) -> None:
        self._watch = watch
        self._call = call
        self._layouts = layouts
        self._nudged = nudged

    def __call__(
        self, what: str, largest: float = math.nan, scale: float = math.nan
    ) -> None:
        self._watch.differences.append(
            Difference(self._call.name, what, self._layouts, largest, scale)
        )

    def results(self, result: Any, expected: Any) -> None:
        """Compares what a call returns."""
        ours = pytree.tree_leaves(result)
        theirs = pytree.tree_leaves(expected)
        if len(ours) != len(theirs):
            self(f"{len(ours)} results, plain torch has {len(theirs)}")
            return
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            self._one(a, b, f"result {number}", number)

    def written(
        self, tensor: torch.Tensor, plain: torch.Tensor, number: int
    ) -> None:
        """Compares a destination, and the storage around it."""
        self._one(tensor, plain, f"what it writes ({number})", None)
        if not _C.is_global(tensor) or _C.layout_of(tensor).has_partial:
            return
        if plain.numel() * plain.itemsize >= plain.untyped_storage().nbytes():
            return
        ours, theirs = (
            torch.empty(0, dtype=plain.dtype).set_(storage)
            for storage in (_bytes_of(tensor.detach()), plain.untyped_storage())
        )
        self._one(ours, theirs, "the storage around what it writes", None)

    def _one(self, a: Any, b: Any, what: str, number: int | None) -> None:
        if not isinstance(b, torch.Tensor):
            if a != b and not (a != a and b != b) and not _close(a, b):
                self(f"{what} is {a!r}, plain torch's is {b!r}")
            return
        if not isinstance(a, torch.Tensor):
            self(f"{what} is a {type(a).__name__}, plain torch's a tensor")
            return
        if a.dtype != b.dtype or a.shape != b.shape:
            self(
                f"{what} is {a.dtype} {list(a.shape)}, plain torch's is"
                f" {b.dtype} {list(b.shape)}"
            )
            return
        a, b = value_of(a), value_of(b).to("cpu")
        largest, scale = largest_difference(a, b)
        if largest > allowed_difference(
            b, largest, scale, lambda: _numbered(self._moved, number)
        ):
            self(f"{what} differs", largest, scale)

    @functools.cached_property
    def _moved(self) -> list[list[Any]]:
        return self._nudged() if self._nudged is not None else []


def _numbered(moved: list[list[Any]], number: int | None) -> list[Any]:
    if number is None:
        return []
    return [leaves[number] for leaves in moved if number < len(leaves)]


def _close(a: Any, b: Any) -> bool:
    return (
        isinstance(a, float)
        and isinstance(b, float)
        and math.isclose(a, b, rel_tol=LOOSE)
    )


def _written(
    schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any]:
    """Tensors of a call that its op writes."""
    found: list[Any] = []
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = kwargs.get(argument.name)
        if i < len(args) and not argument.kwarg_only:
            value = args[i]
        found += pytree.tree_leaves(value)
    return [leaf for leaf in found if isinstance(leaf, torch.Tensor)]


def _is_view(schema: Any) -> bool:
    return any(
        r.alias_info is not None and not r.alias_info.is_write
        for r in schema.returns
    )


def _any_global(tree: Any) -> bool:
    return any(
        isinstance(leaf, torch.Tensor) and _C.is_global(leaf)
        for leaf in pytree.tree_leaves(tree)
    )


def _generator_of(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.Generator | None:
    for leaf in (*args, *kwargs.values()):
        if isinstance(leaf, torch.Generator):
            return leaf
    return None


def _draw(name: str, generator: torch.Generator | None) -> Draw:
    return Draw(name, _hash(_Drawing(generator).before))


def _hash(state: torch.Tensor) -> str:
    return hashlib.sha1(state.numpy().tobytes()).hexdigest()


def _is_seed(func: Callable[..., Any]) -> bool:
    return "seed" in getattr(func, "__name__", "") or "rng_state" in getattr(
        func, "__name__", ""
    )


def _ran(name: str, result: Any) -> Ran:
    """Figures of an op's results: sums weighted by place, in double."""
    sizes, sums, scales = [], [], []
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, bool | int | float):
            leaf = torch.tensor(float(leaf), dtype=torch.float64)
        if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided:
            continue
        sizes.append(tuple(leaf.shape))
        if name.startswith(_UNWRITTEN) or (
            _C.is_global(leaf) and _C.is_unwritten(leaf)
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
