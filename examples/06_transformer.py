"""A transformer block with tensor parallelism, in Keras.

Attention is split by heads and the MLP by hidden units, over the mesh axis
"model". Between them the residual stream is whole on each device, so a block
adds up twice: once after attention, once after the MLP.

Run: python examples/06_transformer.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers

import torch_mesh as tm

NUM_TOKENS, TIME, WIDTH, HEADS, BLOCKS = 16, 12, 32, 4, 2


def block(x, name):
    """Adds causal attention, then an MLP, to x [batch, time, width]."""
    look = layers.LayerNormalization(name=f"{name}_norm_0")(x)
    look = layers.MultiHeadAttention(
        HEADS, WIDTH // HEADS, use_bias=False, name=f"{name}_attention"
    )(look, look, use_causal_mask=True)
    x = layers.Add()([x, look])
    think = layers.LayerNormalization(name=f"{name}_norm_1")(x)
    think = layers.Dense(4 * WIDTH, "gelu", name=f"{name}_mlp_in")(think)
    think = layers.Dense(WIDTH, name=f"{name}_mlp_out")(think)
    return layers.Add()([x, think])


def build_model():
    tokens = keras.Input((TIME,), dtype="int32")
    x = layers.Embedding(NUM_TOKENS, WIDTH, name="embed")(tokens)
    for i in range(BLOCKS):
        x = block(x, f"block_{i}")
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(tokens, layers.Dense(NUM_TOKENS, name="logits")(x))
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def distribution():
    """Heads and hidden units over "model", batches over "batch"."""
    mesh = keras.distribution.DeviceMesh(
        (2, 2), ["batch", "model"], [f"cpu:{i}" for i in range(4)]
    )
    layouts = keras.distribution.LayoutMap(mesh)
    # [width, heads, size of a head], and back
    layouts[".*attention/(query|key|value)/kernel"] = (None, "model", None)
    layouts[".*attention_output/kernel"] = ("model", None, None)
    layouts[".*mlp_in/kernel"] = (None, "model")
    layouts[".*mlp_in/bias"] = ("model",)
    layouts[".*mlp_out/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch"
    )


def train():
    """Returns the losses of two epochs, and the trained model."""
    keras.utils.set_random_seed(0)
    random = np.random.RandomState(0)
    # Each token is the sum of the two before it.
    text = random.randint(0, NUM_TOKENS, (128, TIME + 1)).astype("int32")
    for t in range(2, TIME + 1):
        text[:, t] = (text[:, t - 1] + text[:, t - 2]) % NUM_TOKENS
    model = build_model()
    history = model.fit(text[:, :-1], text[:, 1:], epochs=2, verbose=0)
    return history.history["loss"], model


def main():
    plain, _ = train()
    keras.distribution.set_distribution(distribution())
    mesh, model = train()
    print("one device ", *(f"{loss:.5f}" for loss in plain))
    print("2 x 2      ", *(f"{loss:.5f}" for loss in mesh))
    print("the losses agree to 1e-3:", np.allclose(plain, mesh, rtol=1e-3))

    # A forward pass: two sums for each block. The gather hands over the output.
    with tm.counting() as counts:
        model.predict_on_batch(np.zeros((8, TIME), "int32"))
    print("forward:", counts.collectives)
    print("ops without a rule:", dict(counts.replicated_ops) or "none")


if __name__ == "__main__":
    main()
