"""Keras over one mesh of two processes: the numbers of one process."""

import json

import numpy as np
import pytest
import spawn

# Each process also trains without a mesh, by itself: the numbers to be had.
TRAIN = """
import contextlib, io, json, os, pathlib, warnings
warnings.simplefilter("error", UserWarning)
lib = distribution_lib
x = np.random.default_rng(0).normal(size=(22, 6)).astype("float32")
y = (x @ np.ones((6, 1), "float32")) ** 2
folder = pathlib.Path(os.environ["FOLDER"])

def build():
    keras.utils.set_random_seed(7)
    model = keras.Sequential([
        keras.Input((6,)),
        keras.layers.Dense(8, activation="tanh"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1),
    ])
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    return model

def spanning():
    devices = lib.list_devices()
    assert len(devices) == 4
    if os.environ["KIND"] == "data":
        return keras.distribution.DataParallel()
    mesh = keras.distribution.DeviceMesh((2, 2), ["data", "model"], devices)
    layout_map = keras.distribution.LayoutMap(mesh)
    layout_map[".*kernel"] = (None, "model") if os.environ[
        "KIND"] == "model" else ("data", "model")
    return keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="data")

def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

def same(model, plain):
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        close(a, b)

distribution = spanning()
"""

TWO_DEVICES = {"TORCH_MESH_CPU_DEVICES": "2", "TORCH_MESH_TIMEOUT": "60"}


@pytest.fixture
def environment(tmp_path):
    """A function from kind of distribution to variables of a process."""

    def of(kind):
        more = {"FOLDER": str(tmp_path), "KIND": kind, **TWO_DEVICES}
        return lambda i: more

    return of


def test_a_backup_that_cannot_be_read_gives_way_to_the_one_before(
    environment, tmp_path
):
    outputs = spawn.check(
        TRAIN
        + """
from torch_mesh import job

class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise RuntimeError("stopped")

class Began(keras.callbacks.Callback):
    epochs = ()
    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += epoch,

def spoil():
    job.meet("the test", [0, 1])
    if me == 0:
        with open(folder / "backup" / "latest.weights.h5", "w") as f:
            f.write("0")
    job.meet("the test", [0, 1])

def backup():
    return keras.callbacks.BackupAndRestore(
        folder / "backup", double_checkpoint=True, delete_checkpoint=False)

def fit(model, *callbacks):
    model.fit(x, y, batch_size=8, epochs=5, verbose=0, shuffle=False,
              callbacks=[backup(), *callbacks])

plain = build()
plain.fit(x, y, batch_size=8, epochs=5, verbose=0, shuffle=False)
with distribution.scope():
    try:
        fit(build(), Stop())
        raise SystemExit("no error")
    except RuntimeError as error:
        assert str(error) == "stopped", error
    spoil()
    model, began = build(), Began()
    fit(model, began)
    assert began.epochs == (2, 3, 4), began.epochs
    # Without any that can be read all say so, and none waits.
    spoil()
    if me == 0:
        (folder / "backup" / "latest.weights.h5.bkp").unlink()
    job.meet("the test", [0, 1])
    try:
        fit(build())
        raise SystemExit("no error")
    except OSError as error:
        print("refused")
""",
        environment=environment("data"),
    )
    assert all("refused" in output for output in outputs), outputs


