"""What `keras.distribution` calls on the torch backend.

The functions that Keras's distribution API asks of a backend, in terms of the
mesh device, by subject in the modules below. This is the module
`keras.src.backend.distribution_lib`, so it is loaded with Keras, and imports
`torch_mesh` only when a function needs it.

Keras looks its functions up here at each call. This package does not: its
modules call each other, and import nothing from here.
"""

from torch_mesh.job import num_processes, process_id
from torch_mesh.keras.collectives import (
    all_reduce,
    broadcast,
    gather_tensor,
    scatter_tensor,
)
from torch_mesh.keras.data import (
    distribute_data_input,
    distribute_tensor,
    distribute_variable,
    from_dtensor,
    to_dtensor,
)
from torch_mesh.keras.devices import (
    get_device_count,
    list_devices,
    list_local_devices,
)
from torch_mesh.keras.devices import to_backend_device as _to_backend_device
from torch_mesh.keras.layouts import to_backend_layout as _to_backend_layout
from torch_mesh.keras.layouts import to_backend_mesh as _to_backend_mesh
from torch_mesh.keras.path_adapter import TorchPathAdapter
from torch_mesh.keras.processes import initialize_rng, is_distributed
from torch_mesh.keras.replicate import replicate_model
from torch_mesh.processes import initialize

__all__ = [
    "TorchPathAdapter",
    "_to_backend_device",
    "_to_backend_layout",
    "_to_backend_mesh",
    "all_reduce",
    "broadcast",
    "distribute_data_input",
    "distribute_tensor",
    "distribute_variable",
    "from_dtensor",
    "gather_tensor",
    "get_device_count",
    "initialize",
    "initialize_rng",
    "is_distributed",
    "list_devices",
    "list_local_devices",
    "num_processes",
    "process_id",
    "replicate_model",
    "scatter_tensor",
    "to_dtensor",
]
