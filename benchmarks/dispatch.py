"""What an op costs on a mesh over its local ops, beside DTensor.

f32[8, 16] on two virtual devices, without gradients, on plan hits. The
overhead of an op is its time less that of the local ops, which are timed as
plain ops on the shards. That of a redistribution is all its time, the copy
included. DTensor runs under torch's fake process group of two: one local op
for each call, and collectives that move nothing.

Run: python benchmarks/dispatch.py [--quick] [--json]
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import timeit

import mesh_calls
import rich.box
import rich.console
import rich.table
import torch
import torch.distributed as dist
from mesh_calls import OPS, REDISTRIBUTIONS, make_mesh
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import torch_mesh as tm

HERE = pathlib.Path(__file__).resolve().parent
NUM_BLOCKS = 30
MANY_DEVICES = (2, 8, 64)
# The share of DTensor's overhead that ours may be.
OP_TARGET = 1 / 5
REDISTRIBUTION_TARGET = 1 / 10
# Replicas share one lane, so an op on 64 devices costs what it does on 2.
FLAT_TARGET = 1.1

DTENSOR_PLACEMENTS = {"R": Replicate(), "S0": Shard(0), "P+": Partial()}


# -------------------------------------------------------------------- timing


@dataclasses.dataclass
class Loop:
    """A loop whose time per call is measured; the collector is off in it."""

    timer: timeit.Timer
    turns: int
    calls: int = 1  # in one turn

    def nanoseconds(self):
        """Returns the time of one call."""
        return self.timer.timeit(self.turns) / (self.turns * self.calls)


def call_loop(op, args_of_each, turns):
    """Returns the loop that calls `op` with each of these arguments.

    All of them count as one call: two local ops are one op on two devices.
    """
    return Loop(mesh_calls.call_timer(op, args_of_each), turns)


def pool_loop(op, make, turns):
    """Returns the loop that calls `op` once on each of `turns` tensors."""
    return Loop(mesh_calls.pool_timer(op, make, turns), 1, turns)


def time_blocks(loops, num_blocks):
    """Returns {name: nanoseconds of each block}.

    A block runs every loop once; every other block runs them backwards.
    """
    for loop in loops.values():
        loop.nanoseconds()  # warm
    times = {name: [] for name in loops}
    for block in range(num_blocks):
        for name in list(loops)[:: -1 if block % 2 else 1]:
            times[name].append(loops[name].nanoseconds())
    return times


# ----------------------------------------------------------- the contestants


def op_loops(op, mesh, device_mesh, turns):
    """Returns the loops of one op: ours, DTensor's and the local ops'."""
    global_args, local = mesh_calls.op_arguments(op, mesh)
    placements = [DTENSOR_PLACEMENTS[p] for _, p in op.args.values()]
    dtensors = [
        DTensor.from_local(shard, device_mesh, [placement])
        for shard, placement in zip(local[0], placements, strict=True)
    ]
    return {
        "mesh": call_loop(op.call, [global_args], turns),
        "two local ops": call_loop(op.call, local, turns),
        "dtensor": call_loop(op.call, [dtensors], turns),
        "local op": call_loop(op.call, local[:1], turns),
    }


def redistribution_loops(source, target, mesh, device_mesh, turns):
    """Returns the loops of one redistribution: ours and DTensor's."""
    make, redistribute = mesh_calls.redistribution(source, target, mesh)
    local = tm.shards(make())[0]
    placements = [DTENSOR_PLACEMENTS[target]]

    def make_dtensor():
        return DTensor.from_local(
            local, device_mesh, [DTENSOR_PLACEMENTS[source]]
        )

    return {
        "mesh": pool_loop(redistribute, make, turns),
        "dtensor": pool_loop(
            lambda x: x.redistribute(placements=placements),
            make_dtensor,
            turns,
        ),
    }


# -------------------------------------------------------------- measurements


def compare(times, target):
    """Returns overheads in ns and their ratio, from the times of all blocks."""
    ours, theirs = times["mesh"], times["dtensor"]
    if "local op" in times:
        ours = subtract(ours, times["two local ops"])
        theirs = subtract(theirs, times["local op"])
    blocks = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(blocks, n=4)
    return {
        "times_ns": {k: statistics.median(v) for k, v in times.items()},
        "mesh_overhead_ns": statistics.median(ours),
        "dtensor_overhead_ns": statistics.median(theirs),
        "ratio": statistics.median(blocks),
        "ratio_quartiles": [low, high],
        "target": target,
    }


