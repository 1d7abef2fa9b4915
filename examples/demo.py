"""Trains both examples on a mesh and on one plain device, and compares them.

The second one then trains on the same mesh again, which two processes have
between them.

Run: make demo, or python examples/demo.py
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "torch")

import digits
import gpt
import keras
import rich.box
import rich.console
import rich.table

import torch_mesh as tm
import torch_mesh.keras

SEED = 0
GPT_MESH = (2, 2)
GPT_EPOCHS = 3
NUM_PROCESSES = 2
console = rich.console.Console(width=100 if not sys.stdout.isatty() else None)


class StepTimes(keras.callbacks.Callback):
    """Measures the steps of training, without validation."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)

    def steps_per_second(self):
        """Returns one over the median time of a step."""
        return 1 / sorted(self.seconds)[len(self.seconds) // 2]


def train(example, data, epochs):
    """Builds and trains the example's model where Keras is set to.

    Returns (model, history, steps per second).
    """
    keras.utils.set_random_seed(SEED)
    model = example.build_model(seed=SEED)
    times = StepTimes()
    (x, y), test = data
    history = model.fit(
        x,
        y,
        batch_size=example.BATCH_SIZE,
        epochs=epochs,
        validation_data=test,
        callbacks=[times],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return model, history.history, times.steps_per_second()


def table(title, *columns):
    """Returns a table; columns whose name begins with ">" align right."""
    result = rich.table.Table(
        title=title, title_justify="left", box=rich.box.SIMPLE_HEAD
    )
    for name in columns:
        right = name.startswith(">")
        result.add_column(
            name.lstrip(">"), justify="right" if right else "left"
        )
    return result


def size(num_bytes):
    """Returns the text of a number of bytes: 24 B, 1.5 KiB, 3.0 MiB."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def show_losses(plain, mesh):
    rows = table(
        "Loss and accuracy of each epoch",
        "epoch",
        ">loss, one device",
        ">loss, mesh",
        ">relative difference",
        ">accuracy, one device",
        ">accuracy, mesh",
    )
    for kind in ("", "val_"):
        for epoch, (a, b) in enumerate(
            zip(plain[kind + "loss"], mesh[kind + "loss"], strict=True)
        ):
            rows.add_row(
                f"{epoch + 1} test" if kind else f"{epoch + 1}",
                f"{a:.6f}",
                f"{b:.6f}",
                f"{abs(a - b) / abs(a):.1e}",
                f"{plain[kind + 'accuracy'][epoch]:.4f}",
                f"{mesh[kind + 'accuracy'][epoch]:.4f}",
            )
    console.print(rows)


def show_variables(model):
    rows = table(
        "Where each variable lives",
        "variable",
        "layout",
        ">shape",
        ">on a device",
        ">bytes on a device",
    )
    description = torch_mesh.keras.describe(model)
    for row in description.rows:
        rows.add_row(
            row.path,
            row.layout,
            str(list(row.shape)),
            str(list(row.shard_shape)),
            size(row.num_bytes),
        )
    whole = sum(v.value.nbytes for v in model.variables)
    rows.add_section()
    rows.add_row("all", "", "", "", size(description.num_bytes))
    rows.add_row("on one plain device", "", "", "", size(whole))
    console.print(rows)


def show_collectives(counts, num_steps):
    rows = table(
        "Collectives of the whole run",
        "collective@axis",
        ">number",
        ">per step",
        ">bytes per device",
        ">per step",
    )
    for name, number in sorted(counts.collectives.items()):
        num_bytes = counts.bytes[name]
        rows.add_row(
            name,
            f"{number:,}",
            f"{number / num_steps:.1f}",
            size(num_bytes),
            size(num_bytes / num_steps),
        )
    for axis, num_bytes in sorted(counts.bytes_per_axis().items()):
        rows.add_row(
            f"axis {axis}", "", "", size(num_bytes), size(num_bytes / num_steps)
        )
    console.print(rows)
    lost = dict(counts.replicated_ops)
    console.print(
        f"Ops computed on replicas for want of a rule: {lost or 'none'}"
    )


def show_speed(plain, mesh):
    rows = table("Steps per second", "on", ">steps/s", ">ratio")
    rows.add_row("one device", f"{plain:.1f}", "1.00")
    rows.add_row("mesh", f"{mesh:.1f}", f"{mesh / plain:.2f}")
    console.print(rows)


def compare(title, example, data, distribution, epochs):
    """Trains on one device, then on the mesh, and prints both side by side.

    Returns (the model on the mesh, history and speed on the one device).
    """
    console.rule(title)
    console.print("One plain device")
    keras.distribution.set_distribution(None)
    _, *plain = train(example, data, epochs)
    return beside(plain, example, data, distribution, epochs), plain


def beside(plain, example, data, distribution, epochs):
    """Trains on the mesh, and prints it beside one device.

    Returns the model.
    """
    (x, _), _ = data
    num_steps = epochs * -(-len(x) // example.BATCH_SIZE)
    mesh = distribution.device_mesh
    axes = " ".join(
        f"{name}={n}"
        for name, n in zip(mesh.axis_names, mesh.shape, strict=True)
    )
    console.print(f"\n{type(distribution).__name__} on the mesh {axes}")
    keras.distribution.set_distribution(distribution)
    with tm.counting() as counts:
        model, history, speed = train(example, data, epochs)

    console.print()
    show_losses(plain[0], history)
    show_variables(model)
    show_collectives(counts, num_steps)
    show_speed(plain[1], speed)
    return model


def compare_in_processes(title, plain):
    """Trains the GPT in processes that have the mesh between them."""
    console.rule(title)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    num_devices = GPT_MESH[0] * GPT_MESH[1] // NUM_PROCESSES
    environment = {
        **os.environ,
        "TORCH_MESH_CPU_DEVICES": str(num_devices),
        # Processes that wait do not take the cores of those that work.
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plain, file)
        file.flush()
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(i), address, file.name],
                env=environment,
            )
            for i in range(NUM_PROCESSES)
        ]
        codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"the processes ended with {codes}")


def work(process, address, path):
    """What each of them runs: the program of one process, but for a line."""
    keras.distribution.initialize(address, NUM_PROCESSES, process)
    if process != 0:
        console.quiet = True
    with open(path) as file:
        plain = json.load(file)
    distribution = gpt.distribution(GPT_MESH)
    # The first epoch is that of the longer run.
    plain[0] = {name: values[:1] for name, values in plain[0].items()}
    beside(plain, gpt, gpt.load_data(), distribution, epochs=1)


def main():
    start = time.perf_counter()
    compare(
        "Handwritten digits: a convolutional net, DataParallel on 4 devices",
        digits,
        digits.load_data(),
        digits.distribution((4,)),
        epochs=6,
    )
    model, plain = compare(
        "The standard library's text: a GPT, ModelParallel on 2 x 2 devices",
        gpt,
        gpt.load_data(),
        gpt.distribution(GPT_MESH),
        epochs=GPT_EPOCHS,
    )
    console.rule("Text that the GPT writes, on the mesh")
    for seed, prompt in enumerate(("def ", "class ")):
        text = gpt.sample(model, prompt, seed=seed)
        console.print(text, markup=False, highlight=False)
        console.rule(characters=".")
    keras.distribution.set_distribution(None)
    compare_in_processes(
        "The GPT again: 2 processes with 2 of the devices each", plain
    )
    console.print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(int(sys.argv[1]), *sys.argv[2:])
    else:
        main()
