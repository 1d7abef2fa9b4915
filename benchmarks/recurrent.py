"""Recurrent layers with a sharded batch, against plain torch.

Two layers, forward and backward, on a mesh of four virtual devices and on plain
torch, one thread both, turn by turn; CPU time of the process. See README.md.

Run: OMP_NUM_THREADS=1 python benchmarks/recurrent.py [--rounds 7] [--json]
"""

import argparse
import copy
import json
import pathlib
import statistics
import time

import torch

import torch_mesh as tm

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "recurrent.json"
# Width, batch, steps.
SIZES = {"2 x 256": (256, 64, 50), "2 x 32": (32, 8, 16)}
KINDS = ("LSTM", "GRU", "RNN")


def train(module, x):
    """Returns seconds of CPU time of one step."""
    begin = time.process_time()
    module.zero_grad()
    module(x)[0].sum().backward()
    return time.process_time() - begin


def compare(kind, width, batch, steps, rounds):
    """Returns (plain, mesh): the least CPU time of a step, in seconds."""
    torch.manual_seed(0)
    mesh = tm.Mesh({"data": 4})
    plain = getattr(torch.nn, kind)(width, width, num_layers=2)
    x = torch.randn(steps, batch, width)
    with tm.use(mesh):
        there = copy.deepcopy(plain).to("mesh")
        turns = [(plain, x), (there, tm.distribute(x, mesh, ("S1",)))]
        times = [[], []]
        for n in range(rounds + 2):
            for i in (0, 1) if n % 2 else (1, 0):
                seconds = train(*turns[i])
                if n >= 2:
                    times[i].append(seconds)
    return [min(of_one) for of_one in times], statistics.median(
        b / a for a, b in zip(*times, strict=True)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    for kind in KINDS:
        for name, sizes in SIZES.items():
            (plain, mesh), ratio = compare(kind, *sizes, arguments.rounds)
            table[f"{kind} {name}"] = {
                "plain_ms": round(plain * 1e3, 2),
                "mesh_ms": round(mesh * 1e3, 2),
                "ratio_of_least": round(mesh / plain, 2),
                "median_ratio": round(ratio, 2),
            }
            print(f"{kind} {name}: {table[f'{kind} {name}']}", flush=True)
    if arguments.json:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
