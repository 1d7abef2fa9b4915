"""A convolutional net learns handwritten digits on a mesh of virtual devices.

The data are the 1,797 digits of 8 x 8 pixels that scikit-learn ships. Each
batch is split over four devices; the model is written as for one device.

Run: python examples/digits.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

BATCH_SIZE = 64
NUM_TEST = 360


def load_data():
    """Returns (x, y), (x_test, y_test).

    x: float32 [n, 8, 8, 1] in 0 .. 1. y: int32 [n], the digit. The order is
    shuffled once, with a fixed seed.
    """
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    x = (digits.images[order, :, :, None] / 16).astype("float32")
    y = digits.target[order].astype("int32")
    return (x[NUM_TEST:], y[NUM_TEST:]), (x[:NUM_TEST], y[:NUM_TEST])


def build_model(
    filters=32,
    width=128,
    dropout=0.3,
    seed=0,
    image_shape=(8, 8, 1),
    optimizer=None,
):
    """Returns a compiled conv net for ten classes.

    Args:
        filters: channels of the first convolution; the second has twice that.
        width: units of the hidden Dense layer.
        dropout: share of the hidden units that is dropped.
        seed: seed of the dropout; None takes torch's default generator.
        image_shape: (height, width, channels).
        optimizer: Adam(1e-3) if None.
    """
    # A bias in front of a normalization has no effect, so there is none.
    model = keras.Sequential(
        [
            keras.Input(image_shape),
            layers.Conv2D(
                filters, 3, padding="same", use_bias=False, name="conv_0"
            ),
            layers.BatchNormalization(momentum=0.9, name="norm_0"),
            layers.Activation("relu", name="relu_0"),
            layers.MaxPooling2D(name="pool_0"),
            layers.Conv2D(
                2 * filters, 3, padding="same", use_bias=False, name="conv_1"
            ),
            layers.BatchNormalization(momentum=0.9, name="norm_1"),
            layers.Activation("relu", name="relu_1"),
            layers.MaxPooling2D(name="pool_1"),
            layers.Flatten(name="flatten"),
            layers.Dense(width, activation="relu", name="hidden"),
            layers.Dropout(dropout, seed=seed, name="dropout"),
            layers.Dense(10, name="digit"),
        ],
        name="digits",
    )
    model.compile(
        optimizer=optimizer or keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def layout_map(mesh):
    """Returns the layouts for a mesh with an axis "model".

    The channels of the second convolution and the units of the hidden layer
    are split; the last layer takes them by row, so its output is whole.
    """
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*conv_1/kernel"] = (None, None, None, "model")
    layouts[".*norm_1/.*"] = ("model",)
    layouts[".*hidden/kernel"] = (None, "model")
    layouts[".*hidden/bias"] = ("model",)
    layouts[".*digit/kernel"] = ("model", None)
    return layouts


def distribution(shape=(4,)):
    """Returns the distribution for virtual devices.

    Args:
        shape: (n,) splits each batch over n devices; (n, m) also splits the
            weights of `layout_map` over m.
    """
    devices = [f"cpu:{i}" for i in range(int(np.prod(shape)))]
    if len(shape) == 1:
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh(
        shape=shape, axis_names=["batch", "model"], devices=devices
    )
    return keras.distribution.ModelParallel(
        layout_map=layout_map(mesh), batch_dim_name="batch"
    )


def main():
    keras.utils.set_random_seed(0)
    devices = keras.distribution.list_devices()[:4]
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices)
    )
    train, test = load_data()
    model = build_model()
    model.fit(*train, batch_size=BATCH_SIZE, epochs=8, validation_data=test)


if __name__ == "__main__":
    main()
