"""A model leaves the mesh and is exported."""

import keras
import numpy as np
import one_device
import pytest
import torch
from one_device import digits

import torch_mesh as tm
from torch_mesh.keras import gather


def trained(distribution):
    keras.distribution.set_distribution(distribution)
    x, y = digits()
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(4),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(x, y, batch_size=16, verbose=0)
    return model


@pytest.fixture
def split(layout_map):
    return keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch"
    )


def test_all_state_becomes_plain_and_keeps_its_value(split):
    model = trained(split)
    kernel = model.layers[0].kernel.value
    state = model.variables + model.metrics_variables
    state += model.optimizer.variables
    before = [v.numpy() for v in state]
    assert gather(model) >= len(model.variables)
    assert {v.value.device.type for v in state} == {"cpu"}
    one_device.assert_same([v.numpy() for v in state], before, 0, 0)
    assert model.layers[0].kernel.value is kernel
    assert not any(tm.is_global(p) for p in model.parameters())
    assert gather(model) == 0


def test_a_gathered_model_trains_on_plain_tensors(split):
    x, y = digits()
    model = trained(split)
    keras.distribution.set_distribution(None)
    gather(model)
    model.fit(x, y, batch_size=16, verbose=0)
    assert model.layers[0].kernel.value.device.type == "cpu"


def test_a_gathered_model_goes_back_to_the_mesh(split):
    x, y = digits()
    model = trained(split)
    gather(model)
    with pytest.warns(UserWarning, match="late-distribution"):
        model.fit(x, y, batch_size=16, verbose=0)
    kernel = model.layers[0].kernel.value
    assert tm.layout(kernel).placements == ("R", "S1")


def test_a_gathered_model_is_exported(split, tmp_path):
    x, _ = digits(5)
    model = trained(split)
    expected = model.predict(x, verbose=0)
    keras.distribution.set_distribution(None)
    gather(model)
    path = str(tmp_path / "model.pt2")
    batch = torch.export.Dim("batch", min=1, max=64)
    model.export(path, format="torch", verbose=False, dynamic_shapes={0: batch})
    loaded = torch.export.load(path).module()
    actual = loaded(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_torch_export_takes_a_gathered_model(split):
    x, _ = digits(5)
    model = trained(split)
    expected = model.predict(x, verbose=0)
    keras.distribution.set_distribution(None)
    gather(model)
    program = torch.export.export(model, (torch.from_numpy(x),))
    actual = program.module()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_torch_module_is_gathered_too(devices):
    mesh = tm.Mesh({"data": 4})
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with tm.use(mesh):
        module.to("mesh")
    assert gather(module) == 7
    assert {t.device.type for t in module.state_dict().values()} == {"cpu"}
