"""Patterns on the variables of whole models, names of all kinds."""

import re
import warnings

import keras
import numpy as np
import pytest
import torch
from keras.distribution import LayoutMap, ModelParallel, set_distribution
from keras.src.utils.torch_utils import TorchModuleWrapper

import torch_mesh as tm
from torch_mesh import _C
from torch_mesh.keras import describe

COLUMNS, ROWS = (None, "model"), ("model", None)


@pytest.fixture
def distribute(mesh):
    """distribute({pattern: axes}) puts a ModelParallel in force."""

    def distribute(patterns):
        layout_map = LayoutMap(mesh)
        for pattern, axes in patterns.items():
            layout_map[pattern] = axes
        distribution = ModelParallel(
            layout_map=layout_map, batch_dim_name="batch"
        )
        set_distribution(distribution)
        return distribution

    return distribute


def placed(model):
    """{path: (pattern, layout)} of a built model."""
    return {r.path: (r.pattern, r.layout) for r in describe(model).rows}


def layout_of(variable):
    return repr(tm.layout(variable.value))


@pytest.mark.parametrize(
    "pattern",
    [
        "block.1/kernel",
        r"block\.1/kernel",
        r"block\.1\.weight",
        r"sequential\.block\.1\.kernel",
        ".*1/kernel",
    ],
)
def test_a_dot_in_a_name_of_keras(mesh, pattern):
    layout_map = LayoutMap(mesh)
    layout_map[pattern] = COLUMNS
    assert layout_map["sequential/block.1/kernel"].axes == COLUMNS


def test_a_dot_in_a_name_makes_no_segment_of_a_keras_path(mesh):
    layout_map = LayoutMap(mesh)
    layout_map["1/kernel"] = COLUMNS
    assert layout_map["sequential/block.1/kernel"] is None


def test_a_layer_with_a_dot_is_refused_by_keras_with_or_without_us(distribute):
    layers = [keras.Input((4,)), keras.layers.Dense(6, name="block.1")]
    with pytest.raises(KeyError, match="parameter name"):
        keras.Sequential(layers)
    distribute({"block.1/kernel": COLUMNS})
    with pytest.raises(KeyError, match="parameter name"):
        keras.Sequential(layers)


def test_a_slash_in_a_name_is_keras_error():
    with pytest.raises(ValueError, match="/"):
        keras.layers.Dense(6, name="block/1")


def test_a_name_with_regex_characters_is_found_by_its_escape(distribute):
    name = "a+b(c)[d]"
    escaped = re.escape(f"{name}/kernel")
    distribute({escaped: COLUMNS})
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6, name=name)]
    )
    assert placed(model)[f"sequential/{name}/kernel"] == (escaped, "(R, S1)")


def test_a_path_with_regex_characters_is_a_key_as_it_is(distribute):
    distribute({"a+b[c]/kernel": COLUMNS})
    layer = keras.layers.Dense(6, name="a+b[c]", use_bias=False)
    layer.build((None, 4))
    assert layout_of(layer.kernel) == "(R, S1)"


def test_nested_models_are_found_by_the_end_of_their_path(distribute):
    distribute({"inner/dense.*kernel": COLUMNS, "head/kernel": ROWS})
    inner = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, name="dense_a"),
            keras.layers.Dense(6, name="dense_b"),
        ],
        name="inner",
    )
    model = keras.Sequential(
        [keras.Input((4,)), inner, keras.layers.Dense(2, name="head")],
        name="outer",
    )
    found = {p: f for p, f in placed(model).items() if p.endswith("kernel")}
    assert [f[1] for f in found.values()] == ["(R, S1)", "(R, S1)", "(R, S0)"]


def test_a_renamed_layer_is_found_by_the_name_it_has_when_built(distribute):
    distribute({"new/kernel": COLUMNS, "old/kernel": ROWS})
    layer = keras.layers.Dense(6, name="old")
    layer.name = "new"
    layer.build((None, 4))
    assert layout_of(layer.kernel) == "(R, S1)"
    # A built one keeps what it has.
    layer.name = "old"
    layer(np.ones((2, 4), "float32"))
    assert layout_of(layer.kernel) == "(R, S1)"


def test_lora_weights_have_names_of_their_own(distribute):
    distribute({"dense/kernel": COLUMNS, "lora_kernel_b": COLUMNS})
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    before = model(np.ones((2, 4), "float32"))
    (layer,) = model.layers
    layer.enable_lora(2)
    assert placed(model)["sequential/dense/kernel"] == (
        "dense/kernel",
        "(R, S1)",
    )
    assert layout_of(layer.lora_kernel_a) == "(R, R)"
    assert layout_of(layer.lora_kernel_b) == "(R, S1)"
    after = model(np.ones((2, 4), "float32"))  # b is zero
    torch.testing.assert_close(tm.full(after), tm.full(before))


def test_a_quantized_kernel_keeps_its_pattern_and_its_scale_is_whole(
    distribute,
):
    distribute({"dense/kernel": COLUMNS})
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    before = keras.ops.convert_to_numpy(model(x))
    model.quantize("int8")
    (layer,) = model.layers
    assert str(layer._kernel.dtype) == "int8"
    assert layout_of(layer._kernel) == "(R, S1)"
    assert layout_of(layer.kernel_scale) == "(R, R)"
    after = keras.ops.convert_to_numpy(model(x))
    assert np.abs(after - before).max() < 0.1


def wrapped():
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)
    )
    return TorchModuleWrapper(net, name="net")


def test_parameters_of_a_torch_module_have_pytorchs_names(distribute):
    distribute({r"net\.0\.weight": ROWS, "2.bias": ("model",)})
    assert placed(wrapped()) == {
        "net.0.weight": (r"net\.0\.weight", "(R, S0)"),
        "net.0.bias": ("", "(R, R)"),
        "net.2.weight": ("", "(R, R)"),
        "net.2.bias": ("2.bias", "(R, S0)"),
    }


