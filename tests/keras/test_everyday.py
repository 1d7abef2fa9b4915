"""What one looks at every day: summaries, reprs, the log of a training."""

import keras
import numpy as np
import pytest
from keras.distribution import (
    DataParallel,
    LayoutMap,
    ModelParallel,
    set_distribution,
)

import torch_mesh as tm
from torch_mesh.keras import CollectiveLogger, describe

X = np.linspace(-1, 1, 48, dtype="float32").reshape(8, 6)
Y = np.arange(8, dtype="float32").reshape(8, 1) / 8


def model_of():
    keras.utils.set_random_seed(3)
    inner = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)],
        name="inner",
    )
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            inner,
            keras.layers.Dense(1, name="head"),
        ],
        name="net",
    )
    model.compile("adam", "mse")
    return model


def summary(model, **arguments):
    lines = []
    model.summary(
        print_fn=lambda text: lines.extend(text.split("\n")), **arguments
    )
    return lines


def cells(lines):
    """The texts of a summary's table, by the name of the layer."""
    rows, name = {}, None
    for line in lines:
        if line.startswith("│"):
            texts = [cell.strip() for cell in line.split("│")[1:-1]]
            if texts[2]:
                name = texts[0].removeprefix("└ ").split(" ")[0]
                rows[name] = [[] for _ in texts]
            for column, text in zip(rows[name], texts, strict=True):
                column.append(text)
    return {
        name: [" ".join(filter(None, column)) for column in columns]
        for name, columns in rows.items()
    }


# --- summaries ----------------------------------------------------------------


