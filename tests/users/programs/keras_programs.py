"""Programs of Keras: its guides and examples, in small."""

import functools
import logging
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch
from keras import layers, ops

import torch_mesh as tm

from ..registry import program

# Its products are of float32 whatever the floatx: no program has another form.
keras_program = functools.partial(program, keras=True, float64=False)
DENSE = {"dense.*kernel": (None, "model"), "dense.*bias": ("model",)}


def random():
    return np.random.RandomState(3)


def weights(model):
    """The variables by path."""
    return lambda: {v.path: v.value for v in model.variables}


def fitted(model, x, y, batch, predict=False):
    """A step is an epoch of `fit`, and then of `evaluate` or `predict`."""

    def step():
        history = model.fit(x, y, batch_size=batch, epochs=1, verbose=0)
        losses = history.history["loss"]
        if predict:
            found = model.predict(x, batch_size=batch, verbose=0)
            return torch.tensor(losses), torch.from_numpy(np.array(found))
        return torch.tensor([*losses, model.evaluate(x, y, verbose=0)])

    return step, weights(model)


@keras_program()
def keras_mnist(place):
    """The simple convolutional net of the examples."""
    place.distribution(
        {**DENSE, "conv2d_1.*kernel": (None, None, None, "model")}
    )
    width, rows, batch = place.size((32, 128, 64), (4, 10, 5))
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(width, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(2 * width, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    x = random().rand(rows, 28, 28, 1).astype(keras.config.floatx())
    return fitted(model, x, random().randint(0, 10, rows), batch)


def recurrent(place, layer, predict):
    place.distribution({**DENSE, "embedding.*embeddings": (None, "model")})
    words, width, rows, batch, length = place.size(
        (2000, 128, 64, 32, 32), (20, 8, 10, 5, 5)
    )
    model = keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            layers.Embedding(words, width),
            layers.Bidirectional(layer(width, return_sequences=True)),
            layer(width),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    # One column does not divide: the last kernel is cut along its rows.
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    x = random().randint(0, words, (rows, length))
    y = random().randint(0, 2, (rows, 1)).astype(keras.config.floatx())
    return fitted(model, x, y, batch, predict)


@keras_program()
def keras_lstm(place):
    """IMDB: a bidirectional LSTM; `fit` and `predict`."""
    return recurrent(place, layers.LSTM, predict=True)


@keras_program()
def keras_gru(place):
    """The same with GRU; `fit` and `evaluate`."""
    return recurrent(place, layers.GRU, predict=False)


class Positions(layers.Layer):
    """Embeddings of tokens and of their positions."""

    def __init__(self, words, length, width):
        super().__init__()
        self.tokens = layers.Embedding(words, width)
        self.positions = layers.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))


class CausalBlock(layers.Layer):
    """A block of the miniature GPT, its mask made with `ops.tile`."""

    def __init__(self, width, heads):
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.dense1 = layers.Dense(4 * width, activation="gelu", name="dense1")
        self.dense2 = layers.Dense(width, name="dense2")
        self.norm1, self.norm2 = (
            layers.LayerNormalization(epsilon=1e-5) for _ in range(2)
        )
        self.dropout = layers.Dropout(0.1)

    def call(self, x):
        batch, length, _ = ops.shape(x)
        i = ops.arange(length)[:, None]
        mask = ops.cast(i >= ops.arange(length), "bool")
        mask = ops.reshape(mask, (1, length, length))
        times = ops.concatenate(
            [ops.expand_dims(batch, -1), ops.convert_to_tensor([1, 1])], axis=0
        )
        mask = ops.tile(mask, times)
        x = self.norm1(
            x + self.dropout(self.attention(x, x, attention_mask=mask))
        )
        return self.norm2(x + self.dropout(self.dense2(self.dense1(x))))


