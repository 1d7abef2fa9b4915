"""`replicate_model` on a mesh: one device's gradients, on parts of a batch."""

import copy

import keras
import numpy as np
import pytest
import torch
from keras.distribution import DataParallel, ModelParallel, set_distribution

import torch_mesh as tm
from torch_mesh.keras import distribution_lib as lib


class Net(torch.nn.Module):
    """Two inputs, a buffer, a keyword, and a parameter that is not used."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Linear(3, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.two = torch.nn.Linear(4, 2)
        self.unused = torch.nn.Parameter(torch.ones(2))

    def forward(self, x, scale=None, table=None):
        self.seen = x, scale, table
        h = self.norm(torch.relu(self.one(x["a"]) + x["b"]))
        return self.two(h) * scale[:, None] + table.sum()


@pytest.fixture
def line():
    return tm.Mesh({"data": 4})


def arguments(batch):
    x = {"a": torch.randn(batch, 3), "b": torch.randn(batch, 4)}
    return (x,), {"scale": torch.randn(batch), "table": torch.randn(9)}


@pytest.mark.parametrize("batch", [8, 6, 3, 1 + 4])
def test_a_module_has_one_devices_gradients(line, batch):
    torch.manual_seed(0)
    plain = Net()
    model = copy.deepcopy(plain)
    weight = model.one.weight
    assert lib.replicate_model(model, line) is model
    assert model.one.weight is weight
    optimizers = [
        torch.optim.SGD(m.parameters(), 0.1, 0.9) for m in (plain, model)
    ]
    for _ in range(3):
        args, kwargs = arguments(batch)
        for m, optimizer in zip((plain, model), optimizers, strict=True):
            optimizer.zero_grad()
            m(*args, **kwargs).square().mean().backward()
            optimizer.step()
    x, scale, table = model.seen
    assert tm.layout(x["a"]).placements == ("S0",)
    assert tm.layout(scale).placements == ("S0",)
    assert tm.layout(table).placements == ("R",)
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert tm.layout(b).placements == ("R",)
        torch.testing.assert_close(a, tm.full(b.detach()), rtol=1e-4, atol=1e-5)
    for a, b in zip(plain.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, tm.full(b), rtol=1e-4, atol=1e-5)


def test_gradients_are_reduced_together_when_backward_ends(line):
    model = lib.replicate_model(Net(), line)
    model = lib.replicate_model(model)  # again: nothing is done twice
    args, kwargs = arguments(8)
    loss = model(*args, **kwargs).sum()
    with tm.counting() as c:
        loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            assert tm.layout(parameter.grad).placements == ("R",)
    whole = lib.replicate_model(torch.nn.Linear(3, 4), line)
    loss = whole(torch.randn(8, 3)).sum()
    with tm.counting() as c:
        loss.backward()
    assert c["all_reduce@data"] == 1  # weight and bias in one bucket


def test_without_a_mesh_all_devices_are_taken():
    model = lib.replicate_model(torch.nn.Linear(2, 2))
    mesh = tm.layout(model.weight).mesh
    assert mesh.devices == tm.list_devices()
    assert tm.layout(model(torch.ones(8, 2))).placements == ("S0",)


def test_the_mesh_in_force_and_its_axis_are_taken(mesh):
    backend = mesh.backend_mesh
    with tm.use(backend):
        model = lib.replicate_model(torch.nn.Linear(2, 2), axis_name="model")
    assert tm.layout(model(torch.ones(8, 2))).placements == ("R", "S0")
    other = lib.replicate_model(torch.nn.Linear(2, 2), mesh)
    assert tm.layout(other(torch.ones(8, 2))).placements == ("S0", "R")
    with pytest.raises(ValueError, match="unknown-axis"):
        lib.replicate_model(torch.nn.Linear(2, 2), mesh, axis_name="modle")


def keras_model():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4),
        ]
    )


def test_a_keras_model_in_a_custom_loop(devices):
    keras.utils.set_random_seed(1)
    plain = keras_model()
    x = torch.randn(10, 6)
    plain(x, training=True).square().mean().backward()
    expected = [v.value.grad for v in plain.trainable_variables]
    set_distribution(DataParallel(devices=devices))
    keras.utils.set_random_seed(1)
    model = keras_model()
    assert lib.replicate_model(model) is model
    y = model(x, training=True)
    assert tm.layout(y).placements == ("S0",)
    y.square().mean().backward()
    for grad, v in zip(expected, model.trainable_variables, strict=True):
        assert tm.layout(v.value.grad).placements == ("R",)
        torch.testing.assert_close(
            grad, tm.full(v.value.grad), rtol=1e-4, atol=1e-5
        )


def test_a_model_parallel_model_is_made_whole_and_fits(layout_map):
    set_distribution(ModelParallel(layout_map=layout_map))
    model = keras_model()
    kernel = model.layers[0].kernel
    assert tm.layout(kernel.value).placements == ("R", "S1")
    lib.replicate_model(model)
    assert tm.layout(kernel.value).placements == ("R", "R")
    model.compile("adam", "mse")
    x = np.random.rand(16, 6).astype("float32")
    model.fit(x, np.zeros((16, 4)), verbose=0)
    assert tm.layout(kernel.value).placements == ("R", "R")
    assert model.predict(x, verbose=0).shape == (16, 4)
    assert model(keras.Input((6,))).shape == (None, 4)


def test_what_cannot_be_replicated_says_why(devices):
    with pytest.raises(TypeError, match="no-module"):
        lib.replicate_model(lambda x: x)
    with pytest.raises(ValueError, match="no-mesh"):
        lib.replicate_model(keras_model())
    set_distribution(DataParallel(devices=devices))
    with pytest.raises(ValueError, match="not-built"):
        lib.replicate_model(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="no-mesh"):
        lib.replicate_model(keras_model(), tm.Mesh({"data": 3}))