def test_a_summary_shows_layouts_and_bytes_per_device(layout_map, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    set_distribution(ModelParallel(layout_map=layout_map))
    model = model_of()
    lines = summary(model, expand_nested=True)
    text = "\n".join(lines)
    assert "Layout" in text and "Bytes" in text
    found = {name: row[-2:] for name, row in cells(lines).items()}
    assert found == {
        "dense_1": ["kernel (R, S1) bias (R, S0)", "112 B"],
        "batch_normalization": ["(R, R)", "128 B"],
        "inner": ["kernel (R, S1) bias (R, S0)", "36 B"],
        "dense": ["kernel (R, S1) bias (R, S0)", "36 B"],
        "dropout": ["-", "-"],
        "head": ["(R, R)", "12 B"],
    }
    assert "Mesh batch=2 model=2: 288 B of weights per device" in text
    held = sum(
        tm.shards(w.value)[0].numel() * w.value.element_size()
        for w in model.weights
    )
    assert held == 288


def test_a_layer_of_many_weights_counts_its_layouts(layout_map, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    set_distribution(ModelParallel(layout_map=layout_map))
    block = keras.Sequential([keras.layers.Dense(4) for _ in range(3)])
    block.build((None, 6))
    model = keras.Sequential([keras.Input((6,)), block])
    (row,) = cells(summary(model)).values()
    assert row[-2] == "3 x (R, S1) 3 x (R, S0)"


def test_a_summary_of_a_model_with_branches_has_the_columns(
    layout_map, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "140")
    set_distribution(ModelParallel(layout_map=layout_map))
    inputs = keras.Input((6,))
    left, right = keras.layers.Dense(4)(inputs), keras.layers.Dense(4)(inputs)
    model = keras.Model(inputs, left + right)
    found = cells(summary(model, show_trainable=True))
    assert found["dense"][-2:] == ["kernel (R, S1) bias (R, S0)", "56 B"]
    assert found["add"][-2:] == ["-", "-"]


@pytest.mark.parametrize("width", ["72", "80", "200"])
def test_a_summary_fits_the_terminal(width, devices, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    set_distribution(DataParallel(devices=devices))
    lines = summary(model_of())
    assert max(map(len, lines)) <= int(width)
    assert {row[-2] for row in cells(lines).values()} >= {"(R)"}


def test_a_summary_without_a_distribution_is_keras_own(devices):
    expected = summary(model_of())
    assert not any("Layout" in line for line in expected)
    set_distribution(DataParallel(devices=devices))
    assert summary(model_of()) != expected
    set_distribution(None)
    keras.utils.clear_session()
    assert summary(model_of()) == expected


# --- reprs --------------------------------------------------------------------


def test_a_variable_shows_its_layout(layout_map):
    plain = repr(keras.Variable(np.ones(2, "float32"), name="v"))
    assert "layout" not in plain
    set_distribution(ModelParallel(layout_map=layout_map))
    layer = keras.layers.Dense(4, name="dense")
    layer.build((None, 2))
    assert repr(layer.bias) == (
        "<Variable path=dense/bias, shape=(4,), dtype=float32, "
        "layout=(R, S0), value=[0. 0. 0. 0.]>"
    )


def test_a_layout_map_shows_its_patterns(mesh):
    layout_map = LayoutMap(mesh)
    layout_map["dense.*kernel"] = (None, "model")
    layout_map["bias"] = ("model",)
    assert repr(layout_map).splitlines() == [
        "<LayoutMap on batch=2 model=2",
        "  \"dense.*kernel\"  (None, 'model')",
        "  \"bias\"           ('model',)>",
    ]
    assert repr(LayoutMap(None)) == "<LayoutMap on no mesh>"
    # A look at a map is no look-up.
    assert "_torch_mesh_lookups" not in vars(layout_map)


# --- keras.device -------------------------------------------------------------


def test_what_is_made_under_keras_device_is_plain(layout_map):
    layout_map["head/output"] = ("batch", None)
    layout_map["dense/output"] = ("batch", "model")
    expected = model_of().fit(X, Y, verbose=0, epochs=2).history["loss"]
    keras.utils.clear_session()
    set_distribution(ModelParallel(layout_map=layout_map))
    with keras.device("cpu"):
        model = model_of()
        assert model(X).device.type == "cpu"
        assert keras.layers.Dense(2)(X).device.type == "cpu"
        losses = model.fit(X, Y, verbose=0, epochs=2).history["loss"]
        made = [
            *(v.value for v in model.variables),
            *(v.value for v in model.optimizer.variables),
            *(v.value for v in model.metrics_variables),
            keras.random.normal((3,)),
            keras.ops.convert_to_tensor(X),
            keras.ops.scatter([[0]], [1.0], (3,)),
            keras.Variable(X).value,
            model.predict_on_batch(X),
            keras.random.SeedGenerator(1).state.value,
        ]
        assert not any(map(tm.is_global, made))
        assert {str(getattr(x, "device", "cpu")) for x in made} == {"cpu"}
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert keras.layers.Dense(2)(X).device.type == "mesh"


# --- the callback -------------------------------------------------------------


@pytest.mark.parametrize("parallel", ["data", "model"])
def test_a_callback_logs_what_moves_in_each_step(parallel, devices, layout_map):
    set_distribution(
        DataParallel(devices=devices)
        if parallel == "data"
        else ModelParallel(layout_map=layout_map)
    )
    model = model_of()
    logger = CollectiveLogger()
    with tm.counting() as c:
        fitted = model.fit(
            X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[logger]
        )
    assert len(logger.steps) == 4
    kinds = {kind for step in logger.steps for kind in step.collectives}
    assert any(kind.startswith("all_reduce@batch") for kind in kinds)
    for kind in kinds:
        in_steps = sum(s.collectives.get(kind, 0) for s in logger.steps)
        assert 0 < in_steps <= c.collectives[kind]
        moved = sum(s.num_bytes.get(kind, 0) for s in logger.steps)
        assert 0 < moved <= c.bytes[kind]
    history = fitted.history
    assert (
        history["collectives"][1]
        == sum(sum(s.collectives.values()) for s in logger.steps[2:]) / 2
    )
    assert (
        history["collective_bytes"][1]
        == sum(sum(s.num_bytes.values()) for s in logger.steps[2:]) / 2
    )
    held = describe(model).num_bytes + describe(model.optimizer).num_bytes
    assert history["peak_bytes"][1] > held
    assert history["peak_bytes"][1] == max(
        s.peak_bytes for s in logger.steps[2:]
    )


def test_a_callback_shows_in_the_progress_bar_and_prints(devices, capsys):
    set_distribution(DataParallel(devices=devices))
    model = model_of()
    model.fit(X, Y, verbose=2, callbacks=[CollectiveLogger(verbose=1)])
    text = capsys.readouterr().out
    assert "collective_bytes:" in text and "peak_bytes:" in text
    assert "Epoch 1: " in text and "all_reduce@batch" in text
    assert "per step, peak" in text


def test_a_callback_without_a_distribution_logs_zeros():
    model = model_of()
    logger = CollectiveLogger(verbose=1)
    history = model.fit(X, Y, verbose=0, callbacks=[logger]).history
    assert history["collectives"] == [0] and history["peak_bytes"] == [0]
    assert list(history) == [
        "loss",
        "collectives",
        "collective_bytes",
        "peak_bytes",
    ]


def test_a_fit_begins_the_steps_anew(devices):
    set_distribution(DataParallel(devices=devices))
    model = model_of()
    logger = CollectiveLogger()
    for _ in range(2):
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[logger])
    assert len(logger.steps) == 2
