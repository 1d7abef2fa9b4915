"""The calls that dispatch.py times and callgrind.py counts."""

import dataclasses
import itertools
import time
import timeit
from collections.abc import Callable

import torch

import torch_mesh as tm
from torch_mesh import _C

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

# Statements that are run again and again: what the names in one stand for is
# made by the function beside it. `i` counts the turns.
LOOPS = {
    "add_": ("x.add_(y)", lambda mesh: {"x": put(mesh), "y": put(mesh)}),
    "add on two memories": (
        "x + y",
        lambda mesh: {"x": put(two_memories()), "y": put(two_memories())},
    ),
    "mm with a gather": (
        "torch.mm(x, w)",
        lambda mesh: {"x": put(mesh), "w": put(mesh, "S1", (16, 16))},
    ),
    "x[i] of a whole dim": (
        "x[:, i % 16]",
        lambda mesh: {"x": put(mesh)},
    ),
    "x[i] of a cut dim": ("x[i % 8]", lambda mesh: {"x": put(mesh)}),
    "empty_like and copy_ of P+": (
        "torch.empty_like(x).copy_(x)",
        lambda mesh: {"x": put(mesh).sum(0)},
    ),
    "uniform_": ("x.uniform_()", lambda mesh: {"x": put(mesh)}),
    "dropout": (
        "torch.dropout(x, 0.5, True)",
        lambda mesh: {"x": put(mesh)},
    ),
    "item": ("x.item()", lambda mesh: {"x": put(mesh, "R", ())}),
    "foreach add of 50 R": (
        "torch._foreach_add_(x, y)",
        lambda mesh: {"x": put_list(mesh, "R"), "y": put_list(mesh, "R")},
    ),
    "foreach add of 50 S0": (
        "torch._foreach_add_(x, y)",
        lambda mesh: {"x": put_list(mesh, "S0"), "y": put_list(mesh, "S0")},
    ),
    "foreach add of 50 S0 and S1": (
        "torch._foreach_add_(x, y)",
        lambda mesh: {"x": put_list(mesh, "S0"), "y": put_list(mesh, "S1")},
    ),
    "fused adam of 50 S0": (
        "torch._fused_adam_(*lists, lr=0.1, beta1=0.9, beta2=0.99, "
        "weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False)",
        lambda mesh: {"lists": adam_lists(mesh)},
    ),
}


def put(mesh, placement="S0", shape=SHAPE):
    return tm.distribute(torch.randn(shape), mesh, (placement,))


def put_list(mesh, placement):
    return [put(mesh, placement) for _ in range(50)]


def adam_lists(mesh):
    """Parameters, gradients, both moments, no maxima, and step numbers."""
    lists = [put_list(mesh, "S0") for _ in range(4)]
    return [*lists, [], [put(mesh, "R", ()).zero_() for _ in range(50)]]


def two_memories():
    """Returns a mesh of two devices, each with a memory of its own."""
    _C.separate_cpu_memories(True)
    mesh = make_mesh(2)
    _C.separate_cpu_memories(False)
    return mesh


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


def loop_timer(name, mesh):
    """Returns the timer of a loop of `LOOPS`; its turns are given to timeit."""
    statement, names = LOOPS[name]
    names = {"torch": torch, "turns": itertools.count(), **names(mesh)}
    return make_timer(f"i = next(turns); {statement}", "pass", names)


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
