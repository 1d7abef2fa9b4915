"""Devices by Keras's names.

They are those of `torch_mesh.list_devices`, in a job of several processes too.

Loaded with Keras: the engine and torch.distributed come when they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch_mesh import devices, job

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
        `initialize` with several processes, the devices of all of them, process
        after process, each kind counted through.

    Raises:
        ValueError: if `device_type` is not a kind of device.
    """
    return devices.list_devices(kind_of("list_devices", device_type))


def list_local_devices(device_type: str | None = None) -> list[str]:
    """Returns the devices of this process, by the names of `list_devices`.

    Args:
        device_type: As for `list_devices`.

    Returns:
        List of names; all of `list_devices(device_type)` in one process.

    Raises:
        ValueError: if `device_type` is not a kind of device.
    """
    return devices.list_local_devices(
        kind_of("list_local_devices", device_type)
    )


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
    return len(devices.list_devices(kind_of("get_device_count", device_type)))


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


def check_there(names: Sequence[str]) -> None:
    """Checks that the devices of a mesh exist.

    Args:
        names: Names as `to_backend_device` gives them.

    Raises:
        ValueError: if one does not. In one process there are as many virtual
            CPU devices as a mesh asks for.
    """
    is_job = job.devices_by_process() is not None
    for name in names:
        kind = name.partition(":")[0]
        if kind == "cpu" and not is_job:
            continue
        if name not in devices.list_devices(kind):
            there = ", ".join(devices.list_devices(kind if is_job else None))
            raise ValueError(
                f"DeviceMesh: this {'job' if is_job else 'machine'} has no "
                f'device "{name}".\n'
                f"  devices  {there or 'none'}\n"
                "Hint: take names from keras.distribution.list_devices(). "
                "[no-such-device]"
            )


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
