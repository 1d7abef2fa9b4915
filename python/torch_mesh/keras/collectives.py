"""Collectives on tensors.

On a global tensor they change the layout: its devices are in this process, and
it has one value. On a plain tensor they work among the processes of the job,
and with one process they leave it as it is. All processes must call the same
one, in the same order; each call first compares what they ask for, so that a
process that asks for something else is an error and not a wrong number.

Gradients are those of one program over all processes, whose loss is the sum of
the processes' losses.

Loaded with Keras: the engine and torch.distributed come when they are needed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from torch_mesh import job
from torch_mesh.keras.data import as_tensor, place
from torch_mesh.keras.layouts import check_axis

_OPS = ("sum", "mean", "max", "min")
_COLLECTIVES = ("all_reduce", "broadcast", "scatter_tensor", "gather_tensor")
_MAX_DIMS = 64  # torch's own bound
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)


def all_reduce(
    tensor: Any, op: str = "sum", axis_name: str | None = None
) -> Any:
    """Reduces a tensor over the processes of the job.

    A global tensor has one value, which this does not change: what is pending
    on its devices is summed up.

    Args:
        tensor: Any tensor. A plain one has the same shape in all processes.
        op: "sum", "mean", "max" or "min". "mean" is for floating dtypes.
        axis_name: For a global tensor, the mesh axis to reduce over. Defaults
            to all.

    Returns:
        The reduced tensor, the same in all processes. Differentiable for "sum"
        and "mean". With one process, a plain tensor as it is.

    Raises:
        ValueError: if `op` is not one of the four, or the processes do not ask
            for the same.
        RuntimeError: if another process ends or does not answer in time.
    """
    if op not in _OPS:
        raise ValueError(
            f'all_reduce: unknown op "{op}".\n'
            f"  known  {', '.join(_OPS)}\n"
            "Hint: use one of them. [unknown-op]"
        )
    if _is_global(tensor):
        return _change_placements(
            tensor, axis_name, lambda p: "R" if p.startswith("P") else p
        )
    if job.num_processes() == 1:
        return tensor
    x = as_tensor(tensor)
    if op == "mean" and not (x.is_floating_point() or x.is_complex()):
        raise ValueError(
            f"all_reduce: the mean of {x.dtype} is not of that dtype.\n"
            f"  tensor  {list(x.shape)}\n"
            'Hint: cast to a floating dtype, or use op="sum". [unknown-op]'
        )
    _compare("all_reduce", x, _OPS.index(op))
    return _AllReduce.apply(x, op)


def broadcast(tensor: Any, src: int = 0) -> Any:
    """Gives all processes, or all devices, the tensor of one.

    Args:
        tensor: Any tensor. A plain one has the same shape in all processes.
        src: The process that has the value. A global tensor has one value, so
            for it this says nothing.

    Returns:
        The tensor of process `src`. A global tensor that is replicated, if it
        is global. With one process, a plain tensor as it is. Differentiable.

    Raises:
        ValueError: if there is no process `src`, or the processes do not ask
            for the same.
        RuntimeError: if another process ends or does not answer in time.
    """
    if _is_global(tensor):
        return _change_placements(tensor, None, lambda p: "R")
    count = job.num_processes()
    is_number = isinstance(src, int) and not isinstance(src, bool)
    if not is_number or not 0 <= src < count:
        raise ValueError(
            f"broadcast: process {src!r} is not one of {count}.\n"
            f"  src  must be in [0, {count})\n"
            "Hint: number the processes from 0. [process-id]"
        )
    if count == 1:
        return tensor
    x = as_tensor(tensor)
    _compare("broadcast", x, src)
    return _Broadcast.apply(x, src)


def scatter_tensor(
    tensor: Any, dim: int = 0, axis_name: str | None = None
) -> Any:
    """Splits a tensor over devices, or over the processes of the job.

    With a global tensor, or with a mesh in force, over the devices along one
    mesh axis; else the plain tensor of process 0 over the processes, which
    pass a tensor of the same shape. One process has all of it. The parts have
    ceil(size / count) rows, the last ones fewer or none.

    Args:
        tensor: Any tensor or NumPy array.
        dim: The dim to split; may be negative.
        axis_name: The mesh axis. Defaults to the first of the mesh in force.

    Returns:
        A global tensor; among processes, the part of this one, a plain tensor
        of its own memory. With one process and no mesh, the tensor as it is.
        Differentiable.

    Raises:
        TypeError: if `dim` is no int.
        ValueError: if the mesh lacks the axis, the tensor lacks the dim, or
            the processes do not ask for the same.
        RuntimeError: if another process ends or does not answer in time.
    """
    import torch_mesh as tm

    x = as_tensor(tensor)
    dim = _check_dim("scatter_tensor", x, dim)
    mesh, placements = tm.current_mesh(), None
    if _is_global(x) and tm.layout(x).mesh.axis_names:
        layout = tm.layout(x)
        mesh, placements = layout.mesh, list(layout.placements)
    if mesh is None:
        if job.num_processes() == 1 or _is_global(x):
            return x
        _compare("scatter_tensor", x, dim)
        return _Scatter.apply(x, dim)
    placements = placements or ["R"] * len(mesh.axis_names)
    axis = mesh.axis_names[0] if axis_name is None else axis_name
    check_axis("scatter_tensor", axis, mesh)
    placements[mesh.axis_names.index(axis)] = f"S{dim}"
    return place(x, tm.Layout(mesh, tuple(placements)))


def gather_tensor(
    tensor: Any, dim: int = 0, axis_name: str | None = None
) -> Any:
    """Puts the parts of a tensor together, for all devices or processes.

    Args:
        tensor: Any tensor. Plain ones may differ in size along `dim`.
        dim: The dim that `scatter_tensor` split; may be negative.
        axis_name: For a global tensor, the mesh axis. Defaults to all that
            split `dim`.

    Returns:
        A global tensor that is whole along `dim`; among processes, their
        tensors one after the other, in all of them. With one process, a plain
        tensor as it is. Differentiable.

    Raises:
        TypeError: if `dim` is no int.
        ValueError: if the mesh lacks the axis, the tensor lacks the dim, or
            the processes do not ask for the same.
        RuntimeError: if another process ends or does not answer in time.
    """
    if _is_global(tensor):
        split = f"S{_check_dim('gather_tensor', tensor, dim)}"
        return _change_placements(
            tensor,
            axis_name,
            lambda p: "R" if p.partition("/")[0] == split else p,
        )
    x = as_tensor(tensor)
    dim = _check_dim("gather_tensor", x, dim)
    if job.num_processes() == 1:
        return tensor
    sizes = _compare("gather_tensor", x, dim, free_dim=dim)
    return _Gather.apply(x, dim, sizes)


def gather_numbers(op: str, numbers: torch.Tensor) -> list[torch.Tensor]:
    """The integers of all processes.

    Args:
        op: Whom an error is to name.
        numbers: int64 tensor of one dim, of the same size in all processes.

    Returns:
        List with the tensor of each process.

    Raises:
        RuntimeError: if another process ends or does not answer in time.
    """
    import torch.distributed as dist

    on_gpu = dist.get_backend() == "nccl"
    numbers = numbers.cuda() if on_gpu else numbers
    parts = [torch.empty_like(numbers) for _ in range(dist.get_world_size())]
    _call(op, lambda: dist.all_gather(parts, numbers))
    return [part.cpu() for part in parts]


def take_from(op: str, tensor: torch.Tensor, src: int) -> torch.Tensor:
    """The tensor of one process, without a look at what the others ask for.

    Args:
        op: Whom an error is to name.
        tensor: A plain tensor, of one shape and dtype in all processes.
        src: The process that has the value.

    Returns:
        A tensor of its own memory.

    Raises:
        RuntimeError: if another process ends or does not answer in time.
    """
    import torch.distributed as dist

    y = _own_copy(tensor)
    _call(op, lambda: dist.broadcast(_as_bytes(y), src))
    return y


# Among processes


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, op: str) -> torch.Tensor:
        context.op = op
        return _reduced("all_reduce", x, op)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        if context.op in ("max", "min"):
            raise NotImplementedError(
                f'all_reduce: op="{context.op}" has no gradient.\n'
                f"  tensor  {list(gradient.shape)}\n"
                "Hint: detach() the tensor, or use sum or mean. [no-gradient]"
            )
        return _reduced("backward of all_reduce", gradient, context.op), None


class _Broadcast(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, src: int) -> torch.Tensor:
        context.src = src
        return take_from("broadcast", x, src)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        total = _reduced("backward of broadcast", gradient, "sum")
        if job.process_id() != context.src:
            total = torch.zeros_like(total)
        return total, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, dim: int, sizes: list[int]
    ) -> torch.Tensor:
        context.dim, context.sizes = dim, sizes
        return _gathered("gather_tensor", x, dim, sizes)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        total = _reduced("backward of gather_tensor", gradient, "sum")
        mine = job.process_id()
        start = sum(context.sizes[:mine])
        part = total.narrow(context.dim, start, context.sizes[mine])
        return part.clone(), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, dim: int) -> torch.Tensor:
        import torch.distributed as dist

        context.dim = dim
        context.sizes = sizes = _chunk_sizes(x.size(dim))
        # All parts have the size of the largest on their way.
        shape = list(x.shape)
        shape[dim] = sizes[0]
        y = x.new_empty(shape)
        parts = None
        if job.process_id() == 0:
            parts = []
            for i, size in enumerate(sizes):
                part = x.new_zeros(shape)
                start = sum(sizes[:i])
                part.narrow(dim, 0, size).copy_(x.narrow(dim, start, size))
                parts.append(_as_bytes(part))
        _call("scatter_tensor", lambda: dist.scatter(_as_bytes(y), parts, 0))
        return y.narrow(dim, 0, sizes[job.process_id()]).clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        whole = _gathered(
            "backward of scatter_tensor", gradient, context.dim, context.sizes
        )
        if job.process_id() != 0:
            whole = torch.zeros_like(whole)
        return whole, None


def _reduced(op: str, x: torch.Tensor, how: str) -> torch.Tensor:
    """A new tensor: `x` reduced over the processes."""
    import torch.distributed as dist

    reduce_op = {
        "max": dist.ReduceOp.MAX,
        "min": dist.ReduceOp.MIN,
    }.get(how, dist.ReduceOp.SUM)
    y = _own_copy(x)
    if x.dtype in (torch.bool, torch.int16):  # gloo has no sums of them
        wide = y.to(torch.int32)
        _call(op, lambda: dist.all_reduce(wide, reduce_op))
        y = wide.to(x.dtype)
    else:
        _call(op, lambda: dist.all_reduce(y, reduce_op))
    return y / dist.get_world_size() if how == "mean" else y


def _gathered(
    op: str, x: torch.Tensor, dim: int, sizes: list[int]
) -> torch.Tensor:
    """The tensors of all processes, one after the other along `dim`."""
    import torch.distributed as dist

    shape = list(x.shape)
    shape[dim] = max(sizes)
    mine = x.new_zeros(shape)
    mine.narrow(dim, 0, x.size(dim)).copy_(x)
    parts = [torch.empty_like(mine) for _ in sizes]
    raw = [_as_bytes(part) for part in parts]
    _call(op, lambda: dist.all_gather(raw, _as_bytes(mine)))
    return torch.cat(
        [p.narrow(dim, 0, n) for p, n in zip(parts, sizes, strict=True)], dim
    )


def _chunk_sizes(size: int) -> list[int]:
    """Sizes of the ceil-sized chunks of a dim, one for each process."""
    count = job.num_processes()
    chunk = -(-size // count)
    return [min(chunk, max(size - i * chunk, 0)) for i in range(count)]


def _own_copy(x: torch.Tensor) -> torch.Tensor:
    plain = x.detach().resolve_conj().resolve_neg()
    return plain.clone(memory_format=torch.contiguous_format)


def _as_bytes(x: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, for what moves it as it is.

    Whatever the dtype: backends do not know them all.
    """
    return x.reshape(-1).view(torch.uint8)


