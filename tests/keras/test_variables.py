"""Variables get their layout from the distribution, and keep it."""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras.distribution import (
    DataParallel,
    LayoutMap,
    ModelParallel,
    TensorLayout,
    set_distribution,
)

import torch_mesh as tm


def placements(variable):
    return tm.layout(variable.value).placements


@pytest.fixture
def split(layout_map):
    """ModelParallel over batch=2 model=2 is in force."""
    distribution = ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    set_distribution(distribution)
    return distribution


def test_dense_kernels_are_split(split):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(5)]
    )
    assert [v.path for v in model.variables] == [
        "sequential/dense/kernel",
        "sequential/dense/bias",
        "sequential/dense_1/kernel",
        "sequential/dense_1/bias",
    ]
    assert [placements(v) for v in model.variables] == [
        ("R", "S1"),
        ("R", "S0"),
        ("R", "S1"),
        ("R", "S0"),
    ]
    shards = tm.shards(model.layers[1].kernel.value)
    assert [tuple(s.shape) for s in shards] == [(8, 3), (8, 2)] * 2


def test_initial_values_are_one_devices(split):
    def build():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8),
                keras.layers.Dense(5, kernel_initializer="orthogonal"),
                keras.layers.BatchNormalization(),
            ]
        )
        return model.get_weights()

    expected = one_device.under(None, build)
    one_device.assert_same(one_device.under(split, build), expected, 0, 0)


def test_a_parameter_stays_the_same_object(split):
    layer = keras.layers.Dense(4)
    layer.build((None, 6))
    assert layer.kernel.value is layer.kernel.value
    assert isinstance(layer.kernel.value, torch.nn.Parameter)
    assert layer.kernel.value.is_leaf
    names = dict(layer.named_parameters())
    assert any(p is layer.kernel.value for p in names.values())


def test_an_assignment_keeps_the_layout(split):
    layer = keras.layers.Dense(4)
    layer.build((None, 6))
    value = np.arange(24, dtype="float32").reshape(6, 4)
    layer.kernel.assign(value)
    set_distribution(None)
    layer.kernel.assign(layer.kernel * 2)
    layer.kernel.assign_add(np.ones((6, 4)))
    assert placements(layer.kernel) == ("R", "S1")
    np.testing.assert_array_equal(layer.kernel.numpy(), value * 2 + 1)
    layer.kernel._direct_assign(torch.ones(6, 4))
    assert placements(layer.kernel) == ("R", "S1")
    np.testing.assert_array_equal(layer.kernel.numpy(), np.ones((6, 4)))


def test_a_layout_of_its_own_comes_first(split, mesh):
    layout = TensorLayout(["batch", None], mesh)
    variable = keras.Variable(np.ones((4, 4)), layout=layout, name="kernel")
    assert placements(variable) == ("S0", "R")


def test_a_layout_of_its_own_needs_no_distribution(mesh):
    layout = TensorLayout([None, "model"], mesh)
    variable = keras.Variable(np.ones((4, 4)), layout=layout)
    assert placements(variable) == ("R", "S1")
    np.testing.assert_array_equal(variable.numpy() + 1, np.full((4, 4), 2))


def test_seeds_are_whole_under_a_greedy_pattern(mesh):
    layout_map = LayoutMap(mesh)
    layout_map[".*"] = ("model",)
    layout_map[".*seed.*"] = ("batch",)
    set_distribution(ModelParallel(layout_map=layout_map))
    generator = keras.random.SeedGenerator(3)
    assert placements(generator.state) == ("R", "R")
    keras.random.normal((3,), seed=generator)


def test_a_layout_with_more_entries_than_dims_is_an_error(mesh):
    layout_map = LayoutMap(mesh)
    layout_map[".*dense.*"] = (None, "model")
    set_distribution(ModelParallel(layout_map=layout_map))
    with pytest.raises(ValueError, match="layout-rank") as error:
        keras.layers.Dense(4).build((None, 6))
    assert '"dense/bias" has 2 entries, the variable 1 dims' in str(error.value)
    assert "(None, 'model') from pattern \".*dense.*\"" in str(error.value)


def test_a_pattern_that_only_we_match_never_raises(mesh):
    layout_map = LayoutMap(mesh)
    layout_map["dense/.*"] = (None, "model")
    set_distribution(ModelParallel(layout_map=layout_map))
    with pytest.warns(UserWarning, match="layout-rank"):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    assert [placements(v) for v in model.variables] == [
        ("R", "S1"),
        ("R", "R"),
    ]


def test_keras_device_takes_variables_off_the_mesh(split):
    with keras.device("cpu"):
        layer = keras.layers.Dense(4)
        layer.build((None, 6))
    assert str(layer.kernel.value.device) == "cpu"


def test_a_torch_module_keeps_its_parameters(devices):
    set_distribution(DataParallel(devices=devices))
    module = torch.nn.Linear(3, 2)
    wrapper = keras.layers.TorchModuleWrapper(module)
    assert all(tm.is_global(p) for p in module.parameters())
    assert wrapper.variables[0].value is module.weight


def test_an_initializer_may_place_its_value_itself(split):
    given = []

    class Ours(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None, layout=None):
            given.append(layout)
            value = keras.ops.ones(shape, dtype)
            return keras.distribution.distribute_tensor(value, layout)

    layer = keras.layers.Dense(4, kernel_initializer=Ours())
    layer.build((None, 6))
    assert given == [layer.kernel._layout]
    assert placements(layer.kernel) == ("R", "S1")


def test_integer_variables_are_placed(split):
    variable = keras.Variable(np.arange(4), trainable=False, dtype="int32")
    assert tm.is_global(variable.value)
    assert not variable.value.requires_grad
    np.testing.assert_array_equal(variable.numpy(), np.arange(4))
