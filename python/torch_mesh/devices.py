"""Which devices a mesh can be made of."""

import os

import torch

_MAX_VIRTUAL = 1024

_cpu_devices: int | None = None


def set_cpu_devices(n: int) -> None:
    """Sets how many virtual CPU devices `list_devices("cpu")` offers.

    Args:
        n: number of devices, 1 to 1024. Goes before `TORCH_MESH_CPU_DEVICES`.

    Raises:
        ValueError: if `n` is out of range.
    """
    global _cpu_devices
    if not 1 <= n <= _MAX_VIRTUAL:
        raise ValueError(
            f"set_cpu_devices: {n} devices are not in 1 to {_MAX_VIRTUAL}.\n"
            "Hint: give the number of virtual devices you want. [cpu-devices]"
        )
    _cpu_devices = n


def list_devices(kind: str | None = None) -> list[str]:
    """The devices of this process, as `["cpu:0", "cpu:1", ...]`.

    Args:
        kind: "cpu", "gpu" (or "cuda"), "tpu"; None stands for the
            accelerators, or the CPU devices where there is none.

    Returns:
        List of names. CPU devices are virtual: they share the memory and the
        cores of the process. An empty list if there is no device of the kind.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind is None:
        return list_devices("gpu") or list_devices("cpu")
    kind = kind.lower()
    if kind == "cpu":
        return [f"cpu:{i}" for i in range(_num_cpu_devices())]
    if kind in ("gpu", "cuda"):
        return [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    if kind == "tpu":
        return []
    raise ValueError(
        f'list_devices: unknown kind of device "{kind}".\n'
        'Hint: one of "cpu", "gpu", "tpu". [device-name]'
    )


def device_count(kind: str | None = None) -> int:
    """Number of devices that `list_devices(kind)` gives.

    Args:
        kind: as for `list_devices`.

    Returns:
        int, 0 if there is no device of the kind.

    Raises:
        ValueError: if the kind is unknown.
    """
    return len(list_devices(kind))


def _num_cpu_devices() -> int:
    if _cpu_devices is not None:
        return _cpu_devices
    text = os.environ.get("TORCH_MESH_CPU_DEVICES")
    if text is None:
        return min(max(os.cpu_count() or 1, 4), 8)
    try:
        n = int(text)
    except ValueError:
        n = 0
    if not 1 <= n <= _MAX_VIRTUAL:
        raise ValueError(
            f"TORCH_MESH_CPU_DEVICES={text!r} is no number of devices.\n"
            f"Hint: give a number from 1 to {_MAX_VIRTUAL}. [cpu-devices]"
        )
    return n
