"""What all tests share: a clean mesh, seed and default dtype."""

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C


@pytest.fixture(autouse=True)
def clean_state():
    """Each test begins with no mesh in force and one seed."""
    tm.use(None)
    torch.manual_seed(1)
    yield
    tm.use(None)
    _C.separate_cpu_memories(False)
    _C.set_memories_for_testing([])
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def mesh():
    """A mesh data=2 model=2 of virtual CPU devices."""
    return tm.Mesh({"data": 2, "model": 2})


@pytest.fixture
def line():
    """A mesh of three virtual CPU devices: everything is uneven on it."""
    return tm.Mesh({"data": 3})


@pytest.fixture
def separate_memories():
    """Each virtual device has a memory of its own, as several GPUs have."""
    _C.separate_cpu_memories(True)
    yield
    _C.separate_cpu_memories(False)


@pytest.fixture(params=["one memory", "separate memories"])
def memories(request):
    """Both kinds of memory of virtual devices, one after the other."""
    _C.separate_cpu_memories(request.param != "one memory")
    yield request.param
    _C.separate_cpu_memories(False)
