"""Recurrent layers and cells with a sharded batch, against one device.

Forward and backward on a mesh of four virtual devices and on plain torch or
plain Keras, one thread both, turn by turn; CPU time of the process. See
README.md.

Run: OMP_NUM_THREADS=1 python benchmarks/recurrent.py [--rounds 7] [--json]
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TORCH_MESH_CPU_DEVICES", "4")

import keras
import torch

import torch_mesh as tm

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "recurrent.json"
KINDS = ("LSTM", "GRU", "RNN")
# Width, batch, steps.
LAYERS = {"2 x 256": (256, 64, 50), "2 x 32": (32, 8, 16)}
CELLS = {"cell 128": (128, 32, 20), "cell 51": (51, 96, 20)}
KERAS = {"of Keras 128": (128, 32, 32)}


def layers(kind, width, batch, steps):
    """Two layers of torch's; a step of plain torch and one on the mesh."""
    mesh = tm.Mesh({"data": 4})
    plain = getattr(torch.nn, kind)(width, width, num_layers=2)
    x = torch.randn(steps, batch, width)

    def step(module, x):
        module.zero_grad()
        module(x)[0].sum().backward()

    with tm.use(mesh):
        there = copy.deepcopy(plain).to("mesh")
    placed = tm.distribute(x, mesh, ("S1",))
    return lambda: step(plain, x), on(mesh, lambda: step(there, placed))


def cells(kind, width, batch, steps):
    """A loop over a cell of torch's, as above."""
    mesh = tm.Mesh({"data": 4})
    plain = getattr(torch.nn, f"{kind}Cell")(width, width)
    x = torch.randn(steps, batch, width)

    def step(module, parts):
        module.zero_grad()
        state = None
        for part in parts:
            state = module(part, state)
        (state[0] if kind == "LSTM" else state).sum().backward()

    with tm.use(mesh):
        there = copy.deepcopy(plain).to("mesh")
    placed = tm.distribute(x, mesh, ("S1",)).unbind()
    return (
        lambda: step(plain, x.unbind()),
        on(mesh, lambda: step(there, placed)),
    )


def keras_layers(kind, width, batch, steps):
    """A layer of Keras's that returns sequences, as above."""
    distribution = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices()[:4]
    )
    numbers = torch.randn(batch, steps, width)

    def step(layer, x):
        weights = [w.value for w in layer.trainable_weights]
        torch.autograd.grad(layer(x).sum(), weights)

    def made(x):
        layer = getattr(keras.layers, kind)(width, return_sequences=True)
        layer.build(x.shape)
        return lambda: step(layer, x)

    def under_distribution(function):
        keras.distribution.set_distribution(distribution)
        try:
            return function()
        finally:
            keras.distribution.set_distribution(None)

    there = under_distribution(
        lambda: made(tm.distribute(numbers, tm.current_mesh(), ("S0",)))
    )
    return made(numbers), lambda: under_distribution(there)


def on(mesh, function):
    """The function, with the mesh in force."""

    def run():
        with tm.use(mesh):
            function()

    return run


def compare(turns, rounds):
    """Takes a plain step and one on the mesh in turn.

    Returns:
        The least CPU time of each, in seconds, and the median of their ratios.
    """
    times = [[], []]
    for n in range(rounds + 2):
        for i in (0, 1) if n % 2 else (1, 0):
            begin = time.process_time()
            turns[i]()
            if n >= 2:
                times[i].append(time.process_time() - begin)
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
    for make, kinds, sizes in (
        (layers, KINDS, LAYERS),
        (cells, KINDS, CELLS),
        (keras_layers, ("LSTM", "GRU"), KERAS),
    ):
        for kind in kinds:
            for name, of_one in sizes.items():
                torch.manual_seed(0)
                turns = make(kind, *of_one)
                (plain, mesh), ratio = compare(turns, arguments.rounds)
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