def test_a_linear_found_as_a_kernel_is_split_as_a_dense_is(distribute):
    distribute({"0/kernel": COLUMNS})  # Dense's [in, out]
    layer = wrapped()
    assert placed(layer)["net.0.weight"] == ("0/kernel", "(R, S0)")
    weight = layer.module[0].weight
    assert tuple(tm.shards(weight)[0].shape) == (3, 4)  # of [out, in]


def test_a_convolution_found_as_a_kernel_is_split_as_keras_is(distribute):
    distribute({"conv/kernel": (None, None, None, "model")})
    layer = TorchModuleWrapper(torch.nn.Conv2d(3, 8, 2), name="conv")
    assert placed(layer)["conv.weight"] == ("conv/kernel", "(R, S0)")
    assert tuple(tm.shards(layer.module.weight)[0].shape) == (4, 3, 2, 2)


def test_a_wrapped_module_computes_as_on_one_device(distribute):
    torch.manual_seed(0)
    plain = wrapped()
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    expected = plain(x).detach().cpu()
    distribute({"0/kernel": COLUMNS, "2/kernel": ROWS})
    layer = TorchModuleWrapper(plain.module, name="net")
    assert [f[1] for f in placed(layer).values()] == [
        "(R, S0)",
        "(R, R)",
        "(R, S1)",
        "(R, R)",
    ]
    torch.testing.assert_close(tm.full(layer(x)).detach(), expected)


def test_a_module_older_than_the_distribution_is_named_too(distribute):
    model = keras.Sequential([keras.Input((4,)), wrapped()])
    model.compile("sgd", "mse")
    distribute({"0.weight": ROWS})
    with pytest.warns(UserWarning, match="late-distribution"):
        model.predict_on_batch(np.ones((2, 4), "float32"))
    assert placed(model)["net.0.weight"] == ("0.weight", "(R, S0)")


def test_what_keras_finds_by_a_wrapped_variables_own_path_comes_first(
    distribute,
):
    distribute({"variable": ROWS, r"net\.0\.weight": COLUMNS})
    assert placed(wrapped())["net.0.weight"] == ("variable", "(R, S0)")


def test_indices_of_a_module_list_are_segments(distribute):
    distribution = distribute(
        {r"blocks\.1\.weight": ROWS, "blocks/10/kernel": COLUMNS}
    )
    find = distribution._layout_map.__getitem__
    assert find("net.blocks.1.weight").axes == ROWS
    assert find("net.blocks.10.weight").axes == ("model", None)
    assert find("net.blocks.11.weight") is None
    assert find("net.myblocks.1.weight") is None


def test_a_pattern_that_matches_nothing_names_the_nearest_of_many(distribute):
    distribute({"densse_3/kernel": COLUMNS})
    model = keras.Sequential(
        [
            keras.Input((4,)),
            *(keras.layers.Dense(4, name=f"dense_{i}") for i in range(9)),
        ]
    )
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="unused-pattern") as record:
        model.predict_on_batch(np.ones((2, 4), "float32"))
    (message,) = [str(w.message) for w in record if "unused" in str(w.message)]
    assert "nearest  sequential/dense_3/kernel" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.predict_on_batch(np.ones((2, 4), "float32"))


def test_a_pattern_that_stands_in_the_middle_of_a_segment_is_near(distribute):
    """As `re.search` would find it, which programs for JAX are used to."""
    distribute({"ff1.*kernel": COLUMNS})
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="block_ff1")]
    )
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="unused-pattern") as record:
        model.predict_on_batch(np.ones((2, 4), "float32"))
    (message,) = [str(w.message) for w in record if "unused" in str(w.message)]
    assert "nearest  sequential/block_ff1/kernel" in message
    assert "TORCH_MESH_MATCH=search" in message


def test_a_tie_is_not_called_unused(distribute):
    distribute({"dense.*kernel": COLUMNS, "dense/k.*": ROWS})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        model.compile("sgd", "mse")
        model.predict_on_batch(np.ones((2, 4), "float32"))
    texts = [str(w.message) for w in caught]
    assert any("ambiguous-end" in t for t in texts)
    assert not any("unused-pattern" in t for t in texts)


@pytest.fixture
def log_level():
    """Sets TORCH_MESH_LOG's level for one test."""
    before = _C.log_level()
    yield _C.set_log_level
    _C.set_log_level(before)


def test_the_log_says_which_patterns_found_ends(distribute, log_level, capfd):
    log_level(1)
    distribute({"dense.*kernel": COLUMNS, ".*bias": ("model",)})
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    lines = capfd.readouterr().err.splitlines()
    assert [x for x in lines if "LayoutMap" in x] == [
        'torch_mesh: LayoutMap: "dense.*kernel" matches "dense/kernel" of '
        '"sequential/dense/kernel"'
    ]


def test_the_debug_log_says_where_each_variable_goes(
    distribute, log_level, capfd
):
    distribute({"dense.*kernel": COLUMNS})
    log_level(2)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    lines = capfd.readouterr().err.splitlines()
    assert (
        'torch_mesh: "sequential/dense/kernel" [4, 6] (R, S1), shard [4, 3], '
        '48 B per device, by "dense.*kernel"'
    ) in lines
    assert (
        'torch_mesh: "sequential/dense/bias" [6] (R, R), shard [6], '
        "24 B per device, by no pattern"
    ) in lines


def test_without_the_log_nothing_is_printed(distribute, capfd):
    distribute({"dense.*kernel": COLUMNS})
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    assert capfd.readouterr().err == ""
