"""A large weight is whole nowhere: not drawn, not saved, not loaded."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import one_device
import pytest
import torch
from keras.distribution import ModelParallel, set_distribution

import torch_mesh as tm
from torch_mesh import blocks
from torch_mesh.keras import initial, saving

ROOT = pathlib.Path(__file__).parents[2]

INITIALIZERS = {
    "glorot_uniform": {},
    "glorot_normal": {},
    "he_normal": {"seed": 3},
    "lecun_uniform": {"seed": 3},
    "RandomNormal": {"mean": 1.0, "stddev": 2.0},
    "RandomUniform": {"minval": -2.0, "maxval": 1.0},
    "TruncatedNormal": {"mean": 0.5},
    "VarianceScaling": {"distribution": "untruncated_normal"},
    "zeros": {},
    "ones": {},
    "Constant": {"value": 2.5},
    "orthogonal": {},
    "identity": {},
}
# Blocks of 64 elements: the last one is whole, of 60 (not a multiple of 16),
# of 1 (too short to end a normal draw), and there is one only.
SHAPES = [(8, 16), (11, 16, 4), (31, 4), (43, 3), (5, 13), (3, 3)]


@pytest.fixture
def split(layout_map):
    layout_map[".*weight.*"] = ("batch", "model")
    distribution = ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    set_distribution(distribution)
    return distribution


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(initial, "BLOCK_ELEMENTS", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)


def create(name, shape, dtype):
    initializer = keras.initializers.get(
        {"class_name": name, "config": INITIALIZERS[name]}
    )
    return keras.Variable(
        initializer, shape=shape, dtype=dtype, name="weight"
    ), initializer


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", INITIALIZERS)
def test_values_drawn_in_blocks_are_one_devices(
    split, small_blocks, name, dtype
):
    if dtype != "float32" and name == "orthogonal":
        pytest.skip("torch has no QR of this dtype on CPU")
    for shape in SHAPES:
        if name == "identity" and len(shape) != 2:
            continue

        def draw(shape=shape):
            variable, initializer = create(name, shape, dtype)
            return variable, torch.rand(3), initializer

        plain, after, _ = one_device.under(None, draw)
        variable, after_ours, _ = one_device.under(split, draw)
        assert tm.layout(variable.value).placements == ("S0", "S1")
        np.testing.assert_array_equal(
            variable.numpy(), plain.numpy(), err_msg=str(shape)
        )
        assert torch.equal(after, after_ours)


def test_two_draws_of_one_seed_generator_differ_as_on_one_device(
    split, small_blocks
):
    def draw():
        seed = keras.random.SeedGenerator(9)
        initializer = keras.initializers.GlorotNormal(seed)
        made = [
            keras.Variable(initializer, shape=(20, 9), name="weight")
            for _ in range(2)
        ]
        return [v.numpy() for v in made] + [seed.state.numpy()]

    first, second, state = one_device.under(None, draw)
    assert not np.array_equal(first, second)
    one_device.assert_same(
        one_device.under(split, draw), [first, second, state], 0, 0
    )


def test_a_users_initializer_is_called_once(split, small_blocks):
    calls = []

    class Ours(keras.initializers.GlorotUniform):
        def __call__(self, shape, dtype=None):
            calls.append(shape)
            return super().__call__(shape, dtype) * 2

    def draw():
        return keras.Variable(Ours(1), shape=(20, 9), name="weight").numpy()

    expected = one_device.under(None, draw)
    one_device.assert_same(one_device.under(split, draw), expected, 0, 0)
    assert calls == [(20, 9)] * 2


def test_blocks_end_with_at_least_16_elements():
    size = initial.BLOCK_ELEMENTS
    for numel in (size, size + 1, 2 * size + 15, 3 * size + 16, size - 1):
        sizes = initial.sizes_of_blocks(numel)
        assert sum(sizes) == numel
        assert all(s % 16 == 0 for s in sizes[:-1])
        assert sizes[-1] >= 16


def test_no_device_holds_more_than_its_shard_while_a_weight_is_made(split):
    with tm.memory() as memory:
        variable = keras.Variable(
            "glorot_normal", shape=(1000, 1000), name="weight"
        )
        assert set(memory.now.values()) == {1_000_000}
    assert set(memory.peak.values()) == {1_000_000}
    assert variable.value.requires_grad


def test_a_large_assignment_goes_block_by_block(split, small_blocks):
    variable = keras.Variable("zeros", shape=(9, 10), name="weight")
    value = np.arange(90.0).reshape(10, 9).T
    with tm.memory() as memory:
        variable.assign(value)
        variable.assign(torch.from_numpy(np.ascontiguousarray(value)))
    assert memory.peak == {}
    np.testing.assert_array_equal(variable.numpy(), value.astype("float32"))
    assert tm.layout(variable.value).placements == ("S0", "S1")
    with pytest.raises(ValueError, match="must match"):
        variable.assign(value.T)
    variable.assign(variable * 2)
    np.testing.assert_array_equal(variable.numpy(), 2 * value)


# Files


def weights(dtype):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(20, dtype=dtype, name="first"),
            keras.layers.Dense(7, dtype=dtype, name="second"),
        ]
    )
    model.compile("adam", "mse")
    x = np.random.RandomState(0).rand(8, 6).astype("float32")
    model.fit(x, x[:, :1].repeat(7, 1), verbose=0)
    return model


def h5_contents(path):
    import h5py

    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = (item.dtype, dict(item.attrs), item[()].tobytes())

        file.visititems(visit)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_streamed_file_is_the_file_that_keras_writes(
    split, small_blocks, monkeypatch, tmp_path, dtype
):
    model = weights(dtype)
    model.save_weights(tmp_path / "streamed.weights.h5")
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**40)
    model.save_weights(tmp_path / "whole.weights.h5")
    streamed = h5_contents(tmp_path / "streamed.weights.h5")
    assert streamed == h5_contents(tmp_path / "whole.weights.h5")
    assert len(streamed) > 4


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_file_is_loaded_block_by_block(
    split, small_blocks, tmp_path, dtype, suffix
):
    path = tmp_path / f"model{suffix}"
    model = weights(dtype)
    state = [v.numpy() for v in model.variables + model.optimizer.variables]
    if suffix == ".keras":
        model.save(path)
        loaded = keras.saving.load_model(path)
    else:
        model.save_weights(path)
        loaded = weights(dtype)
        loaded.load_weights(path)
    found = [v.numpy() for v in loaded.variables + loaded.optimizer.variables]
    one_device.assert_same(
        [a.astype("float32") for a in found],
        [a.astype("float32") for a in state],
        0,
        0,
    )
    assert tm.layout(loaded.layers[0].kernel.value).placements == ("S0", "S1")
    assert os.listdir(tmp_path) == [path.name]


def test_weights_come_from_an_archive_too(split, small_blocks, tmp_path):
    path = tmp_path / "model.keras"
    model = weights("float32")
    model.save(path)
    other = weights("float32")
    other.load_weights(path)
    one_device.assert_same(other.get_weights(), model.get_weights(), 0, 0)


def test_a_stored_array_acts_as_the_array(tmp_path):
    import h5py

    value = np.arange(12.0, dtype="float32").reshape(3, 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = saving.StoredArray(
            file.create_dataset("a", data=value), value.dtype
        )
        assert (stored.shape, stored.ndim, stored.size) == ((3, 4), 2, 12)
        assert (len(stored), stored.nbytes) == (3, 48)
        np.testing.assert_array_equal(stored * 2 + 1, value * 2 + 1)
        np.testing.assert_array_equal(stored[1:, 2], value[1:, 2])
        np.testing.assert_array_equal(np.transpose(stored), value.T)
        np.testing.assert_array_equal(stored.reshape(-1), value.reshape(-1))
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(stored), value)
        with pytest.raises(AttributeError):
            getattr(stored, "no_such_thing")  # noqa: B009


@pytest.mark.parametrize("separate", [[], ["--separate"]])
def test_memory_stays_within_shards_and_a_block(separate):
    """The benchmark's own limits, on a model of 16 million parameters."""
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "large_model.py"]
        + ["--millions", "16", "--json", *separate],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert result.returncode == 0, result.stderr
    records = json.loads(result.stdout.splitlines()[-1])
    assert [r["phase"] for r in records] == [
        "create",
        "save .weights.h5",
        "load .weights.h5",
        "save .keras",
        "load .keras",
        "torch.save",
        "torch.load",
        "save safetensors",
        "load safetensors",
    ]
