"""Keras's paths and PyTorch's names, both ways."""

import re

import pytest

from torch_mesh.keras import TorchPathAdapter
from torch_mesh.keras.path_adapter import ends, torch_axes


def test_slashes_become_dots_and_come_back():
    adapter = TorchPathAdapter()
    assert adapter.keras_to_torch("a/b_1/kernel") == "a.b_1.kernel"
    assert adapter.torch_to_keras("a.b_1.kernel") == "a/b_1/kernel"
    assert adapter.torch_to_keras("layers.0.weight") == "layers/0/weight"


def test_a_dot_in_a_name_comes_back():
    adapter = TorchPathAdapter()
    name = adapter.keras_to_torch("block.1/dense/kernel")
    assert name == "block.1.dense.kernel"
    assert adapter.torch_to_keras(name) == "block.1/dense/kernel"
    adapter.clear_cache()
    assert adapter.torch_to_keras(name) == "block/1/dense/kernel"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("dense.*kernel", "dense/kernel", True),
        ("dense.*kernel", "sequential/dense/kernel", True),
        ("dense.*kernel", "dense.kernel", True),
        ("dense.*kernel", "dense.weight", True),
        ("dense.*kernel", "net.dense.weight", True),
        ("dense.*kernel", "dense.bias", False),
        ("dense.*kernel", "dense/kernel/scale", False),
        (r"dense\.weight", "dense/kernel", True),
        ("running_var", "bn/moving_variance", True),
        ("a+b", "a+b", True),
    ],
)
def test_a_pattern_finds_a_path_in_either_form(pattern, path, expected):
    assert TorchPathAdapter().match_pattern(pattern, path) is expected


def test_a_pattern_finds_the_keras_path_that_a_name_was_made_of():
    adapter = TorchPathAdapter()
    name = adapter.keras_to_torch("block.1/dense/kernel")
    assert adapter.match_pattern(r"block\.1/dense/kernel", name)
    adapter.clear_cache()
    assert not adapter.match_pattern(r"block\.1/dense/kernel", name)


def test_a_pattern_that_is_no_expression_is_an_error_of_re():
    with pytest.raises(re.error):
        TorchPathAdapter().match_pattern("a(", "b")


def test_a_weight_has_each_name_that_keras_may_have_for_it():
    adapter = TorchPathAdapter()
    assert adapter.other_forms("fc.weight") == (
        "fc/weight",
        "fc/kernel",
        "fc/embeddings",
        "fc/gamma",
    )
    assert adapter.other_forms("m/fc/kernel") == ("m.fc.kernel", "m.fc.weight")
    assert adapter.other_forms("seed") == ()


def test_ends_begin_at_segments():
    assert ends("a/b/c") == ("b/c", "c")
    assert ends("a.b.c") == ("b.c", "c")
    assert ends("a.b/c") == ("c",)
    assert ends("kernel") == ()


def test_a_kernel_is_permuted_as_pytorch_stores_it():
    assert torch_axes(("in", "out")) == ("out", "in")
    assert torch_axes(("h", "w", "in", "out")) == ("out", "in", "h", "w")
    assert torch_axes(("out",)) == ("out",)
