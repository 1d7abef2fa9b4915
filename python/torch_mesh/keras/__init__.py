"""`keras.distribution` on the torch backend of Keras.

Importing this package is not needed to use it: with torch-mesh installed and
`KERAS_BACKEND=torch`, `keras.distribution` works. Import it for what Keras has
no name for:

    describe(model)      where each variable of a model lives
    CollectiveLogger     a callback that logs what moves in each step
    gather(model)        all state of a model to the host, as plain tensors
    TorchPathAdapter     Keras's variable paths and PyTorch's, both ways
    distribution_lib     the functions behind `keras.distribution`
    install              the table of everything that is patched in Keras
"""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from torch_mesh.keras.collective_logger import CollectiveLogger, Step

__all__ = [
    "CollectiveLogger",
    "Description",
    "Step",
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


def __getattr__(name: str) -> Any:
    # Keras's callbacks are not there yet while Keras loads this package.
    if name not in ("CollectiveLogger", "Step"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torch_mesh.keras import collective_logger

    return getattr(collective_logger, name)


# Under Keras's own names for them, as on its other backends.
_to_backend_device = distribution_lib._to_backend_device
_to_backend_layout = distribution_lib._to_backend_layout
_to_backend_mesh = distribution_lib._to_backend_mesh

install.install_now()
