"""`keras.distribution` on the torch backend of Keras.

Importing this package is not needed to use it: with torch-mesh installed and
`KERAS_BACKEND=torch`, `keras.distribution` works. Import it for what Keras has
no name for:

    describe(model)      where each variable of a model lives
    gather(model)        all state of a model to the host, as plain tensors
    TorchPathAdapter     Keras's variable paths and PyTorch's, both ways
    distribution_lib     the functions behind `keras.distribution`
    install              the table of everything that is patched in Keras
"""

import keras  # noqa: F401

from torch_mesh.keras import distribution_lib, install
from torch_mesh.keras.describe import Description, describe
from torch_mesh.keras.distribution_lib import (
    all_reduce,
    broadcast,
    distribute_data_input,
    distribute_tensor,
    distribute_variable,
    from_dtensor,
    gather_tensor,
    get_device_count,
    initialize,
    is_distributed,
    list_devices,
    list_local_devices,
    num_processes,
    process_id,
    replicate_model,
    scatter_tensor,
    to_dtensor,
)
from torch_mesh.keras.gather import gather
from torch_mesh.keras.path_adapter import TorchPathAdapter

__all__ = [
    "Description",
    "TorchPathAdapter",
    "all_reduce",
    "broadcast",
    "describe",
    "distribute_data_input",
    "distribute_tensor",
    "distribute_variable",
    "distribution_lib",
    "from_dtensor",
    "gather",
    "gather_tensor",
    "get_device_count",
    "initialize",
    "install",
    "is_distributed",
    "list_devices",
    "list_local_devices",
    "num_processes",
    "process_id",
    "replicate_model",
    "scatter_tensor",
    "to_dtensor",
]

# Under Keras's own names for them, as on its other backends.
_to_backend_device = distribution_lib._to_backend_device
_to_backend_layout = distribution_lib._to_backend_layout
_to_backend_mesh = distribution_lib._to_backend_mesh

install.install_now()
