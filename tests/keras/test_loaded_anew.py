"""A Keras that is loaded a second time in a process is patched like the first.

`keras.config.set_backend` does that, and so do notebooks that reload.
"""

import os
import subprocess
import sys

import pytest

USE = """
def use():
    import keras, numpy as np
    from keras.distribution import ModelParallel, LayoutMap, DeviceMesh
    from keras.distribution import TensorLayout, list_devices, set_distribution
    mesh = DeviceMesh((1, 2), ["batch", "model"], list_devices()[:2])
    layouts = LayoutMap(mesh)
    layouts["dense.*kernel"] = TensorLayout([None, "model"], mesh)
    set_distribution(
        ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    model = keras.Sequential([keras.layers.Dense(4, name="dense")])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2), "float32"), np.ones((4, 4)), verbose=0)
    import torch_mesh as tm
    print(tm.layout(model.layers[0].kernel.value))
"""
AGAIN = {
    "another backend": "import keras; keras.config.set_backend('torch')",
    "no modules left": (
        "import keras, sys\n"
        "for name in list(sys.modules):\n"
        "    if name.partition('.')[0] == 'keras':\n"
        "        del sys.modules[name]"
    ),
    "used before": (
        "use()\n"
        "import sys\n"
        "for name in list(sys.modules):\n"
        "    if name.partition('.')[0] == 'keras':\n"
        "        del sys.modules[name]"
    ),
    "a module reloaded": (
        "import importlib, keras\n"
        "import keras.src.distribution.distribution_lib as module\n"
        "importlib.reload(module)\n"
        "for name in ('ModelParallel', 'LayoutMap', 'DeviceMesh',\n"
        "             'TensorLayout', 'list_devices', 'set_distribution'):\n"
        "    setattr(keras.distribution, name, getattr(module, name))"
    ),
    "the hook loaded anew": (
        "import sys, torch\n"
        "del sys.modules['torch_mesh_autoload']\n"
        "import torch_mesh_autoload\n"
        "torch_mesh_autoload.install()"
    ),
}


@pytest.mark.parametrize("again", AGAIN)
def test_a_keras_that_is_loaded_anew_takes_distributions(again):
    result = subprocess.run(
        [sys.executable, "-c", f"{USE}\n{AGAIN[again]}\nuse()"],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split("\n")[:-1]
    assert lines == ["(R, S1)"] * (2 if again == "used before" else 1)
    assert "torch_mesh" not in result.stderr