@keras_program()
def keras_miniature_gpt(place):
    """Text generation with a miniature GPT."""
    place.distribution(
        {
            "dense1.*kernel": (None, "model"),
            "dense1.*bias": ("model",),
            "dense2.*kernel": ("model", None),
        }
    )
    words, width, rows, batch, length = place.size(
        (500, 128, 32, 16, 32), (20, 8, 10, 5, 5)
    )
    tokens = keras.Input((length,), dtype="int32")
    h = CausalBlock(width, 4)(Positions(words, length, width)(tokens))
    model = keras.Model(tokens, layers.Dense(words, name="scores")(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    x = random().randint(0, words, (rows, length))
    return fitted(model, x, np.roll(x, -1, 1), batch)


@keras_program()
def keras_custom_loop(place):
    """The guide's loop in torch: losses and metrics as NumPy arrays."""
    place.distribution(DENSE)
    width, batch = place.size((512, 256), (8, 6))
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(width, activation="relu"),
            layers.Dense(width, activation="relu"),
            layers.Dense(10, name="scores"),
        ]
    )
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.CategoricalAccuracy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = random().rand(batch, 64).astype(keras.config.floatx())
    y = keras.utils.to_categorical(random().randint(0, 10, batch), 10)
    y = y.astype(keras.config.floatx())
    inputs, targets = torch.tensor(x), torch.tensor(y)
    if place.mesh:
        mesh = tm.current_mesh()
        split = ("S0", *["R"] * (len(mesh.shape) - 1))
        inputs = tm.distribute(inputs, mesh, split)
        targets = tm.distribute(targets, mesh, split)

    def step():
        found = model(inputs)
        loss = loss_of(targets, found)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        metric.update_state(targets, found)
        found = found.detach()
        lines = f"{loss.detach().numpy():.4f} {float(metric.result()):.4f}"
        arrays = [
            np.asarray(found),
            found.numpy() + 1,
            y / (found.abs() + 1),
            np.ones(10, x.dtype)[found.argmax(1).numpy()],
            keras.utils.pad_sequences([found[:, 0], found[:2, 0]]),
        ]
        same = np.allclose(found, arrays[0]) and len(lines) == 13
        arrays = [torch.as_tensor(np.asarray(a)) for a in arrays]
        return loss.detach(), *arrays, torch.tensor(same)

    return step, weights(model)


