"""Memory of a large model that is created, saved and loaded on a mesh.

    python benchmarks/large_model.py                100 million parameters
    python benchmarks/large_model.py --millions 10  a smaller one
    python benchmarks/large_model.py --separate     as if each device had a
                                                    memory of its own
    python benchmarks/large_model.py --out FILE     also writes the figures

ModelParallel over batch=2 model=4, eight virtual devices. For each phase it
prints

    held     the most bytes of shards that any one device held, of what it
             holds at the end
    process  the most memory that the process had (VmHWM), less what it had
             before the model

and fails if a device ever held more than its shards and one block of 16 MiB,
or the process more than all shards and 64 MiB. Files of torch.save are loaded
with `mmap=True`, as are those of safetensors by themselves.
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import safetensors.torch
import torch
from keras.distribution import (
    DeviceMesh,
    LayoutMap,
    ModelParallel,
    set_distribution,
)

import torch_mesh as tm

MIB = 2**20
BLOCK_BYTES = 16 * MIB
PROCESS_BYTES = 64 * MIB
WIDTH, HIDDEN = 1024, 4096
SEED = 7


def distribution():
    """Returns batch=2 model=4 over eight virtual devices."""
    devices = [f"cpu:{i}" for i in range(8)]
    mesh = DeviceMesh((2, 4), ["batch", "model"], devices)
    layout_map = LayoutMap(mesh)
    layout_map["embedding/embeddings"] = ("model", None)
    layout_map["up_.*/kernel"] = (None, "model")
    layout_map["up_.*/bias"] = ("model",)
    layout_map["down_.*/kernel"] = ("model", None)
    return ModelParallel(layout_map=layout_map, batch_dim_name="batch")


def build(millions):
    """Returns an embedding of a third of the parameters, and dense blocks.

    Args:
        millions: Number of parameters, about, in millions.
    """
    vocabulary = millions * 1_000_000 // 3 // WIDTH
    num_blocks = millions * 2_000_000 // 3 // (2 * WIDTH * HIDDEN)
    inputs = keras.Input((8,), dtype="int32")
    h = keras.layers.Embedding(vocabulary, WIDTH, name="embedding")(inputs)
    initializers = ("glorot_uniform", "he_normal", "random_normal")
    for i in range(max(1, num_blocks)):
        h = keras.layers.Dense(
            HIDDEN,
            activation="relu",
            kernel_initializer=initializers[i % 3],
            name=f"up_{i}",
        )(h)
        h = keras.layers.Dense(WIDTH, name=f"down_{i}")(h)
    return keras.Model(inputs, h)


def status(key):
    """Returns a line of /proc/self/status in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


class Measured:
    """Peaks of memory while a `with` block runs.

    Args:
        name: Of the phase.
        before: Bytes of the process that are not the model's.
        model: Function that returns the model at the end.
    """

    def __init__(self, name, before, model):
        self.name, self.before, self.model = name, before, model

    def __enter__(self):
        gc.collect()
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error):
        self.seconds = time.perf_counter() - self.start
        self.process = status("VmHWM") - self.before

    def record(self, memory):
        """Returns the numbers of the phase; the counters since the start."""
        shards = shard_bytes(self.model())
        held = {
            device: peak - shards[device]
            for device, peak in memory.peak.items()
        }
        return {
            "phase": self.name,
            "seconds": round(self.seconds, 2),
            "shards": max(shards.values()),
            "held_beside_shards": max(held.values()),
            "weights": lane_bytes(self.model()),
            "process": self.process,
        }


def shard_bytes(model):
    """Returns {device: bytes of its shards of all variables}."""
    sums = {}
    for variable in model.variables:
        devices = tm.layout(variable.value).mesh.devices
        for device, shard in zip(
            devices, shard_sizes(variable.value), strict=True
        ):
            sums[device] = sums.get(device, 0) + shard
    return sums


def shard_sizes(value):
    """Returns the bytes of a tensor's shards, by device."""
    layout = tm.layout(value)
    return [
        torch.Size(
            tm._C.shard_sizes(layout._native, list(value.shape), i)
        ).numel()
        * value.element_size()
        for i in range(len(layout.mesh.devices))
    ]


def lane_bytes(model):
    """Returns the bytes of memory that all shards of a model take."""
    if SEPARATE:
        return sum(shard_bytes(model).values())
    return sum(v.value.nbytes for v in model.variables)


def values_of(model):
    """Returns a few numbers of each variable, to be compared."""
    from torch_mesh import blocks

    return [
        blocks.read_block(v.value.detach(), v.value.numel() - 16, 16).tolist()
        for v in model.variables
    ]


