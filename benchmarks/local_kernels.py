"""Ops that copy their arguments first (src/run/local_kernel.cpp).

Each on images of two orders in memory, on a mesh of one device and on plain
torch, one thread both, turn by turn. See README.md.

Run: python benchmarks/local_kernels.py [--rounds 20]
"""

import argparse
import statistics
import time

import rich.console
import rich.table
import torch

import torch_mesh as tm

ops = torch.ops.aten
SIZES = (32, 32, 28, 28)  # what a convolution of 32 channels gives
POOL = ([2, 2], [2, 2])


def arguments():
    """Images channel by channel and pixel by pixel, a pool of each."""
    draw = torch.Generator().manual_seed(0)
    by_channel = torch.randn(SIZES, generator=draw)
    pooled, indices = ops.max_pool2d_with_indices(by_channel, *POOL)
    return {
        "by_channel": by_channel,
        "by_pixel": by_channel.contiguous(memory_format=torch.channels_last),
        "pooled": pooled.contiguous(memory_format=torch.channels_last),
        "indices": indices,
    }


def gradient(op, *options):
    """A gradient by channel, of an activation by pixel."""
    return lambda a: op(a["by_channel"], a["by_pixel"], *options)


CALLS = {
    "add (copies nothing)": gradient(ops.add),
    "threshold_backward": gradient(ops.threshold_backward, 0),
    "leaky_relu_backward": gradient(ops.leaky_relu_backward, 0.1, False),
    "elu_backward": lambda a: ops.elu_backward(
        a["by_channel"], 1.0, 1.0, 1.0, False, a["by_pixel"]
    ),
    "mish_backward": gradient(ops.mish_backward),
    "silu_backward": gradient(ops.silu_backward),
    "softplus_backward": gradient(ops.softplus_backward, 1.0, 20.0),
    "max_pool2d": lambda a: ops.max_pool2d_with_indices(a["by_channel"], *POOL),
    "avg_pool2d": lambda a: ops.avg_pool2d(a["by_channel"], *POOL),
    "max_pool2d_backward": lambda a: ops.max_pool2d_with_indices_backward(
        a["pooled"],
        a["by_channel"],
        *POOL,
        [0, 0],
        [1, 1],
        False,
        a["indices"],
    ),
}


def milliseconds(call, values):
    start = time.perf_counter()
    call(values)
    return (time.perf_counter() - start) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    num_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    plain = arguments()
    mesh = tm.Mesh({"data": 1})
    spread = {k: tm.distribute(v, mesh, ["R"]) for k, v in plain.items()}
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for title in ("op", "plain ms", "mesh ms", "plain / mesh", "least", "most"):
        table.add_column(title, justify="left" if title == "op" else "right")
    for name, call in CALLS.items():
        times = [
            (milliseconds(call, plain), milliseconds(call, spread))
            for _ in range(num_rounds + 2)
        ][2:]
        ratios = [p / m for p, m in times]
        table.add_row(
            name,
            *(f"{statistics.median(t):.2f}" for t in zip(*times, strict=True)),
            f"{statistics.median(ratios):.1f}",
            f"{min(ratios):.1f}",
            f"{max(ratios):.1f}",
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
