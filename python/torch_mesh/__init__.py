"""One PyTorch device for a whole mesh of devices.

    import torch, torch_mesh as tm
    mesh = tm.Mesh({"data": 2, "model": 2})
    x = tm.distribute(torch.randn(8, 16), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(16, 4), mesh, ("R", "S1"))
    tm.layout(x @ w)                    # (S0, S1)

Tensors on `torch.device("mesh")` are global tensors: one shard per device plus
a layout. Every op of torch works on them, below autograd.

Importing this package registers the device. Only Keras's hooks import it
without (`torch_mesh_autoload` says so): with them, `import keras` changes
nothing until a distribution is asked for.
"""

import importlib
import sys
from typing import Any

_HOME = {
    "Counting": "counters",
    "Layout": "layouts",
    "Mesh": "layouts",
    "Picture": "picture",
    "borrow": "tensors",
    "counting": "counters",
    "current_mesh": "tensors",
    "device_count": "devices",
    "distribute": "tensors",
    "explain": "tracing",
    "from_dtensor": "dtensor",
    "from_shards": "tensors",
    "full": "tensors",
    "is_global": "tensors",
    "layout": "tensors",
    "list_devices": "devices",
    "map_shards": "tensors",
    "memory": "memory",
    "redistribute": "tensors",
    "reduce_partials": "tensors",
    "register_rule": "tensors",
    "set_cpu_devices": "devices",
    "shards": "tensors",
    "to_dtensor": "dtensor",
    "trace": "tracing",
    "use": "tensors",
    "visualize": "picture",
}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'torch_mesh' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"torch_mesh.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _for_keras_hooks() -> bool:
    autoload = sys.modules.get("torch_mesh_autoload")
    return autoload is not None and autoload.is_calling_hooks()


_made_for_hooks = _for_keras_hooks()


def is_for_hooks() -> bool:
    """Whether this is the package without a device that Keras's hooks see."""
    return _made_for_hooks


if not _made_for_hooks:
    from torch_mesh import device

    device.register()
    if "torch_mesh.keras" in sys.modules:
        keras = sys.modules["torch_mesh.keras"]