def run(millions, folder):
    """Measures all phases; returns a list of records."""
    set_distribution(distribution())
    keras.utils.set_random_seed(SEED)
    build(1).save(folder / "warm.keras")  # loads h5py, zipfile and plans
    keras.saving.load_model(folder / "warm.keras")
    keras.utils.clear_session()
    set_distribution(distribution())
    keras.utils.set_random_seed(SEED)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    records = []
    model = None
    path = folder / "model.weights.h5"
    archive = folder / "model.keras"

    def present():
        return model

    def phase(name, action):
        nonlocal model
        with tm.memory() as memory:
            with Measured(name, before, present) as measured:
                model = action()
            counted = memory
            if name not in ("create", "load .keras"):
                # What the model held before counts too: it is in the peak of
                # the process, and not made while these counters ran.
                counted = Beside(memory, shard_bytes(model))
            records.append(measured.record(counted))

    phase("create", lambda: build(millions))
    created = values_of(model)
    phase("save .weights.h5", lambda: model.save_weights(path) or model)
    phase("load .weights.h5", lambda: model.load_weights(path) or model)
    assert values_of(model) == created
    phase("save .keras", lambda: model.save(archive) or model)
    model = None
    keras.utils.clear_session()
    set_distribution(distribution())
    phase("load .keras", lambda: keras.saving.load_model(archive))
    assert values_of(model) == created
    path.unlink()
    archive.unlink()

    def load(read):
        model.load_state_dict(read(file))
        return model

    file = folder / "model.pt"
    phase("torch.save", lambda: torch.save(model.state_dict(), file) or model)
    forget(model)
    phase("torch.load", lambda: load(lambda f: torch.load(f, mmap=True)))
    assert values_of(model) == created
    file.unlink()
    save_file, load_file = (
        safetensors.torch.save_file,
        safetensors.torch.load_file,
    )
    file = folder / "model.safetensors"
    phase(
        "save safetensors", lambda: save_file(model.state_dict(), file) or model
    )
    forget(model)
    phase("load safetensors", lambda: load(load_file))
    assert values_of(model) == created
    return records


def forget(model):
    """Sets all weights to zero."""
    with torch.no_grad():
        for variable in model.variables:
            variable.value.zero_()


class Beside:
    """Counters of a phase, on top of shards that were there before it."""

    def __init__(self, memory, shards):
        self.peak = {
            device: memory.peak.get(device, 0) + num_bytes
            for device, num_bytes in shards.items()
        }


def failures(records):
    """Returns texts of what exceeds its limit."""
    found = []
    for record in records:
        name = record["phase"]
        if record["held_beside_shards"] > BLOCK_BYTES:
            found.append(f"{name}: a device held {record['held_beside_shards']}"
                         " B beside its shards")  # fmt: skip
        if record["process"] > record["weights"] + PROCESS_BYTES:
            over = record["process"] - record["weights"]
            found.append(f"{name}: the process had {over} B beside the weights")
    return found


def write(path, records):
    """Keeps the figures of this kind of memory; the other kind's stay."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored["versions"] = {
        "keras": keras.__version__,
        "python": sys.version.partition(" ")[0],
        "torch": torch.__version__,
        "torch_mesh": tm.__version__,
    }
    stored["separate memories" if SEPARATE else "one memory"] = records
    path.write_text(json.dumps(stored, indent=2) + "\n")


def main():
    global SEPARATE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=100)
    parser.add_argument("--separate", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    SEPARATE = arguments.separate
    tm._C.separate_cpu_memories(SEPARATE)
    with tempfile.TemporaryDirectory() as folder:
        records = run(arguments.millions, pathlib.Path(folder))
    if arguments.json:
        print(json.dumps(records))
    else:
        head = ("phase", "s", "shards", "+held", "weights", "+process")
        print("{:18}{:>7}{:>10}{:>10}{:>10}{:>10}".format(*head), "[MiB]")
        for r in records:
            print(
                f"{r['phase']:18}{r['seconds']:7.2f}"
                f"{r['shards'] / MIB:10.1f}"
                f"{r['held_beside_shards'] / MIB:10.1f}"
                f"{r['weights'] / MIB:10.1f}"
                f"{(r['process'] - r['weights']) / MIB:10.1f}"
            )
    if arguments.out:
        write(arguments.out, records)
    found = failures(records)
    for text in found:
        print(text, file=sys.stderr)
    return 1 if found else 0


SEPARATE = False

if __name__ == "__main__":
    sys.exit(main())
