"""What is said of layout maps and of models that move, and when."""

import logging
import warnings

import keras
import numpy as np
import pytest
from keras.distribution import (
    DataParallel,
    LayoutMap,
    ModelParallel,
    set_distribution,
)

import torch_mesh.keras
from torch_mesh import _C

X = np.ones((4, 6), "float32")


def model_of(*names, name="net"):
    model = keras.Sequential(
        [keras.Input((6,)), *(keras.layers.Dense(4, name=n) for n in names)],
        name=name,
    )
    model.compile("sgd", "mse")
    return model


@pytest.fixture
def distribute(mesh):
    """Puts a ModelParallel of some patterns in force."""

    def put(patterns):
        layout_map = LayoutMap(mesh)
        for pattern, axes in patterns.items():
            layout_map[pattern] = axes
        set_distribution(
            ModelParallel(layout_map=layout_map, batch_dim_name="batch")
        )
        return layout_map

    return put


def said(function, code):
    """The warnings with a code that a function gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(w.message) for w in caught if f"[{code}]" in str(w.message)]


# --- patterns -----------------------------------------------------------------


def test_patterns_without_effect_are_one_table(distribute):
    distribute(
        {
            "dense.*kernel": (None, "model"),
            ".*dense_a/kernel": ("model", None),
            "densse_a/bias": ("model",),
            "conv2d.*kernel": (None, None, None, "model"),
        }
    )
    model = model_of("dense_a")
    (text,) = said(lambda: model.predict_on_batch(X), "unused-pattern")
    assert text.splitlines() == [
        'LayoutMap: 2 of 4 patterns give no layout to a variable of "net".',
        '  hidden  "dense.*kernel"  ".*dense_a/kernel" wins: it matches all of '
        '"net/dense_a/kernel"',
        '  unused  "densse_a/bias"  nearest  net/dense_a/bias, '
        "net/dense_a/kernel",
        "Hint: torch_mesh.keras.describe(model) lists all paths, with the "
        "pattern of each; a pattern begins where a segment of the path does, "
        "or anywhere with TORCH_MESH_MATCH=search. [unused-pattern]",
    ]
    assert not said(lambda: model.predict_on_batch(X), "unused-pattern")
    assert not said(lambda: model.fit(X, X[:, :4], verbose=0), "unused-pattern")


@pytest.mark.parametrize(
    ("winner", "why"),
    [
        ("net/dense/kernel", 'it is the path "net/dense/kernel"'),
        ("n.*kernel", 'it matches all of "net/dense/kernel"'),
        (
            "d.*kernel",
            'it matches "dense/kernel" of "net/dense/kernel", a longer end '
            'than "kernel"',
        ),
    ],
)
def test_a_hidden_pattern_is_told_who_wins_and_why(distribute, winner, why):
    distribute({"kernel": (None, "model"), winner: ("model", None)})
    model = model_of("dense")
    (text,) = said(lambda: model.predict_on_batch(X), "unused-pattern")
    assert f'hidden  "kernel"  "{winner}" wins: {why}\n' in text


def test_models_that_share_a_map_give_one_table(distribute):
    """A pattern for one of them is no news of the others."""
    distribute(
        {
            "generator/dense.*kernel": (None, "model"),
            "discriminator/head.*kernel": (None, "model"),
            "critic/tail.*kernel": (None, "model"),
            "discriminator/haed.*bias": ("model",),
        }
    )
    models = [
        model_of("dense_a", name="generator"),
        model_of("head", name="discriminator"),
        model_of("tail", name="critic"),
    ]
    texts = [
        said(lambda m=model: m.predict_on_batch(X), "unused-pattern")
        for model in models * 2
    ]
    assert [len(t) for t in texts] == [0, 1, 0, 0, 0, 0]
    assert "nearest  discriminator/head/bias" in texts[1][0]


def test_a_model_that_is_only_called_is_looked_at_too(distribute):
    distribute({"densse/kernel": (None, "model")})

    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.dense = keras.layers.Dense(4, name="dense")

        def call(self, x):
            return self.dense(x)

    net = Net()
    assert len(said(lambda: net(X), "unused-pattern")) == 1
    assert not said(lambda: net(X), "unused-pattern")


def test_search_finds_a_pattern_anywhere(distribute, monkeypatch):
    monkeypatch.setenv("TORCH_MESH_MATCH", "search")
    layout_map = distribute(
        {"nse.*ker": (None, "model"), "^net/out": ("model",), "(?i)HEAD": ()}
    )
    found = layout_map["net/dense/kernel"]
    assert found.axes == (None, "model")
    assert layout_map["net/dense/kernel"] is found
    assert layout_map["net/out/bias"].axes == ("model",)
    assert layout_map["a/net/out/bias"] is None
    assert layout_map["net/head/bias"].axes == ()
    assert layout_map["net/out"].axes == ("model",)
    model = model_of("dense", "out_b")
    rows = torch_mesh.keras.describe(model).rows
    patterns = ["nse.*ker", "", "^net/out", "^net/out"]
    assert [row.pattern for row in rows] == patterns
    with pytest.raises(ValueError, match="ambiguous-pattern"):
        layout_map["net/out/dense/kernel"]
    monkeypatch.delenv("TORCH_MESH_MATCH")
    assert distribute({"nse.*ker": ("model",)})["net/dense/kernel"] is None


def test_search_reports_hidden_patterns(distribute, monkeypatch):
    monkeypatch.setenv("TORCH_MESH_MATCH", "search")
    distribute({"ernel": (None, "model"), "net/dense/kernel": ("model", None)})
    model = model_of("dense")
    (text,) = said(lambda: model.predict_on_batch(X), "unused-pattern")
    assert '"net/dense/kernel" wins: it is the path' in text


# --- the log ------------------------------------------------------------------


@pytest.fixture
def log_level():
    """Sets TORCH_MESH_LOG's level for one test."""
    before = _C.log_level()
    yield _C.set_log_level
    _C.set_log_level(before)