@keras_program()
def keras_autoencoder(place):
    """A convolutional autoencoder, transposed convolutions, batch norm."""
    place.distribution({"conv2d_1.*kernel": (None, None, None, "model")})
    width, rows, batch = place.size((32, 32, 16), (4, 10, 5))
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(width, 3, 2, "same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(2 * width, 3, 2, "same", activation="relu"),
            layers.Conv2DTranspose(width, 3, 2, "same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(3, 3, 2, "same", activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    x = random().rand(rows, 32, 32, 3).astype(keras.config.floatx())
    return fitted(model, x, x, batch)


@keras_program()
def keras_xception(place):
    """Separable convolutions, residuals, augmentation, label smoothing."""
    place.distribution(DENSE)
    width, rows, batch, size = place.size((32, 32, 16, 32), (8, 16, 8, 32))
    pictures = keras.Input((size, size, 3))
    h = layers.Rescaling(2.0, -1.0)(pictures)
    h = layers.Conv2D(width, 3, 2, "same", use_bias=False)(h)
    h = layers.BatchNormalization()(h)
    h = layers.Activation("swish")(h)
    for _ in range(2):
        width *= 2
        kept = layers.Conv2D(width, 1, 2, "same")(h)
        h = layers.SeparableConv2D(width, 3, padding="same")(h)
        h = layers.BatchNormalization()(h)
        h = layers.Activation("swish")(h)
        h = layers.AveragePooling2D(3, 2, "same")(h) + kept
    h = layers.GlobalAveragePooling2D()(h)
    h = layers.Dense(64, activation="swish")(layers.Dropout(0.3)(h))
    model = keras.Model(pictures, layers.Dense(4, activation="softmax")(h))
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.compile(keras.optimizers.SGD(0.01), loss)
    x = random().rand(rows, size, size, 3).astype(keras.config.floatx())
    y = np.eye(4, dtype=x.dtype)[random().randint(0, 4, rows)]
    return fitted(model, x, y, batch)


@keras_program()
def keras_adam_mlp(place):
    """Structured data: several inputs, several outputs, AdamW, clipped."""
    place.distribution(DENSE)
    width, rows, batch = place.size((512, 512, 256), (8, 12, 6))
    numbers = keras.Input((32,), name="numbers")
    kind = keras.Input((), dtype="int32", name="kind")
    h = layers.Concatenate()([numbers, layers.Embedding(10, 16)(kind)])
    h = layers.Dense(width, activation="gelu")(layers.LayerNormalization()(h))
    h = layers.Dense(width, activation="gelu")(h)
    outputs = {
        "price": layers.Dense(2, name="price")(h),
        "class": layers.Dense(4, name="class")(h),
    }
    model = keras.Model({"numbers": numbers, "kind": kind}, outputs)
    model.compile(
        keras.optimizers.AdamW(1e-3, epsilon=1e-3, clipnorm=1.0),
        {
            "price": "mse",
            "class": keras.losses.SparseCategoricalCrossentropy(True),
        },
        loss_weights={"price": 0.5, "class": 1.0},
    )
    x = {
        "numbers": random().randn(rows, 32).astype(keras.config.floatx()),
        "kind": random().randint(0, 10, rows),
    }
    y = {
        "price": random().randn(rows, 2).astype(keras.config.floatx()),
        "class": random().randint(0, 4, rows),
    }

    def step():
        history = model.fit(x, y, batch_size=batch, verbose=0).history
        return torch.tensor(history["loss"])

    return step, weights(model)


class Lines(logging.Handler):
    """Counts what is logged."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.number = 0

    def emit(self, record):
        self.number += 1


@keras_program(modes=("tensor",))  # a layout map is needed
def keras_quiet_log(place):
    """An application that logs at INFO gets a line or two, not one a weight."""
    lines, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    try:
        place.distribution(DENSE)
        width, rows = place.size((256, 512), (8, 12))
        model = keras.Sequential(
            [keras.Input((32,))]
            + [layers.Dense(width, activation="tanh") for _ in range(6)]
        )
        model.compile(keras.optimizers.SGD(0.05), "mse")
        x = random().randn(rows, 32).astype(keras.config.floatx())
        y = random().randn(rows, width).astype(keras.config.floatx())
    finally:
        root.removeHandler(lines)
        root.setLevel(before)
    quiet = torch.tensor(lines.number <= 2)

    def step():
        history = model.fit(x, y, batch_size=rows // 2, verbose=0).history
        return torch.tensor(history["loss"]), quiet

    return step, weights(model)


def mistakes(place):
    """Mistakes in a distribution, each with what its error has to say."""
    mesh = keras.distribution.DeviceMesh(
        (2, 2), ["batch", "model"], keras.distribution.list_devices()[:4]
    )

    def invalid_pattern():
        keras.distribution.LayoutMap(mesh)["dense(.*kernel"] = (None, "model")

    def mesh_as_distribution():
        keras.distribution.set_distribution(mesh)

    def axis_that_is_none():
        keras.distribution.ModelParallel(
            layout_map=keras.distribution.LayoutMap(mesh),
            batch_dim_name="data",
        )

    def no_devices():
        keras.distribution.DataParallel(
            devices=keras.distribution.list_devices("gpu")
        )

    return [
        (invalid_pattern, "dense("),
        (mesh_as_distribution, "DataParallel"),
        (axis_that_is_none, "data"),
        (no_devices, "device"),
    ]


@keras_program(modes=("tensor",))  # the mistakes are of its set-up
def keras_mistakes(place):
    """Mistakes raise at once, with what was wrong; training goes on after."""
    place.distribution(DENSE)
    width, rows = place.size((512, 512), (8, 12))
    model = keras.Sequential(
        [
            keras.Input((32,)),
            layers.Dense(width, activation="tanh"),
            layers.Dense(width),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05), "mse")
    x = random().randn(rows, 32).astype(keras.config.floatx())
    y = random().randn(rows, width).astype(keras.config.floatx())

    def clear(mistake, word):
        try:
            mistake()
        except Exception as error:
            return word in str(error)
        return False

    def step():
        said = [True] * 4
        if place.mesh:
            said = [clear(*one) for one in mistakes(place)]
        history = model.fit(x, y, batch_size=rows // 2, verbose=0).history
        return torch.tensor(history["loss"]), torch.tensor(said)

    return step, weights(model)
