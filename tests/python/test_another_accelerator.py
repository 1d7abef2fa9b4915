"""Beside another accelerator nothing is registered before the first use."""

import pytest
from programs import run_program

# Torch says that it has one, and what backward of the process belongs to.
ANOTHER = """
import torch
torch._C._accelerator_getAccelerator = lambda: torch.device("cuda")
torch.cuda.device_count = lambda: 1  # where torch is built for CUDA
def untouched():
    assert torch._C._get_privateuse1_backend_name() == "privateuseone"
    assert torch.accelerator.current_accelerator().type == "cuda"
    assert not hasattr(torch, "mesh")
    try:
        torch.device("mesh")
    except RuntimeError as error:
        assert "mesh" in str(error) and "Expected one of" in str(error), error
    else:
        raise AssertionError("the device is there")
def registered():
    assert torch._C._get_privateuse1_backend_name() == "mesh"
    assert torch.accelerator.current_accelerator().type == "cuda"
    assert torch.device("mesh").type == "mesh"
import torch_mesh as tm
untouched()
"""


def test_looking_around_registers_nothing():
    run_program(f"""{ANOTHER}
tm.list_devices()
tm.device_count("cpu")
mesh = tm.Mesh({{"data": 2}})
tm.Layout(mesh, ("S0",))
repr(mesh), repr(tm.Layout(mesh, ("S0",)))
tm.register_rule("mylib::f", "b x -> b x")
assert tm.current_mesh() is None
tm.use(None)
plain = torch.ones(2, requires_grad=True)
assert not tm.is_global(plain)
tm.full(plain * 2).sum().backward()
tm.reduce_partials([plain])
with tm.counting(), tm.memory():
    plain + 1
untouched()
""")


FIRST_USE = {
    "distribute": 'tm.distribute(torch.ones(4), mesh, ("S0",))',
    "from_shards": 'tm.from_shards([torch.ones(2)] * 2, mesh, ("S0",))',
    "borrow": 'tm.borrow(torch.ones(4), mesh, ("S0",))',
    "use": """
with tm.use(mesh):
    assert torch.ones(2, device="mesh").sum().item() == 2
""",
    "zeros": """
from torch_mesh import blocks
blocks.zeros(tm.Layout(mesh, ("S0",)), [4], torch.float32)
""",
    "pickle": """
import pickle
assert pickle.loads(
    b"ctorch_mesh_autoload\\nmesh_device\\n(NtR."
) == torch.device("mesh")
""",
}


@pytest.mark.parametrize("name", FIRST_USE)
def test_the_first_use_registers(name):
    run_program(f"""{ANOTHER}
mesh = tm.Mesh({{"data": 2}})
untouched()
{FIRST_USE[name]}
registered()
x = tm.distribute(torch.ones(4), mesh, ("S0",))
assert (x * 2).sum().item() == 8
assert x.cpu().to("mesh").device.type == "mesh"
""")


KERAS = """
import os
os.environ["KERAS_BACKEND"] = "torch"
{another}
import keras, numpy as np
from keras.src.distribution import (
    DataParallel, DeviceMesh, LayoutMap, ModelParallel, TensorLayout,
    set_distribution,
)
devices = keras.distribution.list_devices("cpu")[:4]
mesh = DeviceMesh((2, 2), ["batch", "model"], devices)
untouched()
layout_map = LayoutMap(mesh)
layout_map["dense.*kernel"] = TensorLayout([None, "model"], mesh)
set_distribution(
    ModelParallel(layout_map=layout_map, batch_dim_name="batch")
)
set_distribution(None)
set_distribution(DataParallel(devices=devices))
untouched()
{first}
registered()
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
assert tm.is_global(model.weights[0].value)
model.compile("sgd", "mse")
history = model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0)
assert np.isfinite(history.history["loss"][0])
set_distribution(None)
"""


@pytest.mark.parametrize(
    "first",
    [
        "keras.ops.convert_to_tensor([1.0, 2.0])",
        "keras.layers.Dense(3)(np.ones((4, 2)))",
    ],
)
def test_a_distribution_registers_with_its_first_tensor(first):
    run_program(KERAS.format(another=ANOTHER, first=first))


def test_without_another_accelerator_the_import_registers():
    run_program("""
import torch, torch_mesh
before = "cuda" if torch.backends.cuda.is_built() else "None"
assert torch.device("mesh").type == "mesh"
assert str(torch.accelerator.current_accelerator()) == before
""")
