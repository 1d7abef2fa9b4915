"""The calls that dispatch.py times and callgrind.py counts."""

import dataclasses
import time
import timeit
from collections.abc import Callable

import torch

import torch_mesh as tm

SHAPE = (8, 16)


@dataclasses.dataclass
class Op:
    """A function of torch, and the sizes and placements of its tensors."""

    call: Callable
    args: dict[str, tuple[tuple[int, ...], str]]
    result: str


X = (SHAPE, "S0")
OPS = {
    "add": Op(torch.add, {"x": X, "y": X}, "S0"),
    "mm": Op(torch.mm, {"x": X, "w": ((16, 16), "R")}, "S0"),
    "view": Op(lambda x: x.view(-1, 4, 4), {"x": X}, "S0"),
    "sum": Op(lambda x: x.sum(1), {"x": X}, "S0"),
    "sum of all": Op(torch.sum, {"x": X}, "P+"),
    "transpose": Op(lambda x: x.transpose(0, 1), {"x": X}, "S1"),
}
REDISTRIBUTIONS = [("S0", "R"), ("R", "S0"), ("P+", "R")]


def make_mesh(num_devices):
    """Returns a mesh of one axis, of virtual devices."""
    devices = [f"cpu:{i}" for i in range(num_devices)]
    return tm.Mesh({"data": num_devices}, devices)


def op_arguments(op, mesh, kind="sharded", rows=None):
    """Returns the arguments of an op: on the mesh, and of each local op.

    Args:
        op: an `Op`.
        mesh: from `make_mesh`.
        kind: "sharded" places as the op says; "replicated" all as R, with
            which all devices share one local op.
        rows: size of the dim 0 that is sharded, None as the op says.

    Returns:
        List of global tensors, and a list of lists of plain tensors.
    """
    on_mesh, local = [], [[] for _ in range(mesh.size)]
    for shape, placement in op.args.values():
        if placement == "S0" and rows is not None:
            shape = (rows, *shape[1:])
        if kind == "replicated":
            placement = "R"
        on_mesh.append(tm.distribute(torch.randn(shape), mesh, (placement,)))
        shards = tm.shards(on_mesh[-1])
        for args, shard in zip(local, shards, strict=True):
            args.append(shard)
    check(
        op.call,
        lambda: on_mesh,
        "R" if kind == "replicated" else op.result,
        collectives=0,
    )
    return on_mesh, local[: 1 if kind == "replicated" else None]


def redistribution(source, target, mesh):
    """Returns a function that makes the tensor, and one that redistributes.

    A mesh keeps a partial sum reduced once it is asked for, so each call needs
    a sum of its own.
    """
    value = torch.randn(SHAPE)
    layout = tm.Layout(mesh, (target,))

    def make():
        if source == "P+":
            return tm.from_shards([value] * mesh.size, mesh, (source,))
        return tm.distribute(value, mesh, (source,))

    def redistribute(x):
        return tm.redistribute(x, layout)

    check(
        redistribute,
        lambda: [make()],
        target,
        collectives=int(source != "R"),
    )
    return make, redistribute


def check(call, args, placement, collectives):
    """Asserts that what is measured is what the tables say."""
    call(*args())
    fresh = args()
    with tm.counting() as counts:
        result = call(*fresh)
    assert tm.layout(result).placements == (placement,), tm.layout(result)
    assert counts.plans_made == 0
    assert counts.replicated_ops == {}
    assert sum(counts.collectives.values()) == collectives, counts.collectives


def call_timer(op, args_of_each):
    """Returns the timer of calls of `op` with each of these arguments."""
    names = {"op": op}
    lines = []
    for i, args in enumerate(args_of_each):
        names |= {f"x{i}_{k}": arg for k, arg in enumerate(args)}
        lines.append(f"op({', '.join(f'x{i}_{k}' for k in range(len(args)))})")
    return make_timer("\n".join(lines), "pass", names)


def pool_timer(op, make, turns):
    """Returns the timer of calls of `op` on `turns` tensors from `make()`.

    They are made beforehand, outside of the time.
    """
    names = {"op": op, "make": make, "turns": turns}
    setup = "pool = [make() for _ in range(turns)]"
    return make_timer("for x in pool: op(x)", setup, names)


def make_timer(statement, setup, names):
    return timeit.Timer(statement, setup, time.perf_counter_ns, names)
