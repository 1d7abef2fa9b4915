"""check_parity of a Keras model: one train_on_batch, mesh beside plain."""

import keras
import numpy as np
import pytest
from keras.distribution import (
    DataParallel,
    DeviceMesh,
    LayoutMap,
    ModelParallel,
    list_devices,
    set_distribution,
)

import torch_mesh as tm


@pytest.fixture(autouse=True)
def no_distribution_afterwards():
    keras.utils.set_random_seed(2)
    yield
    set_distribution(None)


def data_parallel():
    return DataParallel(devices=list_devices("cpu")[:4])


def model_parallel():
    mesh = DeviceMesh((2, 2), ["batch", "model"], list_devices("cpu")[:4])
    layouts = LayoutMap(mesh)
    layouts["dense.*kernel"] = (None, "model")
    return ModelParallel(layout_map=layouts, batch_dim_name="batch")


class Doubles(keras.layers.Layer):
    """A layer that is wrong on the mesh alone."""

    def call(self, x):
        return x * (2.0 if x.device.type == "mesh" else 1.0)


def model(*more):
    made = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.BatchNormalization(),
            *more,
            keras.layers.Dense(4),
        ]
    )
    made.compile("adam", "mse", metrics=["mae"])
    return made


def batch():
    generator = np.random.default_rng(0)
    return (
        generator.random((10, 8), "float32"),
        generator.random((10, 4), "float32"),
    )


def values_of(made):
    return [tm.full(v.value) for v in made.variables]


@pytest.mark.parametrize("distribution", [data_parallel, model_parallel])
def test_a_right_model_has_no_difference_and_stays_as_it_is(distribution):
    set_distribution(distribution())
    made = model()
    before = values_of(made)
    found = tm.check_parity(made, *batch())
    assert found, str(found)
    assert found.compared > 100
    names = " ".join(v.name for v in found.values)
    assert "loss" in names
    assert "kernel_momentum" in names
    for old, new in zip(before, values_of(made), strict=True):
        assert old.equal(new)
    made.fit(*batch(), verbose=0)
    found = tm.check_parity(made, *batch())
    assert found, str(found)


def test_a_layer_that_is_wrong_on_the_mesh_is_named_by_its_op():
    set_distribution(data_parallel())
    found = tm.check_parity(model(Doubles()), *batch())
    assert not found
    assert found.first.op == "aten::mul"
    assert "loss" in [v.name for v in found.values if not v.agrees]


def test_a_model_without_a_distribution_or_compile_is_refused():
    made = model()
    with pytest.raises(TypeError, match=r"\[parity-state\]"):
        tm.check_parity(made, *batch())
    set_distribution(data_parallel())
    bare = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    with pytest.raises(TypeError, match=r"\[parity-state\]"):
        tm.check_parity(bare, *batch())
