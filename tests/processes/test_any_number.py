"""A model trains alike however many processes have the mesh between them."""

import functools

import numpy as np
import pytest
from tests.processes import spawn

# Dropout, batch normalization, clipping, Adam; a last batch that is smaller.
PROGRAM = """
import pathlib
kind, out = {kind!r}, pathlib.Path({out!r})
keras.utils.set_random_seed(0)
if {is_on_mesh}:
    if kind == "data":
        distribution = keras.distribution.DataParallel()
    else:
        mesh = keras.distribution.DeviceMesh(
            (2, 2), ["batch", "model"], keras.distribution.list_devices("cpu")
        )
        layouts = keras.distribution.LayoutMap(mesh)
        layouts["first/kernel"] = (None, "model")
        layouts["first/bias"] = ("model",)
        layouts["last/kernel"] = ("model", None)
        distribution = keras.distribution.ModelParallel(
            layout_map=layouts, batch_dim_name="batch"
        )
    keras.distribution.set_distribution(distribution)
model = keras.Sequential([
    keras.Input((20,)),
    keras.layers.Dense(32, activation="relu", name="first"),
    keras.layers.Dropout(0.3),
    keras.layers.BatchNormalization(),
    keras.layers.Dense(8, name="last"),
])
model.compile(
    optimizer=keras.optimizers.Adam(1e-2, clipnorm=1.0),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
losses = []
class Losses(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        losses.append(logs["loss"])
random = np.random.RandomState(0)
x = random.randn(90, 20).astype("float32")
y = random.randint(0, 8, 90)
history = model.fit(
    x, y, batch_size=32, epochs=2, verbose=0, callbacks=[Losses()],
    validation_data=(x[:45], y[:45]),
).history
model.save_weights(out / "saved.weights.h5")
found = dict(enumerate(model.get_weights()))
np.savez(
    out / f"{{me}}.npz",
    *(found[i] for i in sorted(found)),
    losses=losses,
    accuracy=history["accuracy"],
    val_loss=history["val_loss"],
    predicted=model.predict(x[:45], verbose=0),
)
"""


def run(kind, devices, folder):
    """What each process of the given numbers of devices found."""
    folder.mkdir()
    text = PROGRAM.format(kind=kind, out=str(folder), is_on_mesh=bool(devices))
    devices = devices or [1]
    count = len(devices)
    # What is alone on the mesh computes as several processes do.
    apart = {"TORCH_MESH_CPU_MEMORIES": "separate"} if count == 1 else {}
    results = spawn.run(
        text,
        ids=range(count),
        start=spawn.JOIN.format(count=count) if count > 1 else "",
        environment=lambda i: {
            "TORCH_MESH_CPU_DEVICES": str(devices[i]),
            **apart,
        },
        addresses=spawn.free_addresses(1),
    )
    for code, _, err in results:
        assert code == 0, err
    assert (folder / "saved.weights.h5").exists()
    return [dict(np.load(folder / f"{i}.npz")) for i in range(count)]


@pytest.fixture(scope="module")
def found_by(tmp_path_factory):
    """What the processes of a kind and numbers of devices found; run once."""

    @functools.cache
    def found(kind, devices):
        return run(kind, devices, tmp_path_factory.mktemp(kind) / "out")

    return found


@pytest.fixture(scope="module")
def plain(found_by):
    """On one plain device."""
    return found_by("data", ())[0]


def names_of_weights():
    return [f"arr_{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("kind", "devices"),
    [
        ("data", (2, 2)),
        ("data", (2, 1)),
        ("data", (4,)),
        ("model", (4,)),
        ("model", (2, 2)),
        ("model", (1, 1, 1, 1)),
        ("model", (2, 1, 1)),
    ],
    ids=str,
)
def test_numbers_are_those_of_one_device(kind, devices, plain, found_by):
    found = found_by(kind, devices)
    for of_process in found:
        assert of_process.keys() == plain.keys()
        for name in ("losses", "val_loss", "accuracy"):
            np.testing.assert_allclose(
                of_process[name], plain[name], rtol=1e-5, atol=1e-6
            )
        for name in (*names_of_weights(), "predicted"):
            np.testing.assert_allclose(
                of_process[name], plain[name], rtol=1e-4, atol=1e-5
            )
        # One answer for all.
        for name, value in of_process.items():
            assert np.array_equal(value, found[0][name]), name


@pytest.mark.parametrize(
    ("kind", "spreads"),
    [
        ("data", ((2, 2), (4,))),
        ("model", ((1, 1, 1, 1), (4,), (2, 2), (2, 1, 1))),
    ],
    ids=str,
)
def test_bits_do_not_depend_on_how_devices_are_spread(kind, spreads, found_by):
    first, *others = [found_by(kind, devices)[0] for devices in spreads]
    for other in others:
        for name, value in other.items():
            assert value.tobytes() == first[name].tobytes(), name
