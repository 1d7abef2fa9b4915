"""Small programs in the manner of Keras's guides and examples.

Each builds a model, trains it for some steps, and looks at what came out of it
as a notebook does: with NumPy, with scikit-learn, in a loop of its own. It
returns numbers. Data are drawn here; none of a program knows of a mesh.
"""

import keras
import numpy as np
import torch
from keras import layers, ops
from sklearn import metrics


def numbers(*shape, seed=0):
    """Normal numbers of a shape, float32."""
    return np.random.RandomState(seed).randn(*shape).astype("float32")


def labels(n, num_classes, seed=1):
    """Integer classes [n]."""
    return np.random.RandomState(seed).randint(0, num_classes, n)


def mlp(num_inputs=6, num_outputs=3):
    return keras.Sequential(
        [
            keras.Input((num_inputs,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(num_outputs),
        ]
    )


def custom_torch_loop():
    """The guide's loop: torch's DataLoader and optimizer, losses printed."""
    model = mlp()
    data = torch.utils.data.TensorDataset(
        torch.from_numpy(numbers(20, 6)), torch.from_numpy(labels(20, 3))
    )
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    printed = []
    for _ in range(2):
        for inputs, targets in loader:
            logits = model(inputs)
            loss = loss_fn(targets, logits)
            model.zero_grad()
            loss.backward()
            optimizer.step()
            accuracy.update_state(targets, logits)
            printed.append(f"{loss.detach().numpy():.4f}")
        printed.append(f"{float(accuracy.result()):.4f}")
        accuracy.reset_state()
    return [float(text) for text in printed]


def custom_keras_loop():
    """`optimizer.apply` on gradients that torch gave; penalties of layers."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activity_regularizer="l2", kernel_regularizer="l2"),
            layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    x, y = numbers(12, 6), numbers(12, 1, seed=2)
    losses = []
    for _ in range(3):
        loss = keras.losses.MeanSquaredError()(y, model(x, training=True))
        loss = loss + sum(model.losses)
        model.zero_grad()
        loss.backward()
        weights = model.trainable_weights
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in weights], weights)
        losses.append(loss.item())
    return losses, model.get_weights()


def custom_train_step():
    """A `train_step` of one's own with metrics and sample weights."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = mlp(6, 1)
            self.mean = keras.metrics.Mean(name="loss")

        def call(self, x):
            return self.inner(x)

        @property
        def metrics(self):
            return [self.mean]

        def train_step(self, data):
            x, y = data
            self.zero_grad()
            loss = ops.mean(ops.square(y - self(x, training=True)))
            loss.backward()
            with torch.no_grad():
                self.optimizer.apply(
                    [v.value.grad for v in self.trainable_weights],
                    self.trainable_weights,
                )
            self.mean.update_state(loss)
            return {"loss": self.mean.result(), "norm": loss.detach().numpy()}

    model = Net()
    model.compile("adam")
    return model.fit(
        numbers(10, 6), numbers(10, 1), batch_size=4, epochs=2, verbose=0
    ).history


def causal_mask(batch_size, length):
    """As keras-io's miniature GPT: `tile` by a computed tensor."""
    i = ops.arange(length)[:, None]
    j = ops.arange(length)
    mask = ops.cast(i >= j - length + length, "int32")
    mask = ops.reshape(mask, [1, length, length])
    times = ops.concatenate(
        [ops.expand_dims(batch_size, -1), ops.convert_to_tensor([1, 1])], 0
    )
    return ops.tile(mask, times)


class TransformerBlock(layers.Layer):
    def __init__(self, width, heads):
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed = keras.Sequential(
            [layers.Dense(2 * width, activation="relu"), layers.Dense(width)]
        )
        self.norm_1 = layers.LayerNormalization(epsilon=1e-6)
        self.norm_2 = layers.LayerNormalization(epsilon=1e-6)

    def call(self, x):
        mask = causal_mask(ops.shape(x)[0], ops.shape(x)[1])
        x = self.norm_1(x + self.attention(x, x, attention_mask=mask))
        return self.norm_2(x + self.feed(x))


class Positions(layers.Layer):
    def __init__(self, length, vocabulary, width):
        super().__init__()
        self.tokens = layers.Embedding(vocabulary, width)
        self.positions = layers.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))


