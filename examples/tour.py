# %% [markdown]
# # A tour of torch-mesh
#
# One PyTorch device, `mesh`, stands for several devices. A tensor on it is a
# *global tensor*: it has the sizes and the value of the whole, and each device
# holds a *shard*. This notebook is made from `examples/tour.py`; it runs on
# virtual CPU devices.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

import torch_mesh as tm

mesh = tm.Mesh({"data": 2, "model": 2})
print(mesh, *mesh.devices)

# %% [markdown]
# ## Layouts
#
# A layout has a placement for each axis of the mesh: `S0` shards dim 0, `R`
# replicates. Here the rows are split over `data`, and the devices along
# `model` hold copies. Five rows do not divide by two; that is fine.

# %%
x = tm.distribute(torch.randn(5, 8), mesh, ("S0", "R"))
tm.visualize(x)

# %% [markdown]
# Weights may be split by column, over the other axis. The product then needs
# no word between the devices: each computes its block.

# %%
w = tm.distribute(torch.randn(8, 6), mesh, ("R", "S1"))
tm.visualize(x @ w)

# %% [markdown]
# If the dim that is summed over is split, each device has a part of every sum.
# The layout says so, `P+`, and the sum is formed when an op needs its value.

# %%
a = tm.distribute(torch.ones(4, 8), mesh, ("R", "S1"))
b = tm.distribute(torch.ones(8, 4), mesh, ("R", "S0"))
tm.visualize(a @ b)

# %% [markdown]
# ## What an op did
#
# `explain` runs a function and says, op by op, which layouts met and which
# steps were needed. `counting` counts collectives and bytes.

# %%
print(tm.explain(lambda: (a @ b).relu().sum()))

# %%
with tm.counting() as counts:
    total = (a @ b).relu().sum().item()
print(total, counts.collectives, counts.bytes_per_axis())

# %% [markdown]
# ## A Keras model on the mesh
#
# The model is written as for one device. The `LayoutMap` says which axis splits
# which dim of which variable; batches are split over `data`.

# %%
device_mesh = keras.distribution.DeviceMesh(
    (2, 2), ["data", "model"], mesh.devices
)
layouts = keras.distribution.LayoutMap(device_mesh)
layouts["hidden/kernel"] = (None, "model")
layouts["hidden/bias"] = ("model",)
layouts["logits/kernel"] = ("model", None)


def train():
    keras.utils.set_random_seed(0)
    random = np.random.RandomState(0)
    samples = random.randn(200, 16).astype("float32")
    labels = (samples @ random.randn(16, 3)).argmax(1)
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ],
        name="mlp",
    )
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model, model.fit(samples, labels, epochs=4, verbose=0).history


_, plain = train()
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layouts)
)
model, sharded = train()
print("one device", *(f"{loss:.3f}" for loss in plain["loss"]))
print("2 x 2     ", *(f"{loss:.3f}" for loss in sharded["loss"]))

# %%
from torch_mesh.keras import describe

describe(model)

# %% [markdown]
# Any variable can be looked at.

# %%
tm.visualize(model.get_layer("logits").kernel.value)

# %% [markdown]
# ## Before there is a tensor
#
# A layout draws itself for any shape: here the attention weights of a larger
# model, `[width, heads, size of a head]`, split by heads over one axis and by
# rows over the other.

# %%
larger = tm.Mesh({"data": 2, "model": 4})
tm.Layout(larger, ("S0", "S1")).picture((4096, 32, 128))
