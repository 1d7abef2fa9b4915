"""Each op of a step on the mesh, beside plain torch's answer to it."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
)

from torch_mesh import _C, tensors
from torch_mesh.op_memory import (
    PlainMemory,
    bytes_of,
    copies_of,
    memory_of,
    shared,
    strides_of,
)
from torch_mesh.rounding import (
    LOOSE,
    Moved,
    copied,
    half_step,
    nudged_calls,
    unlike,
    value_of,
)
from torch_mesh.run_figures import (
    UNWRITTEN,
    Draw,
    Drawing,
    Ran,
    drawn_from,
    figures_of,
    hash_of,
)

# Results that only the kernel of the gradient reads, by number: parts stay as
# the memory was, and there may be none where torch's own is not that of a CPU.
_OF_KERNELS = {
    "aten::_ctc_loss": 1,
    "aten::log_sigmoid_forward": 1,
    "aten::mkldnn_rnn_layer": 3,
}

# Questions whose answers say which way a program goes on: not those of plain
# torch where it goes a way that a mesh has not.
_STEERING = ("aten::_nested_tensor_from_mask_left_aligned",)

# Ops that runs on different devices call differently, and that make no value.
_NO_VALUE = (*UNWRITTEN, "aten::_to_copy", "aten::lift", "aten::equal")


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
            by, most = f"{self.largest:.3g}", f"{self.scale:.3g}"
            text += f", by {by} where values reach {most}"
        if self.layouts:
            text += f"\n  called with  {self.layouts}"
        return text


class Watch:
    """Watches a step in a `with` block.

    On the mesh (`compares=True`) plain torch runs each op on global tensors
    too, on whole values and with the same random numbers: the op that makes an
    error is found, and what follows is not called wrong.

    Attributes:
        differences: List of `Difference`, in the order of the ops.
        draws: List of `Draw`.
        ran: List of `Ran`.
        compared: Number of ops that were compared.
        half_step: The epsilon of the 16-bit dtype that ops computed in; or 0.
        unchecked: Dict of op to why plain torch could not be asked.
    """

    def __init__(self, compares: bool) -> None:
        self.compares = compares
        self.differences: list[Difference] = []
        self.draws: list[Draw] = []
        self.ran: list[Ran] = []
        self.compared = 0
        self.half_step = 0.0
        self.unchecked: dict[str, str] = {}
        self._modes = (_Ops(self), _Functions(self))

    def __enter__(self) -> Watch:
        with contextlib.ExitStack() as stack:
            if self.compares:
                stack.enter_context(tensors.moved_by(self._moved))
            for mode in self._modes:
                stack.enter_context(mode)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _moved(
        self,
        name: str,
        x: torch.Tensor,
        move: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Compares what `distribute` and its like make of a tensor."""
        call = Call(f"torch_mesh.{name}", move, (x,), {})
        note = _Note(self, call, call.layouts(), None)
        is_recorded = x.requires_grad and torch.is_grad_enabled()
        if is_recorded:  # a tensor whose gradient is that of this move alone
            with torch._C._DisableTorchDispatch():
                x = x.view_as(x)
        result = move(x)
        self.compared += 1
        note.moved(result, x, "result 0")
        if is_recorded and result.requires_grad:
            given: list[torch.Tensor] = []
            result.register_hook(lambda gradient: given.append(gradient))
            x.register_hook(
                lambda gradient: note.moved(gradient, given[-1], "its gradient")
            )
        return result


_OWN_KINDS = (torch.Tensor, torch.nn.Parameter)