def test_files_logs_and_results_are_those_of_one_program(environment, tmp_path):
    outputs = spawn.check(
        TRAIN
        + """
plain = build()
options = dict(batch_size=8, epochs=2, validation_split=0.25)
expected = plain.fit(x, y, verbose=0, **options).history
results = plain.predict(x, verbose=0), plain.evaluate(x, y, verbose=0)
with distribution.scope():
    model = build()
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        history = model.fit(x, y, verbose=2, callbacks=[
            keras.callbacks.CSVLogger(folder / "log.csv"),
            keras.callbacks.ModelCheckpoint(folder / "all" / "{epoch}.keras"),
            keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5", save_weights_only=True,
                save_best_only=True, monitor="loss", verbose=1),
            keras.callbacks.BackupAndRestore(
                folder / "backup", delete_checkpoint=False),
        ], **options).history
    assert bool(shown.getvalue()) == (me == 0), shown.getvalue()
    for name, values in expected.items():
        close(history[name], values)
    same(model, plain)
    # Equal bits in both processes, and none is of one process alone.
    bits = [v.tobytes().hex() for v in map(np.asarray, model.get_weights())]
    predicted = model.predict(x, verbose=0)
    evaluated = model.evaluate(x, y, verbose=0)
    close(predicted, results[0])
    close(evaluated, results[1])

    model.save(folder / "model.keras")
    assert model.save(folder / "model.keras") is None
    model.save_weights(folder / "model.weights.h5")
    keras.saving.save_model(model, folder / "public.keras")
    memory = io.BytesIO()
    keras.src.saving.saving_lib.save_model(model, memory)
    again = keras.saving.load_model(folder / "model.keras")
    close(again.predict(x, verbose=0), predicted)
    fresh = build()
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(folder / "model.weights.h5")
    same(fresh, plain)
    resumed = build()
    resumed.fit(x, y, verbose=0, callbacks=[
        keras.callbacks.BackupAndRestore(folder / "backup")], **options)
    same(resumed, plain)
    # A model without variables is of all processes, too.
    bare = keras.Sequential([keras.Input((6,)), keras.layers.Flatten()])
    for i in range(3):
        bare.save(folder / "bare.keras")
        keras.saving.load_model(folder / "bare.keras")
    # What all refuse leaves nothing behind for the next save to find.
    for name in ("model.no", "model.no"):
        try:
            model.save(folder / name)
            raise SystemExit("no error")
        except ValueError as error:
            assert "Invalid filepath extension" in str(error), str(error)
    try:
        model.save(folder / "none" / "model.keras")
        raise SystemExit("no error")
    except OSError as error:
        assert me == 0 or "[not-written]" in str(error), str(error)
        assert me == 0 or "FileNotFoundError" in str(error), str(error)
alone = keras.saving.load_model(folder / "model.keras")
same(alone, plain)
print(json.dumps([bits, history, predicted.tolist(), evaluated]))
""",
        environment=environment("data"),
    )
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == [
        "all",
        "bare.keras",
        "best.weights.h5",
        "log.csv",
        "model.keras",
        "model.weights.h5",
        "public.keras",
    ]
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == [
        "1.keras",
        "2.keras",
    ]
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("epoch,")
    history = json.loads(outputs[0].splitlines()[-1])[1]
    assert np.isclose(float(rows[2].split(",")[1]), history["loss"][1]) or (
        np.isclose(float(rows[2].split(",")[1]), history["mae"][1])
    )


DATA = """
class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3
    def __getitem__(self, i):
        return x[8 * i : 8 * i + 8], y[8 * i : 8 * i + 8]

def generator():
    for i in range(6):
        yield Batches()[i % 3]

def loader():
    dataset = torch.utils.data.TensorDataset(
        torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)

kinds = {
    "arrays": lambda: dict(x=x, y=y, batch_size=8),
    "generator": lambda: dict(
        x=generator(), steps_per_epoch=3, shuffle=False),
    "PyDataset": lambda: dict(x=Batches(), shuffle=False),
    "DataLoader": lambda: dict(x=loader(), shuffle=False),
    # Where a distribution is in force these are tensors of the mesh.
    "Keras's tensors": lambda: dict(
        x=keras.ops.array(x), y=keras.ops.array(y), batch_size=8),
    "their DataLoader": lambda: dict(x=torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(keras.ops.array(x), keras.ops.array(y)),
        batch_size=8), shuffle=False),
    # Fewer rows than devices.
    "one row": lambda: dict(
        x=keras.ops.array(x[:1]), y=keras.ops.array(y[:1])),
}
for name, kind in kinds.items():
    plain = build()
    plain.fit(**kind(), epochs=2, verbose=0)
    with distribution.scope():
        model = build()
        model.fit(**kind(), epochs=2, verbose=0)
        same(model, plain)

# Each process with its own rows of each batch; the last ones are uneven.
if os.environ["KIND"] == "data":
    distribution.auto_shard_dataset = False
    def parts(rows):
        for part in (slice(0, 8), slice(8, 16), slice(16, 22)):
            yield x[part][rows], y[part][rows]
    options = dict(steps_per_epoch=3, shuffle=False, verbose=0)
    plain = build()
    plain.fit(parts(slice(0, 8)), **options)
    with distribution.scope():
        model = build()
        model.fit(parts(slice(4 * me, 4 * me + 4)), **options)
        same(model, plain)
"""


@pytest.mark.parametrize("kind", ["data", "model", "both"])
def test_data_of_any_kind(environment, kind):
    spawn.check(TRAIN + DATA, environment=environment(kind))
