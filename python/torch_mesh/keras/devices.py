"""Devices by Keras's names.

In a job of several processes `list_devices` names the devices of all of them,
as on JAX: process after process, each kind counted through. With 2 processes of
4 CPU devices, "cpu:4" is the first device of process 1. `torch_mesh` itself
counts the devices of one process, so `to_local` translates.

Loaded with Keras: the engine and torch.distributed come when they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch_mesh.keras import job

_KINDS = ("cpu", "gpu", "tpu")


def list_devices(device_type: str | None = None) -> list[str]:
    """Returns the devices of the machine, or of all processes of a job.

    Args:
        device_type: "cpu", "gpu" or "tpu". Defaults to the accelerators if
            there are any, else "cpu". CPU devices are virtual: as many as
            `TORCH_MESH_CPU_DEVICES` or `torch_mesh.set_cpu_devices` says, by
            default the number of cores, at least 4 and at most 8.

    Returns:
        List of names such as "cpu:0"; empty if there is no such device. After
        `initialize` with several processes, the devices of all of them.

    Raises:
        ValueError: if `device_type` is not a kind of device.
    """
    kind = kind_of("list_devices", device_type)
    counts = _counts_of_job(kind)
    if counts is None:
        return _here(kind)
    kind, per_process = counts
    return [f"{kind}:{i}" for i in range(sum(per_process))]


def list_local_devices(device_type: str | None = None) -> list[str]:
    """Returns the devices of this process, by the names of `list_devices`.

    A distribution can use these; those of other processes it cannot yet.

    Args:
        device_type: As for `list_devices`.

    Returns:
        List of names; all of `list_devices(device_type)` in one process.

    Raises:
        ValueError: if `device_type` is not a kind of device.
    """
    kind = kind_of("list_local_devices", device_type)
    counts = _counts_of_job(kind)
    if counts is None:
        return _here(kind)
    kind, per_process = counts
    first = sum(per_process[: job.process_id()])
    count = per_process[job.process_id()]
    return [f"{kind}:{first + i}" for i in range(count)]


def get_device_count(device_type: str | None = None) -> int:
    """Returns the number of devices that `list_devices` lists.

    Args:
        device_type: "cpu", "gpu" or "tpu". Defaults to the accelerators if
            there are any, else "cpu".

    Returns:
        int, 0 if there is no such device.

    Raises:
        ValueError: if `device_type` is not a kind of device.
    """
    kind_of("get_device_count", device_type)
    return len(list_devices(device_type))


def to_backend_device(device_name: Any) -> str:
    """Translates a device's name.

    Args:
        device_name: "cpu:1", "GPU:0", "cuda:0", or "cpu" for "cpu:0".

    Returns:
        The name as `list_devices` gives it.

    Raises:
        ValueError: if it is not a device's name.
    """
    kind, _, index = str(device_name).lower().partition(":")
    kind = kind_of("device", kind) or kind
    if not (index or "0").isdigit():
        raise ValueError(
            f'device: "{device_name}" has no number after the colon.\n'
            "  expected  a name such as cpu:0\n"
            "Hint: take names from keras.distribution.list_devices(). "
            "[unknown-device]"
        )
    return f"{kind}:{int(index or 0)}"


def to_local(names: Sequence[str]) -> list[str]:
    """The devices of a mesh as this process counts them.

    Args:
        names: Names as `to_backend_device` gives them.

    Returns:
        List of the names that `torch_mesh.Mesh` takes.

    Raises:
        ValueError: if a device does not exist. In one process there are as
            many virtual CPU devices as a mesh asks for.
        NotImplementedError: if one belongs to another process.
    """
    mine = job.process_id()
    local = []
    for name in names:
        kind, _, number = name.partition(":")
        counts = _counts_of_job(kind)
        if counts is None:
            if kind != "cpu" and name not in list_devices(kind):
                _raise_no_such(name, list_devices())
            local.append(name)
            continue
        owner, index = _owner(int(number), counts[1])
        if owner is None:
            _raise_no_such(name, list_devices(kind))
        if owner != mine:
            own = list_local_devices(kind)
            raise NotImplementedError(
                f'DeviceMesh: "{name}" is a device of process {owner}, this '
                f"is process {mine}; a mesh stays within one process.\n"
                f"  devices of this process  {', '.join(own) or 'none'}\n"
                "Hint: take devices of torch_mesh.keras.list_local_devices(), "
                "or exchange plain tensors between processes with "
                "replicate_model and the collectives. [other-process]"
            )
        local.append(f"{kind}:{index}")
    return local


def kind_of(op: str, device_type: str | None) -> str | None:
    """Normalises a kind of device; None stays None.

    Args:
        op: Whom the error is to name.
        device_type: "cpu", "GPU", "cuda", ...

    Returns:
        "cpu", "gpu", "tpu" or None.

    Raises:
        ValueError: if it is not a kind of device.
    """
    if device_type is None:
        return None
    kind = str(device_type).lower()
    kind = "gpu" if kind == "cuda" else kind
    if kind not in _KINDS:
        raise ValueError(
            f'{op}: "{device_type}" is not a kind of device.\n'
            f"  known  {', '.join(_KINDS)}\n"
            "Hint: take names from keras.distribution.list_devices(). "
            "[unknown-device]"
        )
    return kind


def _here(kind: str | None) -> list[str]:
    """The devices of this process as it counts them."""
    import torch_mesh as tm

    return [] if kind == "tpu" else list(tm.list_devices(kind))


def _counts_of_job(kind: str | None) -> tuple[str, list[int]] | None:
    """Kind and number of devices of each process; None outside of a job."""
    counts = job.devices_by_process()
    if counts is None:
        return None
    if kind is None:
        kind = "gpu" if any(c.get("gpu") for c in counts) else "cpu"
    return kind, [c.get(kind, 0) for c in counts]


def _owner(number: int, counts: list[int]) -> tuple[int | None, int]:
    """The process of a device, and the device's number there."""
    for process, count in enumerate(counts):
        if number < count:
            return process, number
        number -= count
    return None, number


def _raise_no_such(name: str, there: list[str]) -> None:
    raise ValueError(
        f'DeviceMesh: this machine has no device "{name}".\n'
        f"  devices  {', '.join(there)}\n"
        "Hint: take names from keras.distribution.list_devices(). "
        "[no-such-device]"
    )
