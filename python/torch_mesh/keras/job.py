"""Which job of several processes this process is part of.

The job is torch's default process group, whoever made it. So `num_processes`
tells the truth under `torchrun` too, and `torch.distributed` ends the job with
`destroy_process_group`.

Loaded with Keras: torch.distributed comes when it is needed.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple


class _Job(NamedTuple):
    """What `initialize` has learned; it holds as long as its group does.

    Attributes:
        group: The process group that it belongs to.
        store: Where the processes met. Process 0 serves it to the others.
        devices: Number of devices by kind, for each process.
    """

    group: Any
    store: Any
    devices: list[dict[str, int]]


_job: _Job | None = None
_warned_of_own_mesh = False


def learn(group: Any, store: Any, devices: list[dict[str, int]]) -> None:
    """Keeps what `initialize` has learned.

    Args:
        group: The process group of the job.
        store: Where the processes met, or None.
        devices: Number of devices by kind, for each process.
    """
    global _job
    _job = _Job(group, store, devices)


def forget() -> None:
    """Lets go of the job: an ended one's store keeps its port."""
    global _job
    _job = None


def group() -> Any:
    """torch's default process group, None without one.

    A fake one, with which programs are tried out in one process, is none.
    """
    try:
        import torch.distributed as dist
    except ImportError:
        return None
    if not dist.is_available() or not dist.is_initialized():
        return None
    found = dist.group.WORLD
    if found is None or dist.get_backend(found) == "fake":
        return None
    return found


def num_processes() -> int:
    """Returns the number of processes of the job.

    Returns:
        int, 1 if there is no process group.
    """
    found = group()
    return 1 if found is None else found.size()


def process_id() -> int:
    """Returns the index of this process in the job.

    Returns:
        int, 0 if there is no process group.
    """
    found = group()
    return 0 if found is None else found.rank()


def devices_by_process() -> list[dict[str, int]] | None:
    """Number of devices by kind, for each process of the job.

    Returns:
        List of dicts such as {"cpu": 4, "gpu": 0}; None unless `initialize`
        has brought several processes together.
    """
    if _job is None or _job.group is not group():
        return None
    return _job.devices


def warn_of_own_mesh(device_mesh: Any) -> None:
    """Warns, once, that a mesh in a job exchanges nothing with the others.

    Args:
        device_mesh: A Keras `DeviceMesh` over devices of this process.
    """
    global _warned_of_own_mesh
    if _warned_of_own_mesh or num_processes() == 1:
        return
    _warned_of_own_mesh = True
    warnings.warn(
        "DeviceMesh: the mesh has devices of this process alone.\n"
        f"  process  {process_id()} of {num_processes()}\n"
        f"  devices  {', '.join(map(str, device_mesh.devices.flatten()))}\n"
        "Hint: what is computed on it is not exchanged with other processes; "
        "gather_tensor and all_reduce do that for plain tensors. [own-mesh]",
        stacklevel=5,
    )
