"""A training loop of one's own for a Keras model, in PyTorch's style.

Variables stand where the distribution wants them as they are made. The loop
splits each batch, calls `backward`, and hands the gradients to the optimizer.

Run: python examples/08_custom_loop.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

import torch_mesh as tm


def build_model():
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(32, activation="tanh", name="hidden"),
            keras.layers.Dense(1, name="output"),
        ]
    )


def train(model, x, y, num_steps=20, batch_size=30):
    """Returns the losses."""
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    variables = model.trainable_variables
    distribution = keras.distribution.distribution()
    losses = []
    for step in range(num_steps):
        rows = [(step * batch_size + i) % len(x) for i in range(batch_size)]
        batch = torch.from_numpy(x[rows]), torch.from_numpy(y[rows])
        if distribution is not None:
            batch = [
                keras.distribution.distribute_tensor(
                    part, distribution.get_data_layout(part.shape)
                )
                for part in batch
            ]
        inputs, targets = batch
        loss = (model(inputs) - targets).square().mean()
        model.zero_grad()
        loss.backward()
        gradients = [variable.value.grad for variable in variables]
        with torch.no_grad():
            optimizer.apply(gradients, variables)
        losses.append(loss.item())
    return losses


def main():
    random = np.random.RandomState(0)
    x = random.randn(120, 12).astype("float32")
    y = np.sin(x[:, :1] + x[:, 1:2])
    plain = train(build_model(), x, y)

    mesh = keras.distribution.DeviceMesh(
        (4, 2), ["batch", "model"], [f"cpu:{i}" for i in range(8)]
    )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["hidden/kernel"] = (None, "model")
    layouts["hidden/bias"] = ("model",)
    layouts["output/kernel"] = ("model", None)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts)
    )
    model = build_model()
    with tm.counting() as counts:
        losses = train(model, x, y)

    print("one device ", *(f"{loss:.5f}" for loss in plain[::5]))
    print("4 x 2      ", *(f"{loss:.5f}" for loss in losses[::5]))
    print("the losses agree to 1e-4:", np.allclose(plain, losses, rtol=1e-4))
    print("they fall:", losses[-1] < losses[0])
    kernel = model.get_layer("hidden").kernel.value
    print("hidden/kernel", tm.layout(kernel), list(kernel.shape))
    per_step = counts["all_reduce@batch"] / len(losses)
    print(f"sums over the batch: {per_step:.1f} per step")


if __name__ == "__main__":
    main()