def miniature_gpt():
    """A causal transformer, and text made token by token with NumPy."""
    length, vocabulary = 8, 11
    model = keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            Positions(length, vocabulary, 8),
            TransformerBlock(8, 2),
            layers.Dense(vocabulary),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    text = labels(10 * (length + 1), vocabulary).reshape(10, -1)
    losses = model.fit(
        text[:, :-1], text[:, 1:], batch_size=4, epochs=2, verbose=0
    ).history["loss"]
    made, random = [3, 1], np.random.RandomState(5)
    while len(made) < 6:
        padded = np.array([made + [0] * (length - len(made))])
        y = model(padded).detach()
        logits, indices = ops.top_k(y[0][len(made) - 1], k=4, sorted=True)
        indices = np.asarray(indices).astype("int32")
        preds = keras.activations.softmax(ops.expand_dims(logits, 0))[0]
        preds = np.asarray(preds).astype("float64")
        made.append(int(random.choice(indices, p=preds / preds.sum())))
    scores = model.predict(text[:, :-1], verbose=0)
    return losses, made, np.argmax(scores, -1)


def scores_of_scikit_learn():
    """ROC, F1 and a confusion matrix from what a model gives."""
    model = mlp(6, 3)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    x, y = numbers(30, 6), labels(30, 3)
    model.fit(x, y, epochs=2, verbose=0)
    probabilities = ops.softmax(model(x)).detach()
    guesses = ops.argmax(probabilities, -1)
    return [
        metrics.roc_auc_score(y == 1, probabilities[:, 1]),
        metrics.f1_score(y, guesses, average="macro"),
        metrics.confusion_matrix(y, guesses),
        metrics.log_loss(
            y, np.asarray(probabilities, "float64"), labels=range(3)
        ),
        metrics.accuracy_score(y, guesses),
    ]


def numpy_after_training():
    """What notebooks do with results: indices, stacks, statistics."""
    model = mlp(6, 3)
    x = numbers(9, 6)
    y = model(x).detach()
    names = np.array(["a", "b", "c"])
    chosen = names[y.argmax(1)]
    return [
        [ord(name) for name in chosen],
        np.stack(list(y)).mean(0),
        np.concatenate([y, x], 1).sum(),
        np.allclose(y, model.predict(x, verbose=0), atol=1e-6),
        np.abs(y.numpy() - y.cpu().numpy()).max(),
        np.percentile(y, 30),
        np.histogram(y, bins=3, range=(-2, 2))[0],
        y[0].tolist(),
        float(y[0, 0]),
        [f"{v:.3f}" == f"{float(v):.3f}" for v in y[0]],
        x[:, 0] / (1 + ops.square(y[:, 0])),
        np.sort(model.layers[0].kernel.numpy(), axis=None)[:5],
    ]


