"""All gradients of one apply share buckets."""

import keras
import one_device
import pytest
from one_device import digits, same_everywhere

import torch_mesh as tm

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "global_clipnorm": lambda: keras.optimizers.Adam(1e-2, global_clipnorm=0.1),
    "clipnorm": lambda: keras.optimizers.SGD(1e-2, clipnorm=0.1),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-2, momentum=0.9)
    ),
    "accumulation": lambda: keras.optimizers.AdamW(
        1e-2, gradient_accumulation_steps=2
    ),
    "ema": lambda: keras.optimizers.SGD(
        1e-2, use_ema=True, ema_overwrite_frequency=2
    ),
}


def build(optimizer):
    model = keras.Sequential(
        [
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(4),
        ]
    )
    model.compile(
        OPTIMIZERS[optimizer](),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_gives_the_losses_of_one_device(optimizer):
    def train():
        x, y = digits()
        model = build(optimizer)
        history = model.fit(x, y, batch_size=16, epochs=3, verbose=0)
        return history.history["loss"]

    same_everywhere("batch=2 model=2", train)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_gradients_are_reduced_in_one_collective(optimizer):
    """What else is reduced are single numbers: the loss, and norms."""
    x, y = digits(16)

    def count():
        model = build(optimizer)
        model.train_on_batch(x, y)
        model.train_on_batch(x, y)
        model.make_train_function()
        with tm.counting() as counts:
            model.train_function([(x, y, None)])
        sizes = [v.value.nbytes for v in model.trainable_variables]
        return sum(sizes), [e for e in counts.events if e[0] == "all_reduce"]

    num_bytes, events = one_device.under(
        one_device.make_distribution("data=4"), count
    )
    large = [event for event in events if event[2] > 16]
    assert [event[1] for event in large] == ["batch"]
    # A device sends and receives 3/4 of the bytes twice.
    assert large[0][2] == num_bytes * 6 // 4


def test_slots_follow_their_variable():
    def look():
        model = build("adam")
        x, y = digits(16)
        model.train_on_batch(x, y)
        slots = {v.path: v for v in model.optimizer.variables}
        kernel = model.layers[0].kernel
        name = kernel.path.replace("/", "_")
        return (
            tm.layout(kernel.value),
            [tm.layout(v.value) for p, v in slots.items() if name in p],
            tm.layout(model.optimizer.iterations.value),
        )

    kernel, slots, iterations = one_device.under(
        one_device.make_distribution("batch=2 model=2"), look
    )
    assert kernel.placements == ("R", "S1")
    assert slots == [kernel, kernel]
    assert iterations.placements == ("R", "R")
