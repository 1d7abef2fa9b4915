"""Training on a mesh gives what training on one plain device gives.

The examples' models, small, with dropout on, are trained for 50 steps on one
plain device and on each mesh: losses, gradients, variables and optimizer slots
are compared. Run as a program, this file makes the plain device's records:
`python test_training_equals_one_device.py FOLDER`.
"""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import digits
import gpt
import keras
import numpy as np
import pytest
import torch

NUM_STEPS = 50
MESHES = ((1,), (2,), (3,), (4,), (8,), (2, 2), (2, 4))
MODELS = ("digits", "digits_unseeded", "gpt", "gpt_unseeded")
RUNS = [
    (name, shape)
    for name in MODELS
    for shape in (((3,), (2, 2)) if name.endswith("unseeded") else MESHES)
]


def build(name):
    """Returns a small model of an example and 50 batches.

    Batches of 22 and 8 do not divide by 3; 22 does not by 4 and 8.

    Adam's epsilon is Keras's. The learning rate is low enough that training
    does not amplify the last bits: Adam divides each gradient by its size, so
    an entry whose gradient is rounding noise moves as far as any other.
    `unseeded` models draw their masks from torch's default generator.
    """
    optimizer = keras.optimizers.Adam(1e-3)
    seed = None if name.endswith("unseeded") else 0
    if name.startswith("digits"):
        batch_size = 22
        (x, y), _ = digits.load_data()
        model = digits.build_model(
            filters=8, width=32, seed=seed, optimizer=optimizer
        )
    else:
        batch_size = 8
        (x, y), _ = gpt.load_data(num_train=8 * NUM_STEPS, context=16)
        model = gpt.build_model(
            num_blocks=2,
            width=32,
            heads=4,
            context=16,
            seed=seed,
            optimizer=optimizer,
        )
    starts = [i * batch_size % len(x) for i in range(NUM_STEPS)]
    batches = [(x[i : i + batch_size], y[i : i + batch_size]) for i in starts]
    return model, batches


def train(model, batches):
    """Returns {"loss": [steps], "gradient/<path>", "after/<path>"} as float64.

    Gradients are those of step 1; "after" holds all variables of the model
    and of its optimizer at the end.
    """
    record = {}
    losses = []
    for step, (x, y) in enumerate(batches):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x, y)[0]))
        if step == 0:
            for variable in model.trainable_variables:
                gradient = variable.value.grad.detach().cpu().numpy()
                record["gradient/" + variable.path] = gradient
    for variable in model.variables + model.optimizer.variables:
        record["after/" + variable.path] = variable.numpy()
    record["loss"] = np.array(losses)
    return {name: np.asarray(a, "float64") for name, a in record.items()}


def plain_records(folder):
    """Returns {(model, number of threads): record} of one plain device."""
    records = {}
    for name in MODELS:
        for threads in (1, 2):
            with np.load(folder / f"{name}-{threads}.npz") as arrays:
                records[name, threads] = dict(arrays)
    return records


def train_from_seed(name):
    """Builds and trains a model where Keras is set to, from a fixed seed."""
    keras.utils.set_random_seed(0)
    model, batches = build(name)
    return train(model, batches)


def fit_losses():
    """Returns the losses of two epochs of `fit`, shuffled, dropout unseeded.

    The order of the batches and the dropout's masks come from torch's default
    generator in turns. 100 examples do not divide by the batches of 16.
    """
    keras.utils.set_random_seed(0)
    (x, y), _ = digits.load_data()
    model = digits.build_model(filters=8, width=32, seed=None)
    history = model.fit(x[:100], y[:100], batch_size=16, epochs=2, verbose=0)
    return history.history["loss"]


def mesh_record(name, shape):
    """Trains on the mesh in this process."""
    example = digits if name.startswith("digits") else gpt
    keras.utils.clear_session()
    with example.distribution(shape).scope():
        return train_from_seed(name)


