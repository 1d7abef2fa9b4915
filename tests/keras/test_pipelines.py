"""Batches from any source, and loops of one's own, train as on one device."""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras import ops
from keras.distribution import distribute_tensor
from one_device import Losses, digits, mlp, same_everywhere

import torch_mesh as tm

MESHES = ["data=3", "batch=2 model=2"]
on_meshes = pytest.mark.parametrize("name", MESHES)


class Rows(torch.utils.data.Dataset):
    """Samples that a worker prepares with an op of Keras."""

    def __init__(self, use_keras):
        self.x, self.y = digits()
        self.use_keras = use_keras

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i]
        if self.use_keras:
            with keras.device("cpu"):
                x = ops.convert_to_numpy(ops.add(x, 1.0))
        return x, self.y[i].astype("int64")


class Batches(keras.utils.PyDataset):
    """Batches with sample weights."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y = digits()

    def __len__(self):
        return 5

    def __getitem__(self, i):
        part = slice(16 * i, 16 * i + 16)
        weight = np.linspace(0.5, 1.5, len(self.x[part])).astype("float32")
        return self.x[part], self.y[part], weight


def generator():
    x, y = digits()
    for i in range(0, 70, 16):
        yield x[i : i + 16], y[i : i + 16]


def loader(**kwargs):
    return torch.utils.data.DataLoader(Rows(False), batch_size=16, **kwargs)


SOURCES = {
    "generator": generator,
    "loader": lambda: loader(shuffle=True),
    "loader with workers": lambda: loader(num_workers=2, shuffle=True),
    "loader, last batch dropped": lambda: loader(drop_last=True),
    "dataset": Batches,
    "dataset with threads": lambda: Batches(workers=2),
    "dataset with processes": lambda: Batches(
        workers=2, use_multiprocessing=True
    ),
}


@on_meshes
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_of_batches_trains_as_on_one_device(name, source):
    def train():
        losses = Losses()
        model = mlp()
        model.fit(
            SOURCES[source](), epochs=1, verbose=0, callbacks=[losses]
        )  # fmt: skip
        return losses.values

    same_everywhere(name, train)


def test_workers_may_call_keras_ops():
    """A forked worker of a loader runs them on plain tensors."""

    def train():
        losses = Losses()
        model = mlp()
        batches = torch.utils.data.DataLoader(
            Rows(True), batch_size=16, num_workers=1
        )
        model.fit(batches, verbose=0, callbacks=[losses])
        return losses.values

    same_everywhere("data=3", train)


@on_meshes
def test_numpy_validation_and_predict_take_any_source(name):
    def run():
        x, y = digits()
        model = mlp()
        history = model.fit(
            x, y, batch_size=16, validation_data=loader(), verbose=0
        ).history
        return history, model.evaluate(Batches(), verbose=0), model.predict(
            ((x[i : i + 16],) for i in range(0, 70, 16)), verbose=0
        )  # fmt: skip

    same_everywhere(name, run, rtol=1e-4, atol=1e-5)


# Loops of one's own


def torch_loop(shard):
    """loss.backward() and a torch optimizer, on a Keras model."""
    x, y = digits()
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(8), keras.layers.Dense(4)]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss_of = torch.nn.CrossEntropyLoss()
    losses = []
    for start in range(0, 70, 16):
        a = torch.from_numpy(x[start : start + 16])
        b = torch.from_numpy(y[start : start + 16]).long()
        if shard:
            a, b = shard(a), shard(b)
        loss = loss_of(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses, model.get_weights()


def sharded(x):
    distribution = keras.distribution.distribution()
    if distribution is None:
        return x
    return distribute_tensor(x, distribution.get_data_layout(x.shape))


@on_meshes
@pytest.mark.parametrize("shard", [None, sharded], ids=["plain", "sharded"])
def test_a_plain_torch_loop_trains_as_on_one_device(name, shard):
    same_everywhere(name, lambda: torch_loop(shard), rtol=1e-4, atol=1e-6)


@on_meshes
def test_a_loop_with_a_keras_optimizer_trains_as_on_one_device(name):
    def train():
        x, y = digits()
        model = mlp()
        model.build((None, 12))
        optimizer = keras.optimizers.Adam(1e-2, global_clipnorm=0.5)
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        accuracy = keras.metrics.SparseCategoricalAccuracy()
        losses = []
        for start in range(0, 70, 16):
            a = sharded(ops.convert_to_tensor(x[start : start + 16]))
            b = sharded(ops.convert_to_tensor(y[start : start + 16]))
            logits = model(a, training=True)
            loss = loss_of(b, logits)
            model.zero_grad()
            loss.backward()
            weights = model.trainable_weights
            with torch.no_grad():
                optimizer.apply([w.value.grad for w in weights], weights)
            accuracy.update_state(b, logits)
            losses.append(loss.item())
        return losses, float(accuracy.result()), model.get_weights()

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


def test_a_sharded_batch_stays_sharded_in_a_loop():
    def run():
        model = mlp()
        with tm.counting() as counts:
            y = model(sharded(torch.zeros(8, 12)))
        return tm.layout(y).placements, dict(counts.replicated_ops)

    layout, replicated = one_device.under(
        one_device.make_distribution("data=4"), run
    )
    assert layout == ("S0",)
    assert replicated == {}


def test_gradients_are_those_of_one_device_under_no_reduction():
    """torch.autograd.grad, twice, through a split weight."""

    def run():
        x, _ = digits(6)
        layer = keras.layers.Dense(4, activation="tanh")
        layer.build((None, 12))
        a = sharded(torch.from_numpy(x)).requires_grad_()
        y = layer(a).sum()
        (first,) = torch.autograd.grad(y, a, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), a)
        return [ops.convert_to_numpy(t) for t in (y, first, second)]

    same_everywhere("batch=2 model=2", run)