def _compare(
    op: str, x: torch.Tensor, argument: int, free_dim: int | None = None
) -> list[int]:
    """Checks that all processes ask for the same.

    Args:
        op: The collective.
        x: Its tensor.
        argument: Its one other argument, as an int.
        free_dim: A dim in which the tensors may differ.

    Returns:
        The size of each process's tensor in `free_dim`; empty without one.

    Raises:
        ValueError: if they differ, or the tensor is of no kind that travels.
    """
    if x.dtype not in _DTYPES or x.layout != torch.strided or x.is_meta:
        raise ValueError(
            f"{op}: a tensor of {x.dtype} and {x.layout} on {x.device} cannot "
            "go to another process.\n"
            f"  tensor  {list(x.shape)}\n"
            "Hint: give a dense tensor of numbers. [processes-differ]"
        )
    said = torch.zeros(_MAX_DIMS + 4, dtype=torch.int64)
    head = [_COLLECTIVES.index(op), argument, _DTYPES.index(x.dtype), x.ndim]
    said[: 4 + x.ndim] = torch.tensor([*head, *x.shape], dtype=torch.int64)
    everyone = gather_numbers(op, said)
    free = None if free_dim is None else 4 + free_dim
    first = everyone[0].clone()
    for other in everyone[1:]:
        other = other.clone()
        if free is not None:
            other[free] = first[free]
        if not torch.equal(other, first):
            raise ValueError(
                f"{op}: the processes do not ask for the same.\n"
                + "".join(
                    f"  process {i}  {_asked_for(each.tolist())}\n"
                    for i, each in enumerate(everyone)
                )
                + "Hint: call the same collectives in all processes, in the "
                "same order, with tensors of one shape and dtype. "
                "[processes-differ]"
            )
    return [] if free is None else [int(each[free]) for each in everyone]