def test_a_built_model_is_one_line_of_the_log(distribute, log_level, capfd):
    log_level(1)
    distribute({".*kernel": (None, "model"), "conv.*bias": ("model",)})
    model = model_of("dense", "head")
    for _ in range(2):
        model.predict_on_batch(X)
    lines = capfd.readouterr().err.splitlines()
    assert [x for x in lines if '"net" on' in x] == [
        'torch_mesh: "net" on batch=2 model=2: 4 variables, 28 parameters and '
        "112 B per device, 192 B in all; patterns: 1 used, 0 hidden, 1 unused "
        '("conv.*bias")'
    ]


def test_data_parallel_is_one_line_without_patterns(devices, log_level, capfd):
    log_level(1)
    set_distribution(DataParallel(devices=devices))
    model_of("dense").predict_on_batch(X)
    lines = capfd.readouterr().err.splitlines()
    assert [x for x in lines if '"net" on' in x] == [
        'torch_mesh: "net" on batch=4: 2 variables, 28 parameters and 112 B '
        "per device, 112 B in all"
    ]


def test_a_program_that_logs_at_info_gets_nothing_unless_it_asks(
    distribute, caplog
):
    caplog.set_level(logging.INFO)  # of the root, as basicConfig does

    def build():
        distribute({"dense.*kernel": (None, "model"), "conv.*": ("model",)})
        model_of("dense").predict_on_batch(X)
        return [r for r in caplog.records if r.name.startswith("torch_mesh")]

    assert build() == []
    caplog.set_level(logging.INFO, logger="torch_mesh")
    assert any('"net" on batch=2' in r.getMessage() for r in build())


# --- models that move ---------------------------------------------------------


def late(model):
    (text,) = said(
        lambda: model.fit(X, X[:, :4], verbose=0), "late-distribution"
    )
    return text


def test_a_model_made_before_says_so(devices):
    model = model_of("dense")
    set_distribution(DataParallel(devices=devices))
    text = late(model)
    assert 'variables of "net" move to the mesh. They were\n' in text
    assert "made before the distribution was set" in text
    assert "call set_distribution before the model is built" in text


def test_a_model_of_a_scope_that_was_left_says_so(devices):
    with DataParallel(devices=devices).scope():
        model = model_of("dense")
    text = late(model)
    assert "move to cpu" in text
    assert "on the mesh of a distribution that has ended: its scope" in text
    assert "present" not in text


def test_a_model_after_set_distribution_of_none_says_so(devices):
    set_distribution(DataParallel(devices=devices))
    model = model_of("dense")
    model.fit(X, X[:, :4], verbose=0)
    set_distribution(None)
    assert "set_distribution(None)" in late(model)


def test_a_model_of_another_distribution_says_so(devices):
    set_distribution(DataParallel(devices=devices))
    model = model_of("dense")
    set_distribution(DataParallel(devices=devices[:2]))
    assert "made under another distribution" in late(model)


@pytest.mark.parametrize("fits_first", [False, True])
def test_a_model_that_was_taken_off_the_mesh_says_so(devices, fits_first):
    set_distribution(DataParallel(devices=devices))
    model = model_of("dense")
    if fits_first:
        model.fit(X, X[:, :4], verbose=0)
    model.to("cpu")
    assert 'taken off the mesh since, as by model.to("cpu")' in late(model)
    assert {v.value.device.type for v in model.variables} == {"mesh"}


def test_a_model_made_under_keras_device_says_so(devices):
    set_distribution(DataParallel(devices=devices))
    with keras.device("cpu"):
        model = model_of("dense")
    assert "made under keras.device, which holds inside" in late(model)
    assert not said(
        lambda: model.fit(X, X[:, :4], verbose=0), "late-distribution"
    )


def test_a_gathered_model_says_so(devices):
    set_distribution(DataParallel(devices=devices))
    model = model_of("dense")
    torch_mesh.keras.gather(model)
    assert "taken off the mesh by torch_mesh.keras.gather" in late(model)
