"""What a training step costs in several processes, beside DDP's.

One launch of two processes, one thread each. In turn: a step of the mesh over
both, of DistributedDataParallel over gloo, and of the same engine without
communication, on a mesh of the process's own device with its half of the
batch. Read the CPU time: wall time counts what else the machine does.

Run: python benchmarks/processes.py [--transport c10d] [--models mlp,conv]
     [--rounds 7] [--steps 20] [--json]
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

RESULT = pathlib.Path(__file__).parent / "results" / "processes.json"
NUM_PROCESSES = 2
# CPU ms a step and process above the step without communication, at most.
TARGETS = {
    "shared_memory": {"mlp": 0.9, "conv": 1.2, "transformer": 1.3},
    "c10d": {"mlp": 1.35, "conv": 1.8, "transformer": 2.1},
}


def build(name):
    """Returns (model, batch) with seeded values."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "mlp":
        model = nn.Sequential(
            nn.Linear(784, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        )
        return model, torch.randn(64, 784)
    if name == "conv":
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 164),
            nn.ReLU(),
            nn.Linear(164, 10),
        )
        return model, torch.randn(64, 1, 28, 28)
    layer = nn.TransformerEncoderLayer(
        128, 4, 512, dropout=0.0, batch_first=True
    )
    return nn.TransformerEncoder(
        layer, 4, enable_nested_tensor=False
    ), torch.randn(16, 64, 128)


def stepper(model, x):
    """Returns a function that runs one step."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step():
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def steppers(name, process):
    """Returns a step of each contender, by name."""
    from torch.nn.parallel import DistributedDataParallel

    import torch_mesh as tm

    def on_mesh(mesh, part):
        model, x = build(name)
        for parameter in model.parameters():
            parameter.data = tm.distribute(parameter.data, mesh)
        return stepper(model, tm.distribute(x[part], mesh, ("S0",)))

    batch = build(name)[1].shape[0]
    half = batch // NUM_PROCESSES
    own = slice(process * half, (process + 1) * half)
    everything = slice(0, batch)
    ddp, x = build(name)
    return {
        "mesh": on_mesh(tm.Mesh({"data": NUM_PROCESSES}), everything),
        "DDP": stepper(DistributedDataParallel(ddp), x[own]),
        "alone": on_mesh(
            tm.Mesh({"data": 1}, tm.list_local_devices()[:1]), own
        ),
        "torch": stepper(build(name)[0], build(name)[1][own]),
    }


def quantiles(times):
    """Returns lower quartile, median and upper quartile."""
    return statistics.quantiles(times, n=4) if len(times) > 1 else times * 3


def work(process, port, arguments):
    """The life of a process; process 0 prints what both measured."""
    import torch
    import torch.distributed as dist

    import torch_mesh as tm

    torch.set_num_threads(1)
    tm.initialize(f"127.0.0.1:{port}", NUM_PROCESSES, process)
    result = {}
    for name in arguments.models.split(","):
        steps = steppers(name, process)
        for step in steps.values():
            for _ in range(5):
                step()
        cpu = {key: [] for key in steps}
        wall = {key: [] for key in steps}
        for _ in range(arguments.rounds):
            for key, step in steps.items():
                dist.barrier()
                for _ in range(arguments.steps):
                    start = time.process_time(), time.perf_counter()
                    step()
                    cpu[key].append(time.process_time() - start[0])
                    wall[key].append(time.perf_counter() - start[1])
        # The lower quartile of all steps: few are without disturbance for long,
        # and the least of all is luck.
        result[name] = {
            key: {
                "cpu_ms": round(1e3 * quantiles(cpu[key])[0], 3),
                "cpu_ms_median": round(1e3 * quantiles(cpu[key])[1], 3),
                "ms_median": round(1e3 * quantiles(wall[key])[1], 3),
            }
            for key in steps
        }
    if process == 0:
        print("@result " + json.dumps(result))
    dist.destroy_process_group()


def measure(arguments):
    """Returns the result of one launch."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "TORCH_MESH_CPU_DEVICES": "1",
        "TORCH_MESH_TRANSPORT": arguments.transport,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:]]
            + ["--process", str(i), "--port", str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(NUM_PROCESSES)
    ]
    outputs = [p.communicate()[0] for p in processes]
    lines = [t for t in outputs[0].splitlines() if t.startswith("@result ")]
    if not lines:
        raise SystemExit("a process failed")
    return json.loads(lines[0].removeprefix("@result "))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", default="shared_memory")
    parser.add_argument("--models", default="mlp,conv,transformer")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", type=int)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    if arguments.process is not None:
        work(arguments.process, arguments.port, arguments)
        return 0
    result = measure(arguments)
    targets = TARGETS[arguments.transport]
    print(f"CPU ms a step and process, {arguments.transport}")
    print(f"{'':14}{'mesh':>8}{'DDP':>8}{'alone':>8}{'torch':>8}", end="")
    print(f"{'above':>8}{'at most':>9}{'steps/DDP':>11}")
    for name, by in result.items():
        above = by["mesh"]["cpu_ms"] - by["alone"]["cpu_ms"]
        ratio = by["DDP"]["ms_median"] / by["mesh"]["ms_median"]
        cells = "".join(f"{by[k]['cpu_ms']:>8.2f}" for k in by)
        print(
            f"{name:14}{cells}{above:>8.2f}{targets[name]:>9.2f}{ratio:>11.2f}"
        )
    if arguments.json:
        kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        kept[arguments.transport] = result
        RESULT.write_text(json.dumps(kept, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
