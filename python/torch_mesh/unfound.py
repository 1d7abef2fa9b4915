"""Says where a torch has nothing of a name that is changed in others."""

import torch

from torch_mesh import _C


def say(name: str) -> None:
    """Logs a line if `TORCH_MESH_LOG=info` asks.

    Args:
        name: What is not there: "torch.storage._StorageBase".
    """
    if _C.log_level() >= 1:
        _C.log_line(
            f"torch {torch.__version__} has no {name}, which is left unchanged;"
            " see docs/torch-internals.md"
        )
