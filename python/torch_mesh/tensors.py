"""Global tensors: making them, asking them, changing their layout."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from torch_mesh import _C, local_values, registration
from torch_mesh.layouts import (
    Layout,
    Mesh,
    Placements,
    as_layout,
    check_member,
)
from torch_mesh.shard_gradients import put_together, take_apart

# Threads that run a step of the mesh on plain tensors.
plain_threads: set[int] = set()

# Moves a tensor for the function of that name, and looks at what comes of it.
Mover = Callable[[str, Tensor, Callable[[Tensor], Tensor]], Tensor]
movers: dict[int, Mover] = {}


@contextlib.contextmanager
def plain_run() -> Iterator[None]:
    """In the block tensors are placed nowhere: for `check_parity`."""
    thread = threading.get_ident()
    if thread in plain_threads:
        yield
        return
    plain_threads.add(thread)
    try:
        yield
    finally:
        plain_threads.remove(thread)


def runs_plain() -> bool:
    """Whether this thread is in a `plain_run`."""
    return threading.get_ident() in plain_threads


def plain_copy(t: Tensor) -> Tensor:
    """A copy in a `plain_run`."""
    # The run on the mesh shows no op here.
    with torch._C._DisableTorchDispatch():
        return t.clone()


@contextlib.contextmanager
def moved_by(mover: Mover) -> Iterator[None]:
    """In the block `mover` places this thread's tensors: for `check_parity`."""
    thread = threading.get_ident()
    before = movers.get(thread)
    movers[thread] = mover
    try:
        yield
    finally:
        if before is None:
            del movers[thread]
        else:
            movers[thread] = before


