"""The two models of the demo train alike however processes have the mesh."""

import functools

import numpy as np
import pytest
from tests.processes import spawn

# Dropout is on. What runs before this one has saved is loaded at the end.
PROGRAM = """
import pathlib
sys.path.insert(0, {examples!r})
import digits, gpt
kind, out, earlier = {kind!r}, pathlib.Path({out!r}), {earlier!r}
example = digits if kind == "digits" else gpt
keras.utils.set_random_seed(0)
if {is_on_mesh}:
    keras.distribution.set_distribution(
        example.distribution((4,) if kind == "digits" else (2, 2))
    )
if kind == "digits":
    (x, y), (x_test, y_test) = digits.load_data()
    x, y = x[:600], y[:600]
else:
    (x, y), (x_test, y_test) = gpt.load_data(num_train=270, num_test=33)
model = example.build_model(seed=0)

class Losses(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        losses.append(logs["loss"])

losses = []
history = model.fit(
    x, y, batch_size=example.BATCH_SIZE, epochs=1, verbose=0,
    callbacks=[Losses()], validation_data=(x_test[:33], y_test[:33]),
).history
model.save_weights(out / "saved.weights.h5")
weights = model.get_weights()
for folder in map(pathlib.Path, earlier):
    for value in model.trainable_variables:
        value.assign(keras.ops.zeros_like(value))
    model.load_weights(folder / "saved.weights.h5")
    expected = np.load(folder / "0.npz")
    for i, value in enumerate(model.get_weights()):
        assert np.array_equal(value, expected[f"arr_{{i}}"]), (folder, i)
np.savez(
    out / f"{{me}}.npz", *weights, losses=losses, val_loss=history["val_loss"],
    val_accuracy=history["val_accuracy"],
)
"""

# Numbers of devices of each process; () is one plain device.
SPREADS = [(), (4,), (2, 2), (1, 1, 1, 1), (2, 1, 1)]


def run(kind, devices, folder, earlier):
    """What each process of these numbers of devices found."""
    folder.mkdir(parents=True)
    count = max(len(devices), 1)
    # What is alone on the mesh computes as several processes do.
    apart = {"TORCH_MESH_CPU_MEMORIES": "separate"} if count == 1 else {}
    spawn.check(
        PROGRAM.format(
            examples=str(spawn.ROOT / "examples"),
            kind=kind,
            out=str(folder),
            earlier=list(map(str, earlier)),
            is_on_mesh=bool(devices),
        ),
        ids=range(count),
        start=spawn.JOIN.format(count=count) if count > 1 else "",
        environment=lambda i: {
            "TORCH_MESH_CPU_DEVICES": str(devices[i] if devices else 1),
            **apart,
        },
        addresses=spawn.free_addresses(1),
    )
    return [dict(np.load(folder / f"{i}.npz")) for i in range(count)]


@pytest.fixture(scope="module")
def found_by(tmp_path_factory):
    """What all spreads of a model found, in their order; run once."""

    @functools.cache
    def found(kind):
        root = tmp_path_factory.mktemp(kind)
        folders = [root / str(i) for i in range(len(SPREADS))]
        results = [
            run(kind, devices, folders[i], folders[:i])
            for i, devices in enumerate(SPREADS)
        ]
        # Those before load what those after have saved.
        for devices in SPREADS[:2]:
            run(kind, devices, root / f"again {devices}", folders)
        return results

    return found


@pytest.mark.parametrize("kind", ["digits", "gpt"])
def test_losses_and_weights_are_those_of_one_device(kind, found_by):
    [plain], *others = found_by(kind)
    assert len(plain["losses"]) >= 9
    for of_spread in others:
        for of_process in of_spread:
            assert of_process.keys() == plain.keys()
            for name, value in of_process.items():
                rtol, atol = (1e-4, 1e-4) if "arr" in name else (1e-5, 1e-5)
                np.testing.assert_allclose(
                    value, plain[name], rtol, atol, err_msg=name
                )


@pytest.mark.parametrize("kind", ["digits", "gpt"])
def test_bits_are_those_of_any_other_spread(kind, found_by):
    _, *others = found_by(kind)
    first = others[0][0]
    for of_spread in others:
        for of_process in of_spread:
            for name, value in of_process.items():
                assert np.array_equal(value, first[name]), name
