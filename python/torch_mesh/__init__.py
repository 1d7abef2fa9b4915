"""One PyTorch device for a whole mesh of devices.

    import torch, torch_mesh as tm
    mesh = tm.Mesh({"data": 2, "model": 2})
    x = tm.distribute(torch.randn(8, 16), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(16, 4), mesh, ("R", "S1"))
    tm.layout(x @ w)                    # (S0, S1)

Tensors on `torch.device("mesh")` are global tensors: one shard per device plus
a layout. Every op of torch works on them, below autograd.

Importing this package registers the device; beside another accelerator, of
which torch has one, the first global tensor does, or `use(mesh)`. Keras's hooks
import it without (`torch_mesh_autoload` says so): with them, `import keras`
changes nothing until a distribution is asked for.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

_HOME = {
    "Counting": "counters",
    "DataLoader": "loading",
    "DistributedBatchSampler": "loading",
    "Layout": "layouts",
    "Mesh": "layouts",
    "Parity": "compared_runs",
    "Picture": "picture",
    "RuleCheck": "rule_check",
    "borrow": "tensors",
    "check_parity": "parity",
    "check_rule": "rule_check",
    "counting": "counters",
    "current_mesh": "in_force",
    "describe": "description",
    "device_count": "devices",
    "distribute": "tensors",
    "explain": "tracing",
    "from_dtensor": "dtensor",
    "from_local": "batch_parts",
    "from_shards": "tensors",
    "full": "tensors",
    "initialize": "processes",
    "instructions": "tracing",
    "is_global": "tensors",
    "layout": "tensors",
    "list_devices": "devices",
    "list_local_devices": "devices",
    "local_value": "tensors",
    "map_shards": "tensors",
    "memory": "memory",
    "num_processes": "job",
    "parallelize": "parallel",
    "process_id": "job",
    "redistribute": "moves",
    "redistribute_": "moves",
    "reduce_partials": "tensors",
    "register_rule": "tensors",
    "set_cpu_devices": "devices",
    "shard_optimizer": "optimizers",
    "shards": "tensors",
    "to_dtensor": "dtensor",
    "trace": "tracing",
    "use": "in_force",
    "visualize": "description",
}

__all__ = [
    "Counting",
    "DataLoader",
    "DistributedBatchSampler",
    "Layout",
    "Mesh",
    "Parity",
    "Picture",
    "RuleCheck",
    "borrow",
    "check_parity",
    "check_rule",
    "counting",
    "current_mesh",
    "describe",
    "device_count",
    "distribute",
    "explain",
    "from_dtensor",
    "from_local",
    "from_shards",
    "full",
    "initialize",
    "instructions",
    "is_global",
    "layout",
    "list_devices",
    "list_local_devices",
    "local_value",
    "map_shards",
    "memory",
    "num_processes",
    "parallelize",
    "process_id",
    "redistribute",
    "redistribute_",
    "reduce_partials",
    "register_rule",
    "set_cpu_devices",
    "shard_optimizer",
    "shards",
    "to_dtensor",
    "trace",
    "use",
    "visualize",
]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from torch_mesh.batch_parts import from_local as from_local
    from torch_mesh.compared_runs import Parity as Parity
    from torch_mesh.counters import Counting as Counting
    from torch_mesh.counters import counting as counting
    from torch_mesh.description import describe as describe
    from torch_mesh.description import visualize as visualize
    from torch_mesh.devices import device_count as device_count
    from torch_mesh.devices import list_devices as list_devices
    from torch_mesh.devices import list_local_devices as list_local_devices
    from torch_mesh.devices import set_cpu_devices as set_cpu_devices
    from torch_mesh.dtensor import from_dtensor as from_dtensor
    from torch_mesh.dtensor import to_dtensor as to_dtensor
    from torch_mesh.in_force import current_mesh as current_mesh
    from torch_mesh.in_force import use as use
    from torch_mesh.job import num_processes as num_processes
    from torch_mesh.job import process_id as process_id
    from torch_mesh.layouts import Layout as Layout
    from torch_mesh.layouts import Mesh as Mesh
    from torch_mesh.loading import DataLoader as DataLoader
    from torch_mesh.loading import (
        DistributedBatchSampler as DistributedBatchSampler,
    )
    from torch_mesh.memory import memory as memory
    from torch_mesh.moves import redistribute as redistribute
    from torch_mesh.moves import redistribute_ as redistribute_
    from torch_mesh.optimizers import shard_optimizer as shard_optimizer
    from torch_mesh.parallel import parallelize as parallelize
    from torch_mesh.parity import check_parity as check_parity
    from torch_mesh.picture import Picture as Picture
    from torch_mesh.processes import initialize as initialize
    from torch_mesh.rule_check import RuleCheck as RuleCheck
    from torch_mesh.rule_check import check_rule as check_rule
    from torch_mesh.tensors import borrow as borrow
    from torch_mesh.tensors import distribute as distribute
    from torch_mesh.tensors import from_shards as from_shards
    from torch_mesh.tensors import full as full
    from torch_mesh.tensors import is_global as is_global
    from torch_mesh.tensors import layout as layout
    from torch_mesh.tensors import local_value as local_value
    from torch_mesh.tensors import map_shards as map_shards
    from torch_mesh.tensors import reduce_partials as reduce_partials
    from torch_mesh.tensors import register_rule as register_rule
    from torch_mesh.tensors import shards as shards
    from torch_mesh.tracing import explain as explain
    from torch_mesh.tracing import instructions as instructions
    from torch_mesh.tracing import trace as trace
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(
                f"module 'torch_mesh' has no attribute {name!r}"
            )
        module = importlib.import_module(f"torch_mesh.{_HOME[name]}")
        value = getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _for_keras_hooks() -> bool:
    autoload = sys.modules.get("torch_mesh_autoload")
    return autoload is not None and autoload.is_calling_hooks()


def _find_engine() -> None:
    """Puts the engine that goes with torch where `import torch_mesh._C` looks.

    Raises:
        ImportError: if none does.
    """
    import torch

    from torch_mesh import engines

    version = str(getattr(torch, "__version__", ""))
    __path__.append(str(engines.fitting(version)))


def _load_engine() -> None:
    """Says what to do where the engine does not load.

    Raises:
        ImportError: with what the system says.
    """
    import torch

    from torch_mesh import engines

    try:
        importlib.import_module("torch_mesh._C")
    except ImportError as error:
        raise ImportError(
            "torch_mesh: its engine does not load beside torch"
            f" {torch.__version__}.\n"
            f"  system  {error}\n"
            "Hint: compile it for this torch, with"
            f" `{engines.WAY_OUT}`. [library-load]"
        ) from error


_made_for_hooks = _for_keras_hooks()


def is_for_hooks() -> bool:
    """Whether this is the package without a device that Keras's hooks see."""
    return _made_for_hooks


_find_engine()
if not _made_for_hooks:
    _load_engine()
    from torch_mesh import device

    device.register_if_alone()
    if "torch_mesh.keras" in sys.modules:
        keras = sys.modules["torch_mesh.keras"]