class _Ops(TorchDispatchMode):
    """What reaches the devices, below autograd."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.supports_higher_order_operators = True
        self.watch = watch

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Lets torch compile inside: flex_attention does so by itself."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if any(kind not in _OWN_KINDS for kind in types):
            return NotImplemented  # that kind makes its ops of others
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            self.watch.unchecked[func.name()] = "an op of functions of its own"
            return func(*args, **kwargs)
        call = Call(func._schema.name, func, args, kwargs)
        draws = torch.Tag.nondeterministic_seeded in func.tags
        generator = _generator_of(args, kwargs)
        if draws and (not _in_function.depth or generator is not None):
            self.watch.draws.append(drawn_from(call.name, generator))
        if not self.watch.compares or not call.is_on_mesh():
            result = func(*args, **kwargs)
        else:
            written = _written(func._schema, args, kwargs)
            beside = _Beside(self.watch, call, written, func._schema)
            drawing = Drawing(generator) if draws else None
            result = func(*args, **kwargs)
            beside.compare(result, *([drawing.ended()] if drawing else []))
        self.watch.half_step = max(self.watch.half_step, half_step(result))
        skipped = draws or call.name.startswith(_NO_VALUE)
        if not (skipped or _is_view(func._schema)):
            self.watch.ran.append(figures_of(call.name, result))
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
        if torch.compiler.is_dynamo_compiling():
            return func(*args, **kwargs)
        drawing = Drawing()
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
        self.watch.draws.append(Draw(name, hash_of(drawing.before)))
        call = Call(name, func, args, kwargs)
        writes = name.endswith("_") or kwargs.get("inplace", False)
        if (
            self.watch.compares
            and len(self.watch.differences) == found
            and not writes
            and (call.is_on_mesh() or _any_global(result))
        ):
            with (
                _disable_current_modes(),
                torch.no_grad(),
                torch.autocast(
                    "cpu",
                    dtype=torch.get_autocast_dtype("mesh"),
                    enabled=torch.is_autocast_enabled("mesh"),
                ),
            ):
                _Beside(self.watch, call, []).compare(result, drawing)
        return result


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

    Made before the call of an op runs, which has a schema, or after that of a
    function that writes nothing.
    """

    def __init__(
        self,
        watch: Watch,
        call: Call,
        written: list[Any],
        schema: Any = None,
    ) -> None:
        self._watch = watch
        self._call = call
        self._schema = schema
        self._written = written
        self._layouts = call.layouts()
        self._plain = PlainMemory(written)
        self._args, self._kwargs = pytree.tree_map(
            self._plain, (call.args, call.kwargs)
        )

    def compare(self, result: Any, drawing: Drawing | None = None) -> None:
        """Notes how `result` differs; draws again what the call drew."""
        call = self._call
        if call.name.startswith((*UNWRITTEN, *_STEERING)):
            return
        nudged = None
        if drawing is None:
            given = (self._args, self._kwargs)
            if self._written or "batch_norm" in call.name:
                # Some of these write their statistics unannounced.
                given = pytree.tree_map(copied, given)
            nudged = functools.partial(nudged_calls, call.func, *given)
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
        # Views of memory in which nothing stands have no values yet.
        nothing = self._plain.unwritten if _is_view(self._schema) else set()
        note.results(result, expected, nothing)
        places = {id(leaf): i for i, leaf in enumerate(self._leaves())}
        for number, tensor in enumerate(self._written):
            plain = self._plain.of(tensor)
            note.written(tensor, plain, number, places[id(tensor)])
            if memory_of(tensor) not in self._plain.unwritten:
                note.around(tensor, plain)
        if self._schema is not None:
            self._compare_arguments(result, expected, note)

    def _leaves(self) -> list[Any]:
        return pytree.tree_leaves((self._call.args, self._call.kwargs))

    def _compare_arguments(
        self, result: Any, expected: Any, note: _Note
    ) -> None:
        """Compares what the call did with memory that it only reads."""
        ours = self._leaves()
        theirs = pytree.tree_leaves((self._args, self._kwargs))
        in_memory = zip(
            shared(pytree.tree_leaves(result), ours),
            shared(pytree.tree_leaves(expected), theirs),
            strict=False,
        )
        is_view = _is_view(self._schema)
        for number, (a, b) in enumerate(in_memory):
            # What is no view may lie there (`_unsafe_view`), and need not.
            if a != b and (a or is_view):
                note(
                    f"result {number} is "
                    + ("a copy" if b else "in the memory of an argument")
                    + ", plain torch's is "
                    + ("in the memory of an argument" if b else "a copy")
                )
        written = {memory_of(tensor) for tensor in self._written}
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if (
                isinstance(a, torch.Tensor)
                and _C.is_global(a)
                and memory_of(a) not in written
                and memory_of(a) not in self._plain.unwritten
            ):
                note.read(a, b, number)