def subtract(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def measure_two_devices(num_blocks, turns):
    """Returns {"ops": ..., "redistributions": ...}, compared with DTensor."""
    mesh = make_mesh(2)
    device_mesh = init_device_mesh("cpu", (2,))
    ops, redistributions = {}, {}
    for name, op in OPS.items():
        loops = op_loops(op, mesh, device_mesh, turns)
        ops[name] = compare(time_blocks(loops, num_blocks), OP_TARGET)
    for source, target in REDISTRIBUTIONS:
        loops = redistribution_loops(
            source, target, mesh, device_mesh, turns // 10
        )
        redistributions[f"{source} -> {target}"] = compare(
            time_blocks(loops, num_blocks), REDISTRIBUTION_TARGET
        )
    return {"ops": ops, "redistributions": redistributions}


def measure_many_devices(num_blocks, turns):
    """Returns the overheads in ns of all ops on more devices.

    "replicated": f32[8, 16], all R: one lane, so one local op is taken off.
    "sharded": one row for each device, S0: as many local ops as devices.
    """
    result = {}
    for name, op in OPS.items():
        loops = {}
        for num_devices in MANY_DEVICES:
            num_rows = {"replicated": None, "sharded": num_devices}
            for kind in num_rows:
                on_mesh, local = mesh_calls.op_arguments(
                    op, make_mesh(num_devices), kind, num_rows[kind]
                )
                key = f"{kind} {num_devices}"
                count = max(1, turns // len(local))
                loops[f"{key} mesh"] = call_loop(op.call, [on_mesh], count)
                loops[f"{key} local"] = call_loop(op.call, local, count)
        times = time_blocks(loops, num_blocks)
        result[name] = {
            kind: {
                num_devices: statistics.median(
                    subtract(
                        times[f"{kind} {num_devices} mesh"],
                        times[f"{kind} {num_devices} local"],
                    )
                )
                for num_devices in MANY_DEVICES
            }
            for kind in ("replicated", "sharded")
        }
    return result


# ------------------------------------------------------------------- results


def show_comparison(title, results, console):
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for i, column in enumerate(
        [title, "mesh us", "over", "DTensor us", "over", "ratio", "", "aim"]
    ):
        table.add_column(column, justify="right" if i else "left")
    for name, result in results.items():
        times = result["times_ns"]
        ratio, (low, high) = result["ratio"], result["ratio_quartiles"]
        table.add_row(
            name,
            microseconds(times["mesh"]),
            microseconds(result["mesh_overhead_ns"]),
            microseconds(times["dtensor"]),
            microseconds(result["dtensor_overhead_ns"]),
            judged(f"{ratio:.3f}", ratio <= result["target"]),
            f"{low:.3f} to {high:.3f}",
            f"{result['target']:.2f}",
        )
    console.print(table)


def show_many_devices(results, console):
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    columns = ["over, us", *(f"R on {n}" for n in MANY_DEVICES), "64 / 2"]
    columns += ["aim", *(f"S0 on {n}" for n in MANY_DEVICES), "us a lane"]
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    least, most = MANY_DEVICES[0], MANY_DEVICES[-1]
    for name, result in results.items():
        replicated, sharded = result["replicated"], result["sharded"]
        flat = replicated[most] / replicated[least]
        lane = (sharded[most] - sharded[least]) / (most - least)
        table.add_row(
            name,
            *(microseconds(replicated[n]) for n in MANY_DEVICES),
            judged(f"{flat:.2f}", flat <= FLAT_TARGET),
            f"{FLAT_TARGET:.2f}",
            *(microseconds(sharded[n]) for n in MANY_DEVICES),
            microseconds(lane),
        )
    console.print(table)


def microseconds(nanoseconds):
    return f"{nanoseconds / 1000:.2f}"


def judged(text, is_met):
    return f"[green]{text}[/]" if is_met else f"[red]{text}[/]"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five blocks")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    num_blocks, turns = (5, 300) if arguments.quick else (NUM_BLOCKS, 2000)
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    console = rich.console.Console(width=100)
    with torch.no_grad():
        results = measure_two_devices(num_blocks, turns)
        show_comparison("f32[8, 16] on 2", results["ops"], console)
        show_comparison("redistribution", results["redistributions"], console)
        results["many_devices"] = measure_many_devices(num_blocks, turns)
        show_many_devices(results["many_devices"], console)
    dist.destroy_process_group()
    results["machine"] = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "blocks": num_blocks,
        "turns": turns,
    }
    if arguments.json:
        path = HERE / "results" / "dispatch.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"written: {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
