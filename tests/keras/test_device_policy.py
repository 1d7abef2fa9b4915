"""The mesh is Keras's default device only while a distribution is set."""

import threading

import keras
import numpy as np
import one_device
import pytest
import torch
from keras.distribution import DataParallel, ModelParallel, set_distribution
from keras.src.backend.torch import core
from one_device import digits

import torch_mesh as tm


def new_device():
    return keras.ops.ones((2,)).device.type


@pytest.fixture
def parallel(devices):
    return DataParallel(devices=devices)


def test_unset_restores_the_default_device(parallel):
    before = core.DEFAULT_DEVICE
    set_distribution(parallel)
    assert new_device() == "mesh"
    set_distribution(None)
    assert core.DEFAULT_DEVICE is before
    assert new_device() == "cpu"
    assert tm.current_mesh() is None


def test_a_scope_ends(parallel, layout_map):
    with parallel.scope():
        assert tm.current_mesh() == parallel.device_mesh.backend_mesh
        inner = ModelParallel(layout_map=layout_map)
        with inner.scope():
            assert tm.current_mesh() == inner.device_mesh.backend_mesh
            assert new_device() == "mesh"
        assert tm.current_mesh() == parallel.device_mesh.backend_mesh
    assert new_device() == "cpu"


def test_clear_session_ends_it(parallel):
    set_distribution(parallel)
    keras.utils.clear_session()
    assert keras.distribution.distribution() is None
    assert new_device() == "cpu"


def test_keras_device_overrides_it(parallel):
    set_distribution(parallel)
    with keras.device("cpu"):
        assert new_device() == "cpu"
    assert new_device() == "mesh"


def test_other_threads_work_on_the_mesh_too(parallel):
    set_distribution(parallel)
    found = []

    def work():
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
        found.append((new_device(), tm.is_global(layer.kernel.value)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [("mesh", True)]


def test_a_mesh_of_cpus_takes_the_cpu_branches(parallel):
    set_distribution(parallel)
    device = core.get_device()
    assert device == "cpu"
    assert device == "mesh"
    assert device != "cuda"
    assert device == torch.device("mesh", 0)
    assert device != torch.device("cpu")
    assert str(device) == "mesh"
    x = keras.ops.ones((2, 3), dtype="float16")
    assert keras.ops.matmul(x, keras.ops.transpose(x)).dtype == torch.float16


def test_a_device_that_is_not_there_changes_nothing():
    bad = DataParallel(devices=["gpu:76", "gpu:77"])
    with pytest.raises(ValueError, match="no-such-device") as error:
        set_distribution(bad)
    assert 'this machine has no device "gpu:76"' in str(error.value)
    assert keras.distribution.distribution() is None
    assert new_device() == "cpu"


def test_a_model_made_before_moves_at_its_first_fit(layout_map):
    """Its weights, slots and metrics go; its training goes on."""
    x, y = digits()

    def train(distribution):
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        model = one_device.mlp()
        model.fit(x, y, batch_size=16, verbose=0)
        kernel = model.layers[0].kernel.value
        set_distribution(distribution)
        losses = model.fit(x, y, batch_size=16, verbose=0).history["loss"]
        assert model.layers[0].kernel.value is kernel
        return model, losses

    _, expected = train(None)
    with pytest.warns(UserWarning, match="late-distribution"):
        model, losses = train(
            ModelParallel(layout_map=layout_map, batch_dim_name="batch")
        )
    one_device.assert_same(losses, expected)
    kernel = model.layers[0].kernel
    assert tm.layout(kernel.value).placements == ("R", "S1")
    slots = [
        v
        for v in model.optimizer.variables
        if kernel.path.replace("/", "_") in v.path
    ]
    assert [tm.layout(v.value).placements for v in slots] == [("R", "S1")] * 2


def test_a_model_comes_back_when_the_distribution_is_unset(parallel):
    x, y = digits()
    set_distribution(parallel)
    model = one_device.mlp()
    model.fit(x, y, batch_size=16, verbose=0)
    set_distribution(None)
    with pytest.warns(UserWarning, match="late-distribution"):
        model.fit(x, y, batch_size=16, verbose=0)
    state = model.variables + model.optimizer.variables
    assert {v.value.device.type for v in state} == {"cpu"}


def test_a_model_follows_to_another_mesh(parallel, layout_map):
    x, y = digits()

    def train(first, second):
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        set_distribution(first)
        model = one_device.mlp()
        model.fit(x, y, batch_size=16, verbose=0)
        set_distribution(second)
        return model.fit(x, y, batch_size=16, verbose=0).history["loss"]

    expected = train(None, None)
    with pytest.warns(UserWarning, match="late-distribution"):
        losses = train(parallel, ModelParallel(layout_map=layout_map))
    one_device.assert_same(losses, expected)


def test_a_model_that_was_made_before_can_be_called(parallel):
    layer = keras.layers.Dense(3)
    x = np.ones((4, 2), "float32")
    expected = layer(x).detach().numpy()
    set_distribution(parallel)
    y = layer(x)
    assert y.device.type == "mesh"
    one_device.assert_same(keras.ops.convert_to_numpy(y), expected)