def worst(a, b, kind):
    """Returns the largest |a - b| / |a| over the arrays of one kind, its path.

    |.| is the Euclidean norm. Arrays that are zero in both count as equal.
    """
    worst_error, worst_path = 0.0, ""
    for path in a:
        if path.startswith(kind):
            difference = np.linalg.norm(a[path] - b[path])
            error = difference / max(np.linalg.norm(a[path]), 1e-30)
            if not error <= worst_error:
                worst_error, worst_path = error, path
    return worst_error, worst_path


def worst_loss(a, b):
    """Returns the largest relative difference of two lists of losses."""
    return float(np.max(np.abs(a["loss"] - b["loss"]) / np.abs(a["loss"])))


def differences(a, b):
    """Returns one line: how far record b is from record a."""
    gradient, _ = worst(a, b, "gradient/")
    after, path = worst(a, b, "after/")
    return (
        f"loss {worst_loss(a, b):.1e}  gradients {gradient:.1e}  "
        f"variables and slots {after:.1e} ({path})"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder where the plain device's records lie."""
    folder = tmp_path_factory.mktemp("plain")
    # A process of its own, which never loads torch_mesh.
    subprocess.run(
        [sys.executable, __file__, str(folder)],
        check=True,
        env=dict(os.environ, TORCH_DEVICE_BACKEND_AUTOLOAD="0"),
    )
    return folder


@pytest.fixture(scope="module")
def records(folder):
    """Returns a function (model, mesh shape) -> (plain record, mesh record).

    Each record is made once. Printed beside the mesh's differences: how far
    plain torch with one thread is from plain torch with two.
    """
    plain = plain_records(folder)
    for name in MODELS:
        spread = differences(plain[name, 2], plain[name, 1])
        print(f"\n{name}, plain, 1 thread against 2:\n  {spread}")
    mesh = {}

    def get(name, shape):
        if (name, shape) not in mesh:
            mesh[name, shape] = mesh_record(name, shape)
            error = differences(plain[name, 2], mesh[name, shape])
            print(f"\n{name}, mesh {mesh_id(shape)}:\n  {error}")
        return plain[name, 2], mesh[name, shape]

    return get


def mesh_id(shape):
    """Returns the text of a mesh's shape: 2x4."""
    return "x".join(map(str, shape))


in_every_run = pytest.mark.parametrize(
    ("name", "shape"), RUNS, ids=[f"{name}-{mesh_id(s)}" for name, s in RUNS]
)


@in_every_run
def test_the_loss_of_every_step_is_that_of_one_device(records, name, shape):
    plain, mesh = records(name, shape)
    np.testing.assert_allclose(mesh["loss"], plain["loss"], rtol=1e-5)


@in_every_run
def test_the_first_gradients_are_those_of_one_device(records, name, shape):
    plain, mesh = records(name, shape)
    error, path = worst(plain, mesh, "gradient/")
    assert error <= 1e-5, path


@in_every_run
def test_variables_and_slots_end_as_on_one_device(records, name, shape):
    plain, mesh = records(name, shape)
    assert set(plain) == set(mesh)
    error, path = worst(plain, mesh, "after/")
    assert error <= 1e-4, path


@pytest.mark.parametrize("shape", [(2,), (3,), (2, 2)], ids=mesh_id)
def test_fit_draws_order_and_masks_as_on_one_device(folder, shape):
    plain = np.load(folder / "fit.npy")
    with digits.distribution(shape).scope():
        np.testing.assert_allclose(fit_losses(), plain, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_is_on(name):
    keras.utils.set_random_seed(0)
    model, batches = build(name)
    x, _ = batches[0]
    dropped = model(x, training=True)
    assert not torch.equal(dropped, model(x, training=False))


def main():
    folder = pathlib.Path(sys.argv[1])
    for name in MODELS:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            keras.utils.clear_session()
            np.savez(folder / f"{name}-{threads}.npz", **train_from_seed(name))
    torch.set_num_threads(2)
    np.save(folder / "fit.npy", fit_losses())


if __name__ == "__main__":
    main()
