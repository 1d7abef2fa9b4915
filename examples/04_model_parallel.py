"""Trains a Keras model whose weights are split over the devices.

A LayoutMap says which mesh axis splits which dim of which variable. Batches are
split over the axis "batch" as well. `describe` shows what came of it.

Run: python examples/04_model_parallel.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from torch_mesh.keras import describe


def distribution():
    """Returns a ModelParallel on a mesh batch=2 model=2."""
    mesh = keras.distribution.DeviceMesh(
        shape=(2, 2),
        axis_names=["batch", "model"],
        devices=[f"cpu:{i}" for i in range(4)],
    )
    layouts = keras.distribution.LayoutMap(mesh)
    # The hidden units are split: columns of the first kernel, rows of the
    # second, so that only the sum at the end needs a collective.
    layouts["hidden/kernel"] = (None, "model")
    layouts["hidden/bias"] = ("model",)
    layouts["logits/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch"
    )


def train():
    """Returns a trained model and its losses."""
    keras.utils.set_random_seed(1)
    random = np.random.RandomState(0)
    x = random.randn(256, 20).astype("float32")
    y = (x @ random.randn(20, 3)).argmax(1).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ],
        name="mlp",
    )
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model, model.fit(x, y, epochs=3, verbose=0).history["loss"]


def main():
    _, plain = train()
    keras.distribution.set_distribution(distribution())
    model, mesh = train()
    print(describe(model))
    print()
    # Adam's moments stand where their variables stand.
    for row in describe(model.optimizer).rows:
        if "hidden_kernel" in row.path:
            print(row.path, row.layout, list(row.shard_shape))
    print("one device ", *(f"{loss:.5f}" for loss in plain))
    print("2 x 2      ", *(f"{loss:.5f}" for loss in mesh))
    agree = np.allclose(plain, mesh, rtol=1e-4)
    print("the losses agree to 1e-4:", agree)


if __name__ == "__main__":
    main()
