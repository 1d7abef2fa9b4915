"""Finds variables by Keras's paths and by PyTorch's parameter names.

What Keras calls `sequential/dense/kernel` is `sequential.dense.weight` to
PyTorch. One pattern of a LayoutMap finds both.

Run: python examples/02_path_adapter.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

from torch_mesh.keras import TorchPathAdapter


def main():
    adapter = TorchPathAdapter()
    print(adapter.keras_to_torch("sequential/dense/kernel"))
    print(adapter.torch_to_keras("sequential.dense.kernel"))

    for path in (
        "dense/kernel",
        "sequential/dense/kernel",
        "sequential.dense.kernel",
        "sequential.dense.weight",
        "sequential/dense/bias",
    ):
        found = adapter.match_pattern("dense.*kernel", path)
        print(f"dense.*kernel finds {path}: {found}")

    # A LayoutMap looks up by the same rule.
    mesh = keras.distribution.DeviceMesh(
        (2, 2), ["batch", "model"], [f"cpu:{i}" for i in range(4)]
    )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["dense.*kernel"] = (None, "model")
    print(layouts["sequential/dense/kernel"].axes)
    # PyTorch stores the transpose of a Dense kernel: [out, in].
    print(layouts["sequential.dense.weight"].axes)
    print(layouts["sequential/conv/kernel"])


if __name__ == "__main__":
    main()