def padded_sequences():
    """Ragged rows of tensors made into a batch, embedded and pooled."""
    rows = [ops.convert_to_tensor(r) for r in ([1, 2], [3], [4, 5, 6])]
    batch = keras.utils.pad_sequences(rows, maxlen=4, padding="post")
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(8, 4, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    model.fit(batch, np.ones((3, 1)), verbose=0, epochs=2)
    categories = keras.utils.to_categorical(ops.convert_to_tensor([0, 2, 1]), 3)
    normal = keras.utils.normalize(np.asarray(model(batch).detach()), axis=0)
    return batch, categories, normal, model.get_weights()


def autoencoder():
    """Convolutions down and up; images compared by NumPy afterwards."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Conv2DTranspose(
                4, 3, strides=2, activation="relu", padding="same"
            ),
            layers.Conv2D(1, 3, activation="sigmoid", padding="same"),
        ]
    )
    model.compile("adam", "binary_crossentropy")
    x = (numbers(6, 8, 8, 1) > 0).astype("float32")
    losses = model.fit(x, x, batch_size=4, epochs=2, verbose=0).history["loss"]
    images = model(x).detach()
    return losses, np.mean((images.numpy() - x) ** 2, axis=(1, 2, 3))


def variational_autoencoder():
    """A sampling layer with a seed, and two losses in one step."""

    class Sampling(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(7)

        def call(self, inputs):
            mean, log_var = inputs
            noise = keras.random.normal(ops.shape(mean), seed=self.seed)
            return mean + ops.exp(0.5 * log_var) * noise

    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="relu")(inputs)
    mean, log_var = layers.Dense(2)(hidden), layers.Dense(2)(hidden)
    model = keras.Model(
        inputs, layers.Dense(6)(Sampling()([mean, log_var])), name="vae"
    )
    model.compile("adam", "mse")
    x = numbers(10, 6)
    history = model.fit(x, x, batch_size=4, epochs=2, verbose=0).history
    return history["loss"], model(x[:3]).detach().numpy()


def siamese():
    """Two inputs through one tower, and a contrastive loss."""
    tower = mlp(6, 4)
    left, right = keras.Input((6,)), keras.Input((6,))
    distance = layers.Lambda(
        lambda v: ops.sqrt(
            ops.maximum(
                ops.sum(ops.square(v[0] - v[1]), axis=1, keepdims=True),
                keras.config.epsilon(),
            )
        ),
        output_shape=(1,),
    )([tower(left), tower(right)])
    model = keras.Model([left, right], distance)

    def contrastive(y_true, y_pred):
        near, far = ops.square(y_pred), ops.square(ops.maximum(1 - y_pred, 0))
        return ops.mean((1 - y_true) * near + y_true * far)

    model.compile("rmsprop", contrastive, metrics=["accuracy"])
    pairs = [numbers(10, 6), numbers(10, 6, seed=3)]
    y = labels(10, 2).astype("float32")[:, None]
    history = model.fit(pairs, y, batch_size=4, epochs=2, verbose=0).history
    return (
        history,
        model.predict(pairs, verbose=0),
        model.evaluate(pairs, y, verbose=0),
    )


def layer_with_tile():
    """Patches repeated by a tensor of counts, as vision examples do."""

    class WithToken(layers.Layer):
        def build(self, shape):
            self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

        def call(self, x):
            counts = ops.stack([ops.shape(x)[0], 1, 1])
            token = ops.tile(self.token, ops.convert_to_tensor(counts))
            return ops.concatenate([token, x], axis=1)

    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            WithToken(),
            layers.Dense(4),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    return model.fit(
        numbers(7, 3, 4), numbers(7, 1), batch_size=3, epochs=2, verbose=0
    ).history["loss"], model.get_weights()


def recurrent():
    """An LSTM over a window, its states asked for, forecasts by NumPy."""
    inputs = keras.Input((5, 2))
    sequence, last, _ = layers.LSTM(
        6, return_sequences=True, return_state=True
    )(inputs)
    outputs = layers.Dense(1)(layers.Concatenate()([last, sequence[:, 0]]))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mae")
    x, y = numbers(9, 5, 2), numbers(9, 1)
    losses = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history["loss"]
    window, forecast = x[:1], []
    for _ in range(3):
        value = model(window).detach()
        forecast.append(float(value))
        new = np.array([[[value[0, 0], 0.0]]], "float32")
        window = np.concatenate([window[:, 1:], new], 1)
    return losses, forecast


def callbacks():
    """Stops, keeps the best, changes the rate, and looks at predictions."""

    class Look(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            guess = self.model(numbers(2, 6)).detach()
            self.seen.append([*guess.numpy().ravel(), logs["loss"]])

    model, look = mlp(6, 1), Look()
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    history = model.fit(
        numbers(12, 6),
        numbers(12, 1),
        validation_split=0.25,
        epochs=4,
        verbose=0,
        callbacks=[
            look,
            keras.callbacks.EarlyStopping("val_loss", 1e9, patience=2),
            keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=0),
            keras.callbacks.LearningRateScheduler(lambda e, rate: rate * 0.9),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: None),
        ],
    ).history
    return history, look.seen


def image_gradients():
    """Gradients of an input, as saliency maps and adversarial steps use."""
    model = mlp()
    x = ops.convert_to_tensor(numbers(4, 6)).requires_grad_()
    score = ops.max(model(x), axis=1)
    ops.sum(score).backward()
    step = x.detach() + 0.1 * ops.sign(x.grad)
    salience = np.abs(x.grad.numpy()).max(axis=1)
    return salience, step.numpy(), score.detach().numpy()


PROGRAMS = [
    custom_torch_loop,
    custom_keras_loop,
    custom_train_step,
    miniature_gpt,
    scores_of_scikit_learn,
    numpy_after_training,
    padded_sequences,
    autoencoder,
    variational_autoencoder,
    siamese,
    layer_with_tile,
    recurrent,
    callbacks,
    image_gradients,
]
