"""describe(model) tells where each variable lives."""

import io

import keras
import pytest
from keras.distribution import ModelParallel, set_distribution

from torch_mesh.keras import describe


def test_every_variable_has_a_row(layout_map):
    set_distribution(ModelParallel(layout_map=layout_map))
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dropout(0.5)]
    )
    description = describe(model)
    kernel, bias, seed = description.rows
    assert kernel.path == "sequential/dense/kernel"
    assert kernel.pattern == "dense.*kernel"
    assert kernel.layout == "(R, S1)"
    assert (kernel.shape, kernel.shard_shape) == ((6, 8), (6, 4))
    assert kernel.num_bytes == 6 * 4 * 4
    assert (bias.pattern, bias.layout) == ("dense.*bias", "(R, S0)")
    assert (seed.pattern, seed.layout) == ("", "(R, R)")
    assert description.mesh == "batch=2 model=2"
    assert description.num_bytes == 96 + 16 + 8


HEAD = "variable                 pattern        layout   shape   shard   bytes"
RULE = "-----------------------  -------------  -------  ------  ------  -----"


def test_it_prints_as_a_table(layout_map):
    set_distribution(ModelParallel(layout_map=layout_map))
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    assert str(describe(model)).splitlines() == [
        "sequential on batch=2 model=2",
        HEAD,
        RULE,
        "sequential/dense/kernel  dense.*kernel  (R, S1)  [6, 8]  [6, 4]  96 B",
        "sequential/dense/bias    dense.*bias    (R, S0)  [8]     [4]     16 B",
        "total 112 B per device",
    ]


def test_rich_prints_every_path(layout_map):
    rich = pytest.importorskip("rich.console")
    set_distribution(ModelParallel(layout_map=layout_map))
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    console = rich.Console(width=100, record=True, file=io.StringIO())
    console.print(describe(model))
    text = console.export_text()
    assert "sequential/dense/kernel" in text
    assert "[6, 4]" in text
    assert "total 112 B per device" in text


def test_a_plain_model_is_on_its_plain_device():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    description = describe(model)
    assert description.mesh == ""
    assert {row.layout for row in description.rows} == {"cpu"}
    assert "sequential on no mesh" in str(description)
