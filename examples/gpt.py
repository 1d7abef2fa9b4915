"""A small GPT learns the text of Python's standard library on a 2 x 2 mesh.

Batches are split along the mesh axis "batch", weights along "model": the
kernels which make queries, keys and values and the first kernel of each MLP by
column, the kernels which follow them by row. So the residual stream is whole
on each device of the axis, and each block adds up twice, once after attention
and once after the MLP.

Run: python examples/gpt.py
"""

import os
import pathlib
import re
import sysconfig

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers, ops

# The characters that the model knows; others are left out of the text.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
FILES = (
    "argparse ast bisect calendar codecs configparser contextlib copy csv "
    "dataclasses datetime difflib enum fractions functools heapq inspect "
    "json/decoder optparse pickle random shutil socket statistics string "
    "subprocess tempfile textwrap threading typing unittest/case "
    "urllib/parse weakref"
)

NUM_TOKENS = len(ALPHABET)
CONTEXT = 64
BATCH_SIZE = 32


def encode(text):
    """Returns the characters' numbers, int32 [len], unknown ones left out."""
    table = {character: i for i, character in enumerate(ALPHABET)}
    return np.array([table[c] for c in text if c in table], "int32")


def decode(numbers):
    """Returns the text of a sequence of characters' numbers."""
    return "".join(ALPHABET[i] for i in numbers)


def load_text():
    """Returns the source of some files of the standard library as one text."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    sources = [
        (library / f"{file}.py").read_text("utf-8") for file in FILES.split()
    ]
    return re.sub(r"\n\n+", "\n\n", "\n".join(sources))


def load_data(num_train=4800, num_test=320, context=CONTEXT):
    """Returns (x, y), (x_test, y_test) of random places in the text.

    x: int32 [n, context], characters. y: int32 [n, context], the character
    that follows each. The last tenth of the text is kept for the test.
    """
    numbers = encode(load_text())
    split = len(numbers) * 9 // 10
    draw = np.random.RandomState(0)

    def windows(part, num):
        starts = draw.randint(0, len(part) - context - 1, num)
        pieces = part[starts[:, None] + np.arange(context + 1)]
        return pieces[:, :-1], pieces[:, 1:]

    return (
        windows(numbers[:split], num_train),
        windows(numbers[split:], num_test),
    )


class Embed(layers.Layer):
    """Adds the embeddings of characters and of their positions."""

    def __init__(self, num_tokens, context, width, **kwargs):
        super().__init__(**kwargs)
        self.token = layers.Embedding(num_tokens, width, name="token")
        self.position = layers.Embedding(context, width, name="position")

    def call(self, x):
        return self.token(x) + self.position(ops.arange(x.shape[1]))


class Block(layers.Layer):
    """Adds causal attention, then an MLP, to its input [batch, time, width].

    Each looks at the normalized input. The projections have no bias: a bias
    of the keys would have no effect.
    """

    def __init__(self, width, heads, dropout, seed, **kwargs):
        super().__init__(**kwargs)

        def next_seed(i):
            return None if seed is None else seed + i

        self.attention_norm = layers.LayerNormalization(name="attention_norm")
        self.attention = layers.MultiHeadAttention(
            heads,
            width // heads,
            use_bias=False,
            dropout=dropout,
            seed=next_seed(0),
            name="attention",
        )
        self.attention_dropout = layers.Dropout(dropout, seed=next_seed(1))
        self.mlp_norm = layers.LayerNormalization(name="mlp_norm")
        self.mlp_in = layers.Dense(4 * width, activation="gelu", name="mlp_in")
        self.mlp_out = layers.Dense(width, name="mlp_out")
        self.mlp_dropout = layers.Dropout(dropout, seed=next_seed(2))

    def call(self, x):
        look = self.attention_norm(x)
        look = self.attention(look, look, use_causal_mask=True)
        x = x + self.attention_dropout(look)
        think = self.mlp_out(self.mlp_in(self.mlp_norm(x)))
        return x + self.mlp_dropout(think)


def build_model(
    num_blocks=2,
    width=96,
    heads=4,
    context=CONTEXT,
    num_tokens=NUM_TOKENS,
    dropout=0.1,
    seed=0,
    optimizer=None,
):
    """Returns a compiled GPT: int32 [batch, time] to logits of what follows.

    Args:
        num_blocks: number of transformer blocks.
        width: size of the residual stream, a multiple of `heads`.
        heads: attention heads; the mesh axis "model" splits them.
        context: characters that the model sees at once.
        num_tokens: size of the alphabet.
        dropout: share that is dropped, also of the attention weights.
        seed: seed of the dropout; None takes torch's default generator.
        optimizer: Adam(3e-3) if None.
    """
    tokens = keras.Input((context,), dtype="int32", name="tokens")
    x = Embed(num_tokens, context, width, name="embed")(tokens)
    for i in range(num_blocks):
        block_seed = None if seed is None else seed + 3 * i
        x = Block(width, heads, dropout, block_seed, name=f"block_{i}")(x)
    x = layers.LayerNormalization(name="norm")(x)
    logits = layers.Dense(num_tokens, name="logits")(x)
    model = keras.Model(tokens, logits, name="gpt")
    model.compile(
        optimizer=optimizer or keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def layout_map(mesh):
    """Returns the layouts of the weights for a mesh with an axis "model".

    Kernels of attention are [width, heads, size of a head], and [heads, size
    of a head, width] on the way out: heads are what is split.
    """
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*/(query|key|value)/kernel"] = (None, "model", None)
    layouts[".*/attention_output/kernel"] = ("model", None, None)
    layouts[".*/mlp_in/kernel"] = (None, "model")
    layouts[".*/mlp_in/bias"] = ("model",)
    layouts[".*/mlp_out/kernel"] = ("model", None)
    return layouts


def distribution(shape=(2, 2)):
    """Returns the distribution for virtual devices.

    Args:
        shape: (n, m) splits each batch over n devices and the weights of
            `layout_map` over m; (n,) splits batches only.
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


def sample(model, prompt, length=240, temperature=0.6, seed=0):
    """Returns `prompt` and `length` characters that the model wrote."""
    draw = np.random.RandomState(seed)
    context = model.input_shape[1]
    text = list(encode(prompt))
    for _ in range(length):
        window = text[-context:]
        filled = window + [0] * (context - len(window))
        logits = model.predict_on_batch(np.array([filled], "int32"))
        scores = logits[0, len(window) - 1].astype("float64") / temperature
        chances = np.exp(scores - scores.max())
        text.append(draw.choice(len(chances), p=chances / chances.sum()))
    return decode(text)


def main():
    keras.utils.set_random_seed(0)
    keras.distribution.set_distribution(distribution())
    train, test = load_data()
    model = build_model()
    model.fit(*train, batch_size=BATCH_SIZE, epochs=3, validation_data=test)
    print(sample(model, "def "))


if __name__ == "__main__":
    main()