def _asked_for(said: list[int]) -> str:
    """What `_compare` sent, as text."""
    op, argument, dtype, ndim = said[:4]
    shape = said[4 : 4 + ndim]
    if op not in range(len(_COLLECTIVES)):
        return "another collective"
    name = _COLLECTIVES[op]
    kind = str(_DTYPES[dtype]).partition(".")[2]
    word = {"all_reduce": "op", "broadcast": "src"}.get(name, "dim")
    text = _OPS[argument] if word == "op" else str(argument)
    return f"{name}({kind}{shape}, {word}={text})"


def _call(op: str, collective: Callable[[], Any]) -> None:
    """Runs a collective of torch; a lost peer is an error with a code."""
    try:
        collective()
    except RuntimeError as error:
        line = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"{op}: another process of the job ended, or did not answer in "
            "time.\n"
            f"  this is process {job.process_id()} of "
            f"{job.num_processes()}\n"
            f"  {line}\n"
            "Hint: look at the output of the other processes. [peer-lost]"
        ) from error


# Among the devices of this process


def _is_global(tensor: Any) -> bool:
    import torch_mesh as tm

    return isinstance(tensor, torch.Tensor) and tm.is_global(tensor)


def _check_dim(op: str, x: Any, dim: Any) -> int:
    """The dim, counted from 0."""
    if isinstance(dim, bool) or not hasattr(dim, "__index__"):
        raise TypeError(
            f"{op}: dim is {dim!r}, and must be an int.\n"
            f"  tensor  {list(x.shape)}\n"
            "Hint: name one dim of the tensor by its number. [argument-type]"
        )
    dim = operator.index(dim)
    if -x.ndim <= dim < x.ndim:
        return int(dim % x.ndim)
    raise ValueError(
        f"{op}: dim {dim} of a tensor with {x.ndim} dims.\n"
        f"  tensor  {list(x.shape)}\n"
        "Hint: name a dim that the tensor has. [layout-dim]"
    )


def _change_placements(
    tensor: torch.Tensor, axis_name: str | None, change: Callable[[str], str]
) -> torch.Tensor:
    """Redistributes a global tensor, placement by placement."""
    import torch_mesh as tm

    layout = tm.layout(tensor)
    if axis_name is not None:
        check_axis("redistribute", axis_name, layout.mesh)
    pairs = zip(layout.mesh.axis_names, layout.placements, strict=True)
    placements = tuple(
        change(placement) if axis_name in (None, axis) else placement
        for axis, placement in pairs
    )
    if placements == tuple(layout.placements):
        return tensor
    return tm.redistribute(tensor, tm.Layout(layout.mesh, placements))
