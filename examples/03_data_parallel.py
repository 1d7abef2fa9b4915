"""Trains a Keras model with its batches split over four devices.

The model is written as for one device. Training on the mesh gives the losses of
one device, up to the rounding of sums that are formed in another order.

Run: python examples/03_data_parallel.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import torch_mesh as tm

NUM_STEPS = 8  # 250 samples in batches of 32; the last batch has 26


def data():
    """Returns x [250, 20], float32, and y [250], int32, three classes."""
    random = np.random.RandomState(0)
    x = random.randn(250, 20).astype("float32")
    return x, (x @ random.randn(20, 3)).argmax(1).astype("int32")


def train():
    """Returns the losses of three epochs."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Dense(64, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model.fit(*data(), epochs=3, verbose=0).history["loss"]


def main():
    plain = train()

    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=[f"cpu:{i}" for i in range(4)])
    )
    with tm.counting() as counts:
        mesh = train()

    print("epoch  one device  four devices")
    for epoch, (a, b) in enumerate(zip(plain, mesh, strict=True), 1):
        print(f"{epoch:5}  {a:10.6f}  {b:12.6f}")
    difference = max(abs(a - b) / a for a, b in zip(plain, mesh, strict=True))
    print("the losses agree to 1e-4:", difference < 1e-4)
    for name, number in counts.collectives.items():
        print(f"{name}: {number / (3 * NUM_STEPS):.1f} per step")
    print("ops without a rule:", dict(counts.replicated_ops) or "none")


if __name__ == "__main__":
    main()
