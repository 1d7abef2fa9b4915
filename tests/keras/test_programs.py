"""Programs that users write, as they stand."""

import os
import subprocess
import sys

import keras

PROLOGUE = """
import numpy as np
import keras
from keras.src.distribution import (
    DeviceMesh, TensorLayout, LayoutMap, ModelParallel, DataParallel,
    set_distribution)
x = np.random.rand(50, 8).astype("float32")
y = np.random.randint(0, 4, 50)
layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4)]
devices = keras.distribution.list_devices()
"""

DATA_PARALLEL = """
set_distribution(DataParallel(devices=devices))
model = keras.Sequential(layers)
"""

MODEL_PARALLEL = """
devices = devices[:4]
mesh = DeviceMesh(shape=(2, 2), axis_names=["batch", "model"], devices=devices)
layout_map = LayoutMap(mesh)
layout_map["dense.*kernel"] = TensorLayout([None, "model"], mesh)
layout_map["dense.*bias"] = TensorLayout(["model"], mesh)
set_distribution(ModelParallel(layout_map=layout_map, batch_dim_name="batch"))
model = keras.Sequential(layers)
"""

EPILOGUE = """
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
history = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history
assert np.isfinite(history["loss"]).all()
assert model.predict(x, verbose=0).shape == (50, 4)
kernel = model.layers[0].kernel.value
print(kernel.device, [list(s.shape) for s in torch_mesh.shards(kernel)])
"""


def start(program, **variables):
    environment = {**os.environ, "KERAS_BACKEND": "torch", **variables}
    environment.pop("KERAS_TORCH_DEVICE", None)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*programs):
    """What programs print, each in a process of its own, all at once."""
    outputs = []
    for process in [start(program) for program in programs]:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        outputs.append(output.strip())
    return outputs


def test_programs_run_with_nothing_but_the_package_installed():
    """`import torch_mesh` stands at the end, only to look at the result."""
    last = EPILOGUE.replace("kernel = ", "import torch_mesh\nkernel = ")
    replicated, split = run(
        PROLOGUE + DATA_PARALLEL + last, PROLOGUE + MODEL_PARALLEL + last
    )
    assert replicated.startswith("mesh:0 [[8, 16], [8, 16], ")
    assert split == "mesh:0 [[8, 8], [8, 8], [8, 8], [8, 8]]"


def test_keras_alone_loads_no_part_of_the_engine():
    program = (
        "import sys, keras, keras.distribution\n"
        "m = keras.Sequential([keras.layers.Dense(2)])\n"
        "m.compile('sgd', 'mse')\n"
        "import numpy as np\n"
        "m.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)\n"
        "print([n for n in sys.modules if n == 'torch_mesh'\n"
        "       or n.startswith('torch_mesh._C')])\n"
        "print(keras.src.backend.torch.core.get_device())\n"
    )
    (output,) = run(program)
    assert output.splitlines() == ["[]", "cpu"]


def test_keras_trains_the_same_with_and_without_the_package():
    program = (
        "import keras\n"
        "import numpy as np\n"
        "keras.utils.set_random_seed(0)\n"
        "x = np.random.rand(50, 8)\n"
        "y = np.random.randint(0, 4, 50)\n"
        "layers = [keras.layers.Dense(4), keras.layers.Dropout(0.5)]\n"
        "m = keras.Sequential(layers)\n"
        "m.compile('adam', keras.losses.SparseCategoricalCrossentropy(True))\n"
        "print(m.fit(x, y, epochs=3, verbose=0).history['loss'])\n"
    )
    without = "import os\nos.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'] = '0'\n"
    ours, stock = run(program, without + program)
    assert ours == stock


def test_the_environment_asks_for_the_log():
    program = PROLOGUE + MODEL_PARALLEL + "model.build((None, 8))\n"
    place = 'torch_mesh: "sequential/dense/kernel" [8, 16] (R, S1), shard'
    end = 'torch_mesh: LayoutMap: "dense.*kernel" matches "dense/kernel"'
    started = {
        level: start(program, TORCH_MESH_LOG=level)
        for level in ("", "info", "debug")
    }
    errors = {}
    for level, process in started.items():
        _, errors[level] = process.communicate(timeout=200)
        assert process.returncode == 0, errors[level]
    assert "torch_mesh:" not in errors[""]
    assert end in errors["info"] and place not in errors["info"]
    assert end in errors["debug"] and place in errors["debug"]


def test_list_devices_offers_at_least_four(monkeypatch):
    monkeypatch.delenv("TORCH_MESH_CPU_DEVICES", raising=False)
    assert 4 <= len(keras.distribution.list_devices("cpu")) <= 8