class _Note:
    """Notes how the results of one call differ."""

    def __init__(
        self,
        watch: Watch,
        call: Call,
        layouts: str,
        nudged: Callable[[], list[Moved]] | None,
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

    def results(
        self, result: Any, expected: Any, nothing: Container[int]
    ) -> None:
        """Compares what a call returns.

        Args:
            nothing: Memories in which there are no values to compare.
        """
        ours = pytree.tree_leaves(result)
        theirs = pytree.tree_leaves(expected)
        if len(ours) != len(theirs):
            self(f"{len(ours)} results, plain torch has {len(theirs)}")
            return
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if _OF_KERNELS.get(self._call.name) == number:
                continue
            has_values = (
                not isinstance(a, torch.Tensor) or memory_of(a) not in nothing
            )
            moved = functools.partial(self._moved_result, number)
            self._one(a, b, f"result {number}", moved, has_values)

    def moved(
        self, tensor: torch.Tensor, source: torch.Tensor, what: str
    ) -> None:
        """Compares a value with what it was made of."""
        with _disable_current_modes(), torch.no_grad():
            ours, theirs = value_of(tensor).cpu(), value_of(source).cpu()
            if ours.shape != theirs.shape:
                self(f"{what} is {list(ours.shape)}")
                return
            found = unlike(ours.to(theirs.dtype), theirs)
            if found is not None:
                self(f"{what} differs", *found)

    def read(
        self, tensor: torch.Tensor, plain: torch.Tensor, place: int
    ) -> None:
        """Compares the argument at a place, which the call may not write."""
        if not torch.equal(value_of(tensor), value_of(plain)):
            moved = functools.partial(self._moved_argument, place)
            self._one(tensor, plain, "an argument that it only reads", moved)

    def written(
        self, tensor: torch.Tensor, plain: torch.Tensor, number: int, place: int
    ) -> None:
        """Compares a destination, the argument at a place."""
        moved = functools.partial(self._moved_argument, place)
        self._one(tensor, plain, f"what it writes ({number})", moved)

    def around(self, tensor: torch.Tensor, plain: torch.Tensor) -> None:
        """Compares the storage around a destination."""
        if not _C.is_global(tensor) or _C.layout_of(tensor).has_partial:
            return
        if plain.numel() * plain.itemsize >= plain.untyped_storage().nbytes():
            return
        ours, theirs = (
            torch.empty(0, dtype=plain.dtype).set_(storage)
            for storage in (bytes_of(tensor.detach()), plain.untyped_storage())
        )
        self._one(ours, theirs, "the storage around what it writes")

    def _one(
        self,
        a: Any,
        b: Any,
        what: str,
        moved: Callable[[], list[Any]] = list,
        has_values: bool = True,
    ) -> None:
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
        if strides_of(a) != strides_of(b):
            self(
                f"{what} has strides {list(a.stride())}, plain torch's has"
                f" {list(b.stride())}"
            )
            return
        if not has_values:
            return
        self._copies(a, what)
        loose = LOOSE
        if torch.is_autocast_enabled("mesh"):
            loose = 4 * torch.finfo(torch.get_autocast_dtype("mesh")).eps
        found = unlike(value_of(a), value_of(b).to("cpu"), moved, loose)
        if found is not None:
            self(f"{what} differs", *found)

    def _copies(self, x: torch.Tensor, what: str) -> None:
        """Compares the copies of one shard that several devices hold."""
        if not _C.is_global(x) or _C.is_unwritten(x):
            return
        held: list[torch.Tensor] = []
        for first, other in copies_of(_C.layout_of(x)):
            held = held or _C.shards(x)
            found = unlike(held[other].to(held[first].device), held[first])
            if found is not None:
                self(f"device {other} has another copy of {what}", *found)
                return

    def _moved_result(self, number: int) -> list[Any]:
        return [
            calls.results[number]
            for calls in self._moved
            if number < len(calls.results)
        ]

    def _moved_argument(self, place: int) -> list[Any]:
        return [calls.arguments[place] for calls in self._moved]

    @functools.cached_property
    def _moved(self) -> list[Moved]:
        return self._nudged() if self._nudged is not None else []


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
    return schema is not None and any(
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


def _is_seed(func: Callable[..., Any]) -> bool:
    return "seed" in getattr(func, "__name__", "") or "rng_state" in getattr(
        func, "__name__", ""
    )
