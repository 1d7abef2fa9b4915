"""Which devices a mesh can be made of, and how they are called.

In a job of several processes all of them are named, process after process, each
kind counted through: with 2 processes of 4 CPU devices, "cpu:4" is the first
device of process 1. The engine counts the devices of each process, and calls it
"cpu:0@1"; both names are taken.
"""

import os
from collections.abc import Iterable, Sequence

import torch

from torch_mesh import job

_MAX_VIRTUAL = 1024

_cpu_devices: int | None = None


def set_cpu_devices(n: int, memories: str | None = None) -> None:
    """Sets how many virtual CPU devices this process has.

    They are those of `list_devices("cpu")`; in a job of several processes, this
    process's part of them. To be called before `initialize`.

    Args:
        n: number of devices, 1 to 1024. Goes before `TORCH_MESH_CPU_DEVICES`.
        memories: "separate" gives each a memory of its own, as GPUs have: each
            computes by itself, and results are, to the bit, those of the same
            mesh over other processes. "shared": what all hold alike is held and
            computed once. None leaves it at what was said before, or
            `TORCH_MESH_CPU_MEMORIES` says; else it is "shared" for meshes of
            one process and "separate" for others.

    Raises:
        ValueError: if `n` is out of range, or `memories` is none of these.
    """
    global _cpu_devices
    if not 1 <= n <= _MAX_VIRTUAL:
        raise ValueError(
            f"set_cpu_devices: {n} devices are not in 1 to {_MAX_VIRTUAL}.\n"
            "Hint: give the number of virtual devices you want. [cpu-devices]"
        )
    if memories not in (None, "separate", "shared"):
        raise ValueError(
            f'set_cpu_devices: memories={memories!r} is neither "separate" nor '
            '"shared".\n'
            "Hint: leave it out, and the CPU devices of a process share its "
            "memory, unless a mesh spans several processes. [cpu-memories]"
        )
    _cpu_devices = n
    if memories is not None:
        # Not sooner: Keras asks for devices before there is an engine.
        from torch_mesh import _C

        _C.separate_cpu_memories(memories == "separate")


def list_devices(kind: str | None = None) -> list[str]:
    """The devices of the machine, or of all processes of a job.

    Args:
        kind: "cpu", "gpu" (or "cuda"), "tpu"; None stands for the
            accelerators, or the CPU devices where there is none.

    Returns:
        List of names, as `["cpu:0", "cpu:1", ...]`. CPU devices are virtual:
        they share the memory and the cores of their process. An empty list if
        there is no device of the kind. After `initialize` with several
        processes, the devices of all of them, process after process.

    Raises:
        ValueError: if the kind is unknown.
    """
    kind, counts = _counts(kind)
    return [f"{kind}:{i}" for i in range(sum(counts))]


def list_local_devices(kind: str | None = None) -> list[str]:
    """The devices of this process, by the names of `list_devices`.

    Args:
        kind: as for `list_devices`.

    Returns:
        List of names; all of `list_devices(kind)` in one process.

    Raises:
        ValueError: if the kind is unknown.
    """
    kind, counts = _counts(kind)
    mine = job.process_id() if len(counts) > 1 else 0
    first = sum(counts[:mine])
    return [f"{kind}:{first + i}" for i in range(counts[mine])]


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


def own_counts() -> dict[str, int]:
    """How many devices of each kind this process has."""
    return {kind: _own_count(kind) for kind in ("cpu", "gpu")}


def engine_names(op: str, names: Iterable[str]) -> list[str]:
    """Devices as the engine calls them.

    Args:
        op: whom an error is to name.
        names: those of `list_devices`, or the engine's own.

    Returns:
        List as long as `names`. In one process, `names`.

    Raises:
        ValueError: if the job has no such device.
    """
    counts = job.devices_by_process()
    if counts is None:
        return list(names)
    return [_engine_name(op, name, counts) for name in names]


def names_of(engine_names: Iterable[str]) -> list[str]:
    """Devices by the names of `list_devices`.

    Args:
        engine_names: names that the engine gives, such as "cpu:0@1".
    """
    counts = job.devices_by_process()
    if counts is None:
        return list(engine_names)
    return [_name(name, counts) for name in engine_names]


def by_name(numbers: dict[str, int]) -> dict[str, int]:
    """Numbers by device, under the names of `list_devices`.

    Args:
        numbers: under the names that the engine gives.
    """
    if job.devices_by_process() is None:
        return numbers
    return dict(zip(names_of(numbers), numbers.values(), strict=True))


def process_of(engine_name: str) -> int:
    """The process that has a device.

    Args:
        engine_name: as the engine gives it.
    """
    return int(engine_name.partition("@")[2] or 0)


def _counts(kind: str | None) -> tuple[str, list[int]]:
    """The kind that is asked for, and how many each process has."""
    if kind is None:
        counts = _counts("gpu")
        return counts if any(counts[1]) else _counts("cpu")
    kind = kind.lower()
    kind = "gpu" if kind == "cuda" else kind
    if kind not in ("cpu", "gpu", "tpu"):
        raise ValueError(
            f'list_devices: unknown kind of device "{kind}".\n'
            'Hint: one of "cpu", "gpu", "tpu". [device-name]'
        )
    per_process = job.devices_by_process()
    if per_process is None:
        return kind, [_own_count(kind)]
    return kind, [of_process.get(kind, 0) for of_process in per_process]


def _own_count(kind: str) -> int:
    if kind == "cpu":
        return _num_cpu_devices()
    return torch.cuda.device_count() if kind == "gpu" else 0


def _engine_name(op: str, name: str, counts: Sequence[dict[str, int]]) -> str:
    kind, colon, number = name.partition(":")
    if not colon or not number.isdecimal() or kind == "null":
        return name  # the engine's own, or no device: the engine says so
    kind = "gpu" if kind == "cuda" else kind
    left = int(number)
    for process, of_process in enumerate(counts):
        count = of_process.get(kind, 0)
        if left < count:
            return f"{kind}:{left}" + (f"@{process}" if process else "")
        left -= count
    there = ", ".join(list_devices(kind)) or "none"
    raise ValueError(
        f'{op}: this job has no device "{name}".\n'
        f"  devices  {there}\n"
        "Hint: take names from list_devices(); for more virtual CPU devices "
        "set TORCH_MESH_CPU_DEVICES in each process. [no-such-device]"
    )


def _name(name: str, counts: Sequence[dict[str, int]]) -> str:
    kind, _, place = name.partition(":")
    number, _, process = place.partition("@")
    before = counts[: int(process or 0)]
    if kind == "null" or len(before) == len(counts):
        return name
    return f"{kind}:{sum(c.get(kind, 0) for c in before) + int(number)}"


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
