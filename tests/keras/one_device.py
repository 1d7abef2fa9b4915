"""Comparing what Keras does on a mesh with what it does on one device."""

import keras
import numpy as np
import pytest
from keras.distribution import (
    DataParallel,
    DeviceMesh,
    LayoutMap,
    ModelParallel,
)

DEVICES = [f"cpu:{i}" for i in range(8)]


def dense_map(mesh):
    layout_map = LayoutMap(mesh)
    layout_map["dense.*kernel"] = (None, "model")
    layout_map["dense.*bias"] = ("model",)
    return layout_map


def make_distribution(name):
    """The distributions that results are compared under.

    "data=3" does not divide the batches of these tests, "batch=2 model=2"
    splits weights too.
    """
    if name.startswith("data="):
        return DataParallel(devices=DEVICES[: int(name[5:])])
    sizes = [int(part.split("=")[1]) for part in name.split()]
    mesh = DeviceMesh(sizes, ["batch", "model"], DEVICES[: sizes[0] * sizes[1]])
    return ModelParallel(layout_map=dense_map(mesh), batch_dim_name="batch")


distributions = pytest.mark.parametrize(
    "name", ["data=1", "data=3", "data=4", "batch=2 model=2", "batch=2 model=4"]
)


def under(distribution, function):
    """Runs `function` from the same seeds under a distribution, or None."""
    keras.utils.clear_session(free_memory=False)
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(7)
    try:
        return function()
    finally:
        keras.distribution.set_distribution(None)


def assert_same(actual, expected, rtol=1e-5, atol=1e-7):
    """Compares nested numbers; sums over devices are taken in other orders."""
    flat_actual = keras.tree.flatten(actual)
    flat_expected = keras.tree.flatten(expected)
    assert len(flat_actual) == len(flat_expected)
    for a, b in zip(flat_actual, flat_expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(a), np.asarray(b), rtol=rtol, atol=atol
        )


def same_everywhere(name, function, **tolerance):
    """`function` gives under a distribution what it gives on one device."""
    expected = under(None, function)
    actual = under(make_distribution(name), function)
    assert_same(actual, expected, **tolerance)
    return actual


class Losses(keras.callbacks.Callback):
    """Keeps the running loss after every batch."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(logs["loss"]))


def digits(n=70, num_features=12, num_classes=4, seed=0):
    """Random features, and classes that depend on them."""
    random = np.random.RandomState(seed)
    x = random.randn(n, num_features).astype("float32")
    y = (x @ random.randn(num_features, num_classes)).argmax(1)
    return x, y.astype("int32")


def mlp(num_classes=4):
    """Dense, batch norm and dropout, compiled with metrics."""
    model = keras.Sequential(
        [
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(num_classes),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
