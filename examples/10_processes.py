"""Two processes train one model, each on its part of the data.

One process drives all devices of its machine, so most programs need no second
one. This is for several machines; here both processes are on one.

Run: python examples/10_processes.py, which starts the two.
"""

import os
import socket
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

NUM_PROCESSES = 2


def work(addresses, process_id):
    """What each process runs."""
    import keras
    import numpy as np
    import torch

    from torch_mesh.keras import distribution_lib

    distribution_lib.initialize(
        job_addresses=addresses,
        num_processes=NUM_PROCESSES,
        process_id=process_id,
    )

    def say(*words):
        print(f"process {process_id}:", *words, flush=True)

    mine = torch.tensor([1.0, 2.0]) * (process_id + 1)
    say("has", mine.tolist())
    say("all_reduce", distribution_lib.all_reduce(mine, op="sum").tolist())
    say("broadcast", distribution_lib.broadcast(mine, src=1).tolist())
    say("gather", distribution_lib.gather_tensor(mine, dim=0).tolist())
    part = distribution_lib.scatter_tensor(torch.arange(5.0), dim=0)
    say("scatter", part.tolist())

    # The same data in both processes; each takes its half of every batch.
    random = np.random.RandomState(0)
    x = random.randn(64, 8).astype("float32")
    y = x.sum(1, keepdims=True)
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    alone = keras.models.clone_model(model)
    alone.set_weights(model.get_weights())
    alone.compile(keras.optimizers.SGD(0.05), "mse")
    distribution_lib.replicate_model(model)
    half = slice(process_id, None, NUM_PROCESSES)
    settings = {"epochs": 3, "shuffle": False, "verbose": 0}
    model.fit(x[half], y[half], batch_size=8, **settings)
    # One process with whole batches has the same weights.
    alone.fit(x, y, batch_size=16, **settings)
    same = all(
        np.allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(model.get_weights(), alone.get_weights(), strict=True)
    )
    say("the weights are those of one process:", same)


def free_addresses():
    """Addresses with ports that nobody uses, separated by commas."""
    sockets = [socket.socket() for _ in range(NUM_PROCESSES)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ",".join(f"127.0.0.1:{port}" for port in ports)


def main():
    addresses = free_addresses()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, addresses, str(i)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(NUM_PROCESSES)
    ]
    for process in processes:
        print(process.communicate()[0], end="")
    if any(process.returncode for process in processes):
        sys.exit("a process failed")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(sys.argv[1], int(sys.argv[2]))
    else:
        main()
