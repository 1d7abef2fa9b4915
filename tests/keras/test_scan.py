"""`keras.ops.associative_scan` on the mesh."""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras.distribution import DataParallel

import torch_mesh as tm


class Ema(keras.layers.Layer):
    """A running average along the second dim, by an associative scan."""

    def build(self, shape):
        self.decay = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        a = keras.ops.sigmoid(self.decay) + keras.ops.zeros_like(x)
        _, h = keras.ops.associative_scan(
            lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]),
            (a, x * (1 - a)),
            axis=1,
        )
        return h


@one_device.distributions
def test_a_layer_that_scans_trains_as_on_one_device(name):
    def train():
        x = np.random.default_rng(0).normal(size=(10, 7, 4)).astype("float32")
        model = keras.Sequential([Ema(), keras.layers.Dense(3), Ema()])
        model.compile("adam", "mse")
        history = model.fit(x, x[..., :3], batch_size=4, epochs=2, verbose=0)
        return [history.history["loss"], model.get_weights()]

    one_device.same_everywhere(name, train)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_stays_on_the_mesh(devices, reverse):
    x = np.arange(15.0, dtype="float32").reshape(5, 3)

    def scan():
        return keras.ops.associative_scan(
            lambda p, q: p + q, keras.ops.convert_to_tensor(x), reverse, axis=0
        )

    expected = scan()
    keras.distribution.set_distribution(DataParallel(devices=devices))
    actual = scan()
    assert actual.device.type == "mesh"
    assert torch.equal(tm.full(actual), expected)
