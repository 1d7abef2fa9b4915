"""Saves under one mesh and loads under another, and on one device.

Files hold plain tensors, without layouts: what is saved under any mesh loads
under any other, and where torch_mesh is not installed.

Run: python examples/11_saving.py
"""

import os
import pathlib
import tempfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

import torch_mesh as tm


def distribution(shape):
    """ModelParallel on virtual devices, the kernels split by column."""
    mesh = keras.distribution.DeviceMesh(
        shape, ["batch", "model"], [f"cpu:{i}" for i in range(np.prod(shape))]
    )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts)


def place_of(model):
    """Where the first kernel stands."""
    value = model.get_layer("hidden").kernel.value
    return str(tm.layout(value)) if tm.is_global(value) else "one device"


def keras_files(folder, x, y):
    keras.distribution.set_distribution(distribution((2, 2)))
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.Dense(1, name="output"),
        ]
    )
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, verbose=0)
    expected = model.predict(x, verbose=0)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    print(f"saved: {place_of(model)} on 2 x 2")

    for shape in ((1, 8), (4, 1), None):
        keras.distribution.set_distribution(
            None if shape is None else distribution(shape)
        )
        loaded = keras.saving.load_model(folder / "model.keras")
        same = np.allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
        print(f"loaded: {place_of(loaded)} on {shape}, predicts alike: {same}")
        # The optimizer came along: training goes on where it was.
        steps = int(loaded.optimizer.iterations.value)
        loaded.fit(x, y, epochs=1, verbose=0)
        print(f"  optimizer went on from step {steps}")
        loaded.load_weights(folder / "model.weights.h5")
        same = np.allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
        print(f"  weights alone, predicts alike: {same}")
    keras.distribution.set_distribution(None)


def torch_files(folder):
    value = torch.arange(12.0).reshape(3, 4)
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(value, mesh, ("S0",))
    torch.save({"x": x}, folder / "x.pt")
    loaded = torch.load(folder / "x.pt")["x"]
    print("torch.save holds a plain tensor:", torch.equal(loaded, value))
    other = tm.distribute(loaded, tm.Mesh({"model": 3}), ("S1",))
    print(
        "placed again:",
        tm.layout(other),
        [s.shape[1] for s in tm.shards(other)],
    )


def main():
    random = np.random.RandomState(0)
    x = random.randn(64, 8).astype("float32")
    y = x.sum(1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        keras_files(pathlib.Path(folder), x, y)
        torch_files(pathlib.Path(folder))


if __name__ == "__main__":
    main()
