"""Files written under one layout load under any other."""

import os
import subprocess
import sys

import keras
import numpy as np
import one_device
import pytest
import safetensors.torch
import torch
from one_device import digits

import torch_mesh as tm

NAMES = [None, "data=3", "batch=2 model=2"]


def make(name):
    return None if name is None else one_device.make_distribution(name)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("written", NAMES)
def test_a_file_loads_under_any_layout(written, suffix, tmp_path):
    x, y = digits()
    path = str(tmp_path / f"model{suffix}")

    def save():
        model = one_device.mlp()
        model.fit(x, y, batch_size=16, verbose=0)
        if suffix == ".keras":
            model.save(path)
        else:
            model.save_weights(path)
        return model.get_weights()

    weights = one_device.under(make(written), save)

    def load():
        if suffix == ".keras":
            model = keras.saving.load_model(path)
        else:
            model = one_device.mlp()
            model.build((None, 12))
            model.load_weights(path)
        return model.get_weights(), model.fit(
            x, y, batch_size=16, verbose=0
        ).history["loss"]

    expected = one_device.under(None, load)
    for name in NAMES:
        loaded, losses = one_device.under(make(name), load)
        one_device.assert_same(loaded, weights, 0, 0)
        one_device.assert_same(losses, expected[1])


def write_torch(model, path):
    steps = model.optimizer.iterations.value
    torch.save({"model": model.state_dict(), "steps": steps}, path)


def read_torch(model, path):
    loaded = torch.load(path)
    model.load_state_dict(loaded["model"])
    return int(loaded["steps"])


def write_safetensors(model, path):
    # Keras's state dict has several names for one parameter; such a file one.
    once = {}
    for name, value in model.state_dict(keep_vars=True).items():
        once.setdefault(id(value), (name, value.detach()))
    safetensors.torch.save_file(dict(once.values()), path)


def read_safetensors(model, path):
    found = model.load_state_dict(
        safetensors.torch.load_file(path), strict=False
    )
    assert not found.unexpected_keys
    return 5


@pytest.mark.parametrize(
    ("write", "read"),
    [(write_torch, read_torch), (write_safetensors, read_safetensors)],
    ids=["torch.save", "safetensors"],
)
@pytest.mark.parametrize("written", NAMES)
def test_a_state_dict_loads_under_any_layout(written, write, read, tmp_path):
    x, y = digits()
    path = str(tmp_path / "file")

    def save():
        model = one_device.mlp()
        model.build((None, 12))  # Keras names parameters by how it was built
        model.fit(x, y, batch_size=16, verbose=0)
        write(model, path)
        return model.get_weights(), model.predict(x, verbose=0)

    weights, predicted = one_device.under(make(written), save)
    for name in NAMES:

        def load():
            model = one_device.mlp()
            model.build((None, 12))
            before = [tm_layout(p) for p in model.parameters()]
            steps = read(model, path)
            assert steps == 5
            assert [tm_layout(p) for p in model.parameters()] == before
            return model.get_weights(), model.predict(x, verbose=0)

        loaded, again = one_device.under(make(name), load)
        one_device.assert_same(loaded, weights, 0, 0)
        one_device.assert_same(again, predicted)


def tm_layout(parameter):
    return tm.layout(parameter) if tm.is_global(parameter) else None


def test_a_file_of_a_mesh_loads_without_torch_mesh(layout_map, tmp_path):
    """`.keras`, torch.save and safetensors hold nothing of ours."""
    x, y = digits()

    def save():
        model = one_device.mlp()
        model.fit(x, y, batch_size=16, verbose=0)
        model.save(tmp_path / "model.keras")
        torch.save(dict(model.state_dict()), tmp_path / "model.pt")
        write_safetensors(model, str(tmp_path / "model.safetensors"))
        return model.layers[0].kernel.numpy()

    kernel = one_device.under(make("batch=2 model=2"), save)
    np.save(tmp_path / "kernel.npy", kernel)
    program = """
import sys, numpy as np, torch, keras, safetensors.torch
kernel = np.load("kernel.npy")
model = keras.saving.load_model("model.keras")
assert np.array_equal(model.layers[0].kernel.numpy(), kernel)
for values in (torch.load("model.pt"),
               safetensors.torch.load_file("model.safetensors")):
    found = [v for v in values.values() if tuple(v.shape) == kernel.shape]
    assert any(np.array_equal(v.detach().numpy(), kernel) for v in found)
    assert {v.device.type for v in values.values()} == {"cpu"}
assert "torch_mesh" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_tied_weights_stay_tied_in_a_torch_file(tmp_path):
    mesh = tm.Mesh({"data": 2, "model": 2})
    weight = tm.distribute(torch.randn(6, 4), mesh, ("S0", "S1"))
    path = tmp_path / "tied.pt"
    torch.save({"a": weight, "b": weight.t(), "c": weight[2:4]}, path)
    loaded = torch.load(path)
    assert torch.equal(loaded["a"], tm.full(weight))
    loaded["a"].zero_()
    assert not loaded["b"].any()
    assert not loaded["c"].any()
    # A view takes its whole storage along, as in plain torch: one of 96 bytes.
    assert loaded["c"].untyped_storage().nbytes() == 96


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_bytes_reach_the_host_without_a_copy_beside(dtype):
    """What torch.save asks of a storage, under layouts of all kinds."""
    mesh = tm.Mesh({"data": 2, "model": 3})
    plain = torch.randn(7, 5, 3).mul(9).to(dtype)
    layouts = [("R", "R"), ("S0", "R"), ("S1", "S0"), ("R", "S2"), ("S0", "S0")]
    for placements in layouts:
        x = tm.distribute(plain, mesh, placements)
        stored = x.untyped_storage().cpu()
        assert bytes(stored) == bytes(plain.untyped_storage()), placements
    a = tm.distribute(torch.ones(4, 6), mesh, ("S1", "R"))
    product = a @ tm.distribute(torch.ones(6, 2), mesh, ("S0", "R"))
    assert bytes(product.untyped_storage().cpu()) == bytes(
        torch.full((4, 2), 6.0).untyped_storage()
    )


def test_a_sharded_checkpoint_of_keras_loads_under_any_layout(tmp_path):
    """`save_weights(max_shard_size=)` writes several files."""
    path = tmp_path / "model.weights.json"

    def save():
        model = one_device.mlp()
        model.build((None, 12))
        model.save_weights(path, max_shard_size=1e-6)
        return model.get_weights()

    weights = one_device.under(make("batch=2 model=2"), save)
    assert len(list(tmp_path.iterdir())) > 2

    def load():
        model = one_device.mlp()
        model.build((None, 12))
        model.load_weights(path)
        return model.get_weights()

    for name in NAMES:
        one_device.assert_same(
            one_device.under(make(name), load), weights, 0, 0
        )


def test_a_quantised_model_with_lora_loads_under_any_layout(tmp_path):
    x, _ = digits(9)
    path = str(tmp_path / "model.keras")

    def save():
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(16), keras.layers.Dense(4)]
        )
        model.quantize("int8")
        model.layers[0].enable_lora(2)
        model.save(path)
        return model.predict(x, verbose=0)

    expected = one_device.under(make("batch=2 model=2"), save)
    for name in NAMES:
        actual = one_device.under(
            make(name),
            lambda: keras.saving.load_model(path).predict(x, verbose=0),
        )
        one_device.assert_same(actual, expected, rtol=1e-5, atol=1e-6)
