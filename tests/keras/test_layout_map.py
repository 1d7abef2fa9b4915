"""The matching rule: exact, Keras's, an end of the path, PyTorch's form."""

import warnings

import keras
import pytest
from keras.distribution import (
    DeviceMesh,
    LayoutMap,
    ModelParallel,
    TensorLayout,
)

A, B = (None, "model"), ("model", None)


@pytest.fixture
def find(mesh):
    """find({pattern: axes}, path) gives the axes found, or None."""

    def find(patterns, path):
        layout_map = LayoutMap(mesh)
        for pattern, axes in patterns.items():
            layout_map[pattern] = axes
        layout = layout_map[path]
        return None if layout is None else layout.axes

    return find


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        # 1, 2: as Keras
        ({"a/dense/kernel": A}, "a/dense/kernel", A),
        ({"a/dense/kernel": A, ".*kernel": B}, "a/dense/kernel", A),
        ({".*dense.*kernel": A}, "sequential/dense_1/kernel", A),
        ({".*dense.*kernel": A}, "sequential/dense_1/bias", None),
        # 3: an end of the path that begins at a segment
        ({"dense.*kernel": A}, "dense/kernel", A),
        ({"dense.*kernel": A}, "sequential/dense/kernel", A),
        ({"dense.*kernel": A}, "sequential/dense_1/kernel", A),
        ({"dense.*kernel": A}, "sequential/my_dense/kernel", None),
        ({"kernel": A}, "sequential/dense/kernel", A),
        ({"kernel": A}, "sequential/dense/lora_kernel", None),
        ({"dense/kernel": A, "kernel": B}, "m/dense/kernel", A),
        ({"kernel": B, "dense/kernel": A}, "m/dense/kernel", A),
        # Keras's rule comes before a longer end
        ({"a/.*kernel": A, "dense/kernel": B}, "a/dense/kernel", A),
        # 4: PyTorch's form and names
        ({"dense.weight": A}, "sequential/dense/kernel", A),
        (
            {r"sequential\.dense\.weight": A},
            "sequential/dense/kernel",
            A,
        ),
        ({r"dense\.kernel": A}, "sequential/dense/kernel", A),
        ({"norm.weight": ("model",)}, "m/norm/gamma", ("model",)),
        ({"bn.running_mean": ("model",)}, "m/bn/moving_mean", ("model",)),
        # paths in PyTorch's form
        ({"dense.*kernel": A}, "dense.kernel", A),
        ({"dense.*weight": A}, "model.dense.weight", A),
        # found under Keras's name, the kernel is permuted as the weight is
        ({"dense.*kernel": A}, "dense.weight", ("model", None)),
        (
            {"conv/kernel": (None, None, "batch", "model")},
            "net.conv.weight",
            ("model", "batch", None, None),
        ),
        ({"dense/bias": ("model",)}, "net.dense.bias", ("model",)),
    ],
)
def test_a_path_finds(find, patterns, path, expected):
    assert find(patterns, path) == expected


def test_two_patterns_on_the_whole_path_are_keras_error(find):
    with pytest.raises(ValueError, match="matches multiple layout"):
        find({".*kernel": A, ".*dense.*": B}, "m/dense/kernel")


def test_two_patterns_on_one_end_warn_and_find_nothing(find):
    with pytest.warns(UserWarning, match="ambiguous-end") as record:
        found = find({"dense.*kernel": A, "dense/.*": B}, "m/dense/kernel")
    assert found is None
    assert '"dense/.*" matches "dense/kernel"' in str(record[0].message)


def test_the_environment_gives_keras_rule_alone(find, monkeypatch):
    monkeypatch.setenv("TORCH_MESH_MATCH", "keras")
    assert find({"dense.*kernel": A}, "sequential/dense/kernel") is None
    assert find({"dense.*kernel": A}, "dense/kernel") == A


def test_a_pattern_for_weights_does_not_split_outputs(find):
    assert find({"dense.*": A}, "sequential/dense/output") is None
    assert find({"dense.*output": A}, "sequential/dense/output") == A
    assert find({".*dense.*": A}, "sequential/dense/output") == A


def test_a_changed_map_is_asked_again(mesh):
    layout_map = LayoutMap(mesh)
    layout_map["dense/kernel"] = A
    assert layout_map["m/dense/kernel"].axes == A
    assert layout_map["m/conv/kernel"] is None
    layout_map["conv/kernel"] = B
    assert layout_map["m/conv/kernel"].axes == B
    del layout_map["dense/kernel"]
    assert layout_map["m/dense/kernel"] is None


def test_a_map_gives_its_path_adapter(layout_map):
    adapter = layout_map._get_path_adapter()
    assert adapter is layout_map._get_path_adapter()
    assert adapter.match_pattern("dense.*kernel", "dense.weight")


def build(layout_map):
    distribution = ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    with distribution.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        model.compile("sgd", "mse")
        model.predict_on_batch(keras.ops.ones((2, 6)))
        model.predict_on_batch(keras.ops.ones((2, 6)))
    return model


def test_a_pattern_that_matches_nothing_warns_once(mesh):
    layout_map = LayoutMap(mesh)
    layout_map["dense.*kernel"] = A
    layout_map["densse/bias"] = TensorLayout(["model"], mesh)
    with pytest.warns(UserWarning, match="unused-pattern") as record:
        build(layout_map)
    (message,) = [str(w.message) for w in record if "unused" in str(w.message)]
    assert 'unused  "densse/bias"  nearest  sequential/dense/bias' in message


def test_patterns_that_all_match_do_not_warn(mesh):
    layout_map = LayoutMap(mesh)
    layout_map["dense.*kernel"] = A
    layout_map["dense/output"] = ("batch", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build(layout_map)


def test_an_unknown_axis_is_named_by_keras_and_by_us():
    mesh = DeviceMesh((2,), ["model"], ["cpu:0", "cpu:1"])
    with pytest.raises(ValueError, match="Invalid axis names"):
        LayoutMap(mesh)["kernel"] = (None, "modle")