def move(name: str, t: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    """`how(t)`, which has the value of `t`, by way of the thread's mover."""
    mover = movers.get(threading.get_ident())
    return how(t) if mover is None else mover(name, t, how)


def distribute(
    t: Tensor, mesh: Mesh | Layout, placements: Placements | None = None
) -> Tensor:
    """The value of a tensor as a new global tensor.

    Args:
        t: tensor on any device, or a global tensor.
        mesh: a `Mesh`, or a `Layout`.
        placements: e.g. `("S0", "R")`; None replicates.

    Returns:
        Tensor on `torch.device("mesh")`, in memory of its own. Differentiable:
        the gradient arrives where `t` is.

    Raises:
        ValueError: if the placements do not fit the mesh or the tensor.
    """
    ndim = tensor_for("distribute", t).dim()
    layout = as_layout(mesh, placements, ndim)
    check_member("distribute", layout)
    if plain_threads and runs_plain():
        return plain_copy(t)
    registration.register()
    if movers:
        return move("distribute", t, lambda t: _C.distribute(t, layout._native))
    return _C.distribute(t, layout._native)


def tensor_for(name: str, value: object) -> Tensor:
    """`value` itself, which must be a tensor for the function `name`."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: a tensor is due, and this is a {type(value).__name__}.\n"
            "Hint: torch.as_tensor makes one. [argument-type]"
        )
    return value


def layout(x: Tensor) -> Layout:
    """The `Layout` in which a global tensor stands.

    Args:
        x: a global tensor.

    Returns:
        A `Layout`. That of an open partial sum says so, `(P+)`; asking forms
        no sum.

    Raises:
        ValueError: if `x` is not on the mesh.
    """
    return Layout._of(_C.layout_of(tensor_for("layout", x)))


def is_global(x: Tensor) -> bool:
    """Whether `x` is a tensor on the mesh.

    Args:
        x: any tensor; of all else the answer is False.
    """
    return isinstance(x, Tensor) and _C.is_global(x)


def full(x: Tensor) -> Tensor:
    """The whole value as a plain tensor, in memory of its own.

    Args:
        x: a global tensor, or a plain one.

    Returns:
        Plain tensor of the shape and dtype of `x`, on the first device of its
        mesh. Differentiable: the gradient arrives in the layout of `x`, on its
        mesh.
    """
    if movers:
        return move("full", tensor_for("full", x), _C.full)
    return _C.full(tensor_for("full", x))


def shards(x: Tensor) -> list[Tensor]:
    """What each device holds, as plain tensors, row-major.

    Copies, and read-only: a write to one, or to a view of it, raises. What
    bypasses torch's operators is not noticed, and lost: a NumPy array or DLPack
    capsule of a shard, `data_ptr()`. Of a partial sum the first device shows
    the sum formed so far, the others -0.0.

    Args:
        x: a global tensor.

    Returns:
        List of plain tensors, one for each device of the mesh, of the shapes
        that `layout(x).shard_shape(x.shape, device)` gives; None for devices
        of other processes, or of none. Not differentiable.

    Raises:
        ValueError: if `x` is not on the mesh.
    """
    held = _C.shards(tensor_for("shards", x))
    for i, shard in enumerate(held):
        if shard is not None:
            held[i] = _C.read_only(shard)
    return held


def local_value(x: Tensor) -> Tensor:
    """What this process has of a tensor, read without the other processes.

    One process alone may call it, as under `if tm.process_id() == 0`, where
    `float(x)` and `full(x)` would wait for all.

    Args:
        x: a global tensor, or a plain one.

    Returns:
        Plain tensor in memory of its own: the whole value, if each device has
        it or all devices are of this process; else the part that the devices of
        this process have, its rows (columns, ...) in their order. Not
        differentiable.

    Raises:
        ValueError: if `x` is a sum that nobody has formed, or what the devices
            of this process have is no block.
        RuntimeError: if no device of this process is on its mesh.
    """
    x = tensor_for("local_value", x).detach()
    return local_values.local_value(x) if _C.is_global(x) else x.clone()


def from_shards(
    tensors: Iterable[Tensor | None],
    mesh: Mesh | Layout,
    placements: Placements | None = None,
) -> Tensor:
    """The global tensor of which device i holds `tensors[i]`.

    Args:
        tensors: one plain tensor for each device, row-major; None for devices
            of other processes. Replicas must be equal (the first is taken);
            parts of a sum are added.
        mesh: a `Mesh`, or a `Layout`.
        placements: as for `distribute`.

    Returns:
        A global tensor; copies. Differentiable: each tensor gets the gradient
        of its slice, each part of a sum the whole one, and of replicas the
        first alone.

    Raises:
        ValueError: if the sizes are not those of one tensor so cut.
    """
    if not isinstance(tensors, Iterable):
        raise TypeError(
            "from_shards: a tensor for each device is due, and this is a"
            f" {type(tensors).__name__}.\n"
            "Hint: give a list, row-major. [argument-type]"
        )
    parts = [
        None if tensor is None else tensor_for("from_shards", tensor)
        for tensor in tensors
    ]
    ndim = next((part.dim() for part in parts if part is not None), None)
    layout = as_layout(mesh, placements, ndim)
    check_member("from_shards", layout)
    registration.register()
    return put_together(parts, layout)


def map_shards(
    f: Callable[..., Tensor], x: Tensor, *xs: Tensor, out: Placements | Layout
) -> Tensor:
    """Runs a function of your own on the shards of each device.

    Args:
        f: takes one plain tensor for each of `x, *xs`, gives one.
        x: global tensor.
        xs: more of them, on the mesh of `x`.
        out: placements of the result, or a `Layout` on that mesh.

    Returns:
        The global tensor of which device i holds what `f` gave for the shards
        of device i. Differentiable, twice too: the gradient of a shard is what
        `f` makes of it on that device, and that of a replicated tensor the sum
        over all devices. Where `out` replicates, the result is that of the
        first device, and so is the gradient.

    Raises:
        ValueError: if the tensors are not on one mesh, or the results are no
            shards of one tensor.
    """
    mesh = layout(x).mesh
    for other in xs:
        if layout(other).mesh != mesh:
            raise ValueError(
                "map_shards: the tensors live on two meshes.\n"
                f"  mesh  {mesh._native}\n"
                f"  mesh  {layout(other).mesh._native}\n"
                "Hint: bring one of them over with torch_mesh.distribute."
                " [mixed-meshes]"
            )
    parts = [take_apart(tensor) for tensor in (x, *xs)]
    results = [f(*local) for local in zip(*parts, strict=True)]
    for result in results:
        tensor_for("map_shards: of the function", result)
    if isinstance(out, Layout):
        return from_shards(results, out)
    return from_shards(results, mesh, out)


def borrow(
    t: Tensor, mesh: Mesh | Layout, placements: Placements | None = None
) -> Tensor:
    """A global tensor whose shards are windows on the plain CPU tensor `t`.

    No copy is made until somebody writes to the result. `t` must not be
    written while the result is in use: for batches that are handed over once.

    Args:
        t: plain CPU tensor.
        mesh: a `Mesh`, or a `Layout`.
        placements: as for `distribute`.

    Returns:
        Tensor on `torch.device("mesh")`, of the shape and dtype of `t`. Not
        differentiable.

    Raises:
        ValueError: if the placements do not fit the mesh or the tensor.
    """
    ndim = tensor_for("borrow", t).dim()
    layout = as_layout(mesh, placements, ndim)
    check_member("borrow", layout)
    if plain_threads and runs_plain():
        return plain_copy(t)
    registration.register()
    if movers:
        return move("borrow", t, lambda t: _C.borrow(t, layout._native))
    return _C.borrow(t, layout._native)


def reduce_partials(tensors: Iterable[Tensor]) -> None:
    """Forms pending partial sums of all these tensors, in place.

    One all-reduce for each bucket of 25 MiB and set of mesh axes. Along two
    axes it is a reduce-scatter, an all-reduce of what is left, and an
    all-gather. Tensors without a pending sum, and plain ones, are passed over.

    Args:
        tensors: global tensors, such as the gradients of one step.
    """
    _C.reduce_partials(list(tensors))


def register_rule(name: str, text: str) -> None:
    """Says how an op of yours shards.

    Args:
        name: e.g. "mylib::f", with the overload if there are several.
        text: the rule, e.g. "b x, x y -> b y" (docs/notation.md).

    Raises:
        ValueError: with the place of the error in the text, or if the name has
            no library.
        TypeError: if one of them is no text.
    """
    for value in (name, text):
        if not isinstance(value, str):
            raise TypeError(
                "register_rule: a text is due, and this is a"
                f" {type(value).__name__}: {value!r}.\n"
                'Hint: register_rule("mylib::f", "b x, x y -> b y").'
                " [argument-type]"
            )
    if "::" not in name:
        raise ValueError(
            f'register_rule: "{name}" is no name of an op.\n'
            f'Hint: put its library first, as in "mylib::{name}".'
            " [op-name]"
        )
    _C.register_rule(name, text)
