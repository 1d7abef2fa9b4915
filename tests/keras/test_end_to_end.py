"""Keras's five end-to-end tests of distribution on JAX, as stories of ours.

Made inside a scope, trained inside or outside of it: where weights,
activations and batches lie before and after, and that the numbers are those of
one device.
"""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras.distribution import (
    DataParallel,
    DeviceMesh,
    LayoutMap,
    ModelParallel,
    TensorLayout,
)

import torch_mesh as tm
from torch_mesh.keras import distribution_lib as lib

PIXELS, CLASSES = 9, 6
IMAGES = np.random.RandomState(1).rand(48, PIXELS, PIXELS, 1).astype("float32")
TARGETS = np.random.RandomState(2).rand(48, CLASSES).astype("float32")


@pytest.fixture
def wide_mesh():
    """batch=2 model=4."""
    return DeviceMesh((2, 4), ["batch", "model"], one_device.DEVICES)


def columns(mesh):
    """Dense layers split over their units."""
    layout_map = LayoutMap(mesh)
    layout_map[".*dense.*kernel"] = TensorLayout([None, "model"])
    layout_map[".*dense.*bias"] = TensorLayout(["model"])
    return layout_map


class Watch(keras.layers.Layer):
    """Passes its input on, and keeps the layouts of those with numbers."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True
        self.seen = set()

    def call(self, inputs):
        if isinstance(inputs, torch.Tensor) and tm.is_global(inputs):
            self.seen.add(repr(tm.layout(inputs)))
        return inputs


def classifier(between=None):
    """Flatten, a hidden layer without bias, dropout, class probabilities."""
    inputs = keras.Input((PIXELS, PIXELS, 1))
    h = keras.layers.Flatten()(inputs)
    h = keras.layers.Dense(40, activation="relu", use_bias=False)(h)
    if between is not None:
        h = between(h)
    h = keras.layers.Dropout(0.3)(h)
    return keras.Model(
        inputs, keras.layers.Dense(CLASSES, activation="softmax")(h)
    )


def train(model):
    """Losses of two epochs, and the weights at their end."""
    model.compile(optimizer="adam", loss="mse")
    history = model.fit(IMAGES, TARGETS, batch_size=8, epochs=2, verbose=0)
    return history.history["loss"], model.get_weights()


def story(distribution, between=None):
    """Makes and trains a classifier, each in a scope of its own.

    Returns:
        Its layouts before and after training, and what `train` gives.
    """

    def tell():
        with distribution.scope():
            model = classifier(between)
        assert keras.distribution.distribution() is None
        before = layouts(model)
        with distribution.scope():
            result = train(model)
        return before, layouts(model), result

    return one_device.under(None, tell)


def layouts(model):
    return {
        v.path.rpartition("/")[2] + str(tuple(v.shape)): repr(
            tm.layout(v.value)
        )
        for v in model.weights
    }


@pytest.fixture(scope="module")
def expected():
    return one_device.under(None, lambda: train(classifier()))


def test_weights_that_are_set_later_keep_their_layout(wide_mesh):
    distribution = ModelParallel(
        layout_map=columns(wide_mesh), batch_dim_name="batch"
    )
    with distribution.scope():
        layer = keras.layers.Dense(8)
        layer.build((16, 16))
    kernel = np.random.RandomState(3).rand(16, 8)
    for _ in range(2):  # as made, and as set without a distribution
        assert tm.layout(layer.kernel.value).placements == ("R", "S1")
        assert tm.layout(layer.bias.value).placements == ("R", "S0")
        layer.kernel.assign(kernel)
        layer.bias.assign(np.arange(8))
    np.testing.assert_array_equal(layer.kernel.numpy(), np.float32(kernel))
    np.testing.assert_array_equal(layer.bias.numpy(), np.arange(8))


def test_data_parallel_trains_on_whole_weights(expected):
    before, after, result = story(DataParallel(devices=one_device.DEVICES))
    assert set(before.values()) == {"(R)"}
    assert after == before
    one_device.assert_same(result, expected, 1e-5, 1e-6)


def test_model_parallel_trains_on_split_weights(wide_mesh, expected):
    before, after, result = story(
        ModelParallel(layout_map=columns(wide_mesh), batch_dim_name="batch")
    )
    assert {k: v for k, v in before.items() if k[0] != "s"} == {
        "kernel(81, 40)": "(R, S1)",
        "kernel(40, 6)": "(R, S1)",
        "bias(6,)": "(R, S0)",
    }
    assert after == before
    one_device.assert_same(result, expected, 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("axes", "seen"),
    [(None, "(S0, S1)"), (("batch", None), "(S0, R)")],
    ids=["as it comes", "batch only"],
)
def test_an_output_layout_holds_in_training(wide_mesh, expected, axes, seen):
    layout_map = columns(wide_mesh)
    if axes is not None:
        layout_map[".*dense.*output"] = axes
    watch = Watch()
    _, _, result = story(
        ModelParallel(layout_map=layout_map, batch_dim_name="batch"), watch
    )
    assert watch.seen == {seen}
    one_device.assert_same(result, expected, 1e-5, 1e-6)


class Columns(Watch):
    """Lays its input out itself, over the devices of `model`."""

    def __init__(self, mesh):
        super().__init__()
        self.layout = TensorLayout(["batch", "model"], mesh)

    def call(self, inputs):
        placed = keras.distribution.distribute_tensor(inputs, self.layout)
        return super().call(placed)


def test_a_layer_may_lay_out_its_own_tensors(wide_mesh, expected):
    layer = Columns(wide_mesh)
    _, _, result = story(ModelParallel(layout_map=LayoutMap(wide_mesh)), layer)
    assert layer.seen == {"(S0, S1)"}
    one_device.assert_same(result, expected, 1e-5, 1e-6)


def test_replicas_and_shards_of_data_are_counted(wide_mesh):
    data = DataParallel(devices=one_device.DEVICES, auto_shard_dataset=False)
    model = ModelParallel(layout_map=columns(wide_mesh))
    assert (data.num_model_replicas, model.num_model_replicas) == (8, 2)
    for distribution in (data, model):
        assert distribution.num_processes == 1
        assert distribution.data_shard_id == 0


def test_a_batch_is_split_over_its_first_dim(wide_mesh):
    layout = lib._to_backend_layout(TensorLayout(["batch", None], wide_mesh))
    batch = torch.arange(30.0).reshape(6, 5)
    x = lib.distribute_data_input(batch, layout, "batch")
    assert x.shape == (6, 5)
    shards = tm.shards(x)
    assert [tuple(s.shape) for s in shards] == [(3, 5)] * 8
    for i, shard in enumerate(shards):
        assert torch.equal(shard, batch[3 * (i // 4) :][:3])
