"""Lists the devices of this machine, and arranges them in a mesh.

Without a GPU there are virtual CPU devices: they share the cores and the memory
of the process, and do what real devices would do.

Run: python examples/01_devices.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

import torch_mesh as tm


def main():
    for kind in ("cpu", "gpu", "tpu"):
        count = keras.distribution.get_device_count(kind)
        names = keras.distribution.list_devices(kind)
        print(f"{kind}: {count}", *names[:8])

    tm.set_cpu_devices(6)  # or the environment: TORCH_MESH_CPU_DEVICES=6
    print("now:", *keras.distribution.list_devices("cpu"))

    mesh = tm.Mesh({"data": 2, "model": 3})
    print(mesh, "has", mesh.size, "devices")
    print("one row of it:", *mesh.devices[:3])

    # The same in Keras's words.
    device_mesh = keras.distribution.DeviceMesh(
        shape=(2, 3),
        axis_names=["data", "model"],
        devices=keras.distribution.list_devices("cpu"),
    )
    print("Keras's mesh is the same:", device_mesh.backend_mesh == mesh)

    try:
        tm.Mesh({"data": 4}, devices=["cpu:0", "cpu:1"])
    except ValueError as error:
        print("wrong number of devices:", error)


if __name__ == "__main__":
    main()
