"""Steps of training over a slow line, by how gradients are put into buckets.

    python benchmarks/two_hosts.py [--rate 25e6] [--delay 0.02]

Two processes on two hosts of tests/hosts (root, /dev/net/tun). In each round
all sizes take their turn, so that what else the machine does meets all. `off`
begins no sum before the optimizer asks. Needs `make build`.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "hosts"))

from network import Network, missing
from programs import Job

MIB = 1 << 20
SIZES = {"off": 1 << 40} | {f"{n} MiB": n * MIB for n in (25, 8, 4, 1)}

# 8.4 million numbers, so 32 MiB of gradients. A step of each size comes first.
PROGRAM = """
import resource, time
from torch import nn
from torch_mesh import overlap
mesh = tm.Mesh({{"data": 2}})
torch.manual_seed(0)
with tm.use(mesh, batch="data"):
    layers = [layer for _ in range(8)
              for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    model = nn.Sequential(*layers).to("mesh")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    def step():
        loss = model(torch.randn({batch}, 1024).to("mesh")).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    def cpu():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime
    found = []
    for _ in range({rounds}):
        for name, size in {sizes}.items():
            overlap.BUCKET_BYTES = size
            step()
            start, used = time.monotonic(), cpu()
            for _ in range({steps}):
                step()
            seconds = time.monotonic() - start
            found.append([name, seconds / {steps}, (cpu() - used) / {steps}])
stop(found=found)
"""


def measured(given: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Seconds and seconds of CPU of a step, for each size and round."""
    program = PROGRAM.format(
        batch=given.batch, rounds=given.rounds, sizes=SIZES, steps=given.steps
    )
    with Network(
        delay=given.delay, loss=given.loss, rate=given.rate, mtu=9000
    ) as network:
        hosts = (0, 0) if given.one_host else (0, 1)
        job = Job(network, program, hosts, {"TORCH_MESH_CPU_DEVICES": "1"})
        (of_first, _) = job.stopped()
        job.end()
    by_size: dict[str, list[list[float]]] = {}
    for name, *seconds in of_first["found"]:
        by_size.setdefault(name, []).append(seconds)
    return by_size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=25e6)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one-host", action="store_true")
    given = parser.parse_args()
    if missing():
        sys.exit(f"two_hosts: {missing()}")
    print(f"{'bucket':8s} {'s/step':>8s} {'least':>8s} {'CPU ms':>8s}")
    for name, rounds in measured(given).items():
        seconds, cpu = zip(*rounds, strict=True)
        print(
            f"{name:8s} {statistics.median(seconds):8.3f} {min(seconds):8.3f}"
            f" {1e3 * statistics.median(cpu):8.0f}"
        )


if __name__ == "__main__":
    main()
