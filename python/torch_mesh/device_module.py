"""`torch.mesh`: what libraries ask of a device's module.

The mesh is one device to torch. Where a figure is of one device (memory), it is
that of the fullest device of the mesh, as a program on one device would see it;
`torch_mesh.memory` has all of them.

Virtual CPU devices compute at the call, so their streams and events have
nothing to wait for; real devices are waited for.
"""

from __future__ import annotations

import os
import time
import types
from collections.abc import Callable
from typing import Any

import torch

from torch_mesh import _C, devices, held, in_force


class _Device:
    """`with torch.mesh.device(0):`; there is one device, index 0."""

    def __init__(self, device: object) -> None:
        _check(device)

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Stream:
    """The order in which the mesh computes: that of the calls.

    Args:
        device: "mesh", or None.
        priority: changes nothing.
    """

    def __init__(self, device: object = None, priority: int = 0) -> None:
        _check(device)
        self.device = torch.device("mesh", 0)
        self.priority = priority

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def query(self) -> bool:
        """Whether all is done: True, after a wait for real devices."""
        synchronize()
        return True

    def synchronize(self) -> None:
        """Waits until all is done."""
        synchronize()

    def wait_event(self, event: Event) -> None:
        """Nothing: what was recorded is done."""

    def wait_stream(self, stream: object) -> None:
        """Nothing: the mesh computes in the order of the calls."""

    def record_event(self, event: Event | None = None) -> Event:
        """Records `event`, or a new one; returns it."""
        event = Event() if event is None else event
        event.record(self)
        return event


class Event:
    """A moment in the order of the calls.

    Args:
        enable_timing: whether `elapsed_time` may be asked.
        blocking: changes nothing.
        interprocess: changes nothing.
    """

    def __init__(
        self,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
    ) -> None:
        self._timed = enable_timing
        self._at: int | None = None

    def record(self, stream: object = None) -> None:
        """Takes the time, when all that was asked for is done."""
        synchronize()
        self._at = time.perf_counter_ns()

    def wait(self, stream: object = None) -> None:
        """Nothing: what was recorded is done."""

    def query(self) -> bool:
        """Whether what was recorded is done: True."""
        return True

    def synchronize(self) -> None:
        """Nothing: what was recorded is done."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to `end`.

        Raises:
            RuntimeError: if one of them was not made with `enable_timing`, or
                not recorded.
        """
        if not (self._timed and end._timed) or self._at is None or not end._at:
            raise RuntimeError(
                "elapsed_time: both events must be recorded, and made with"
                " enable_timing=True.\nHint:"
                " torch.mesh.Event(enable_timing=True). [event-timing]"
            )
        return (end._at - self._at) / 1e6


def _check(device: object) -> None:
    """Refuses other devices than `mesh`, and other indices than 0."""
    if device is None:
        return
    if isinstance(device, int):
        device = torch.device("mesh", device) if device >= 0 else "mesh"
    asked = torch.device(device)  # type: ignore[call-overload]
    if asked.type != "mesh":
        raise ValueError(
            f"torch.mesh: {asked} is no mesh device.\n"
            'Hint: pass None, 0 or "mesh". [device-name]'
        )
    _C.check_device_index(asked)


def _names() -> list[str]:
    """The devices of the mesh in force; else those that a mesh would have."""
    mesh = in_force.current_mesh()
    return mesh.devices if mesh is not None else devices.list_devices()


def _is_gpu() -> bool:
    return _names()[0].startswith("gpu")


def _gpu() -> int:
    return int(_names()[0].partition(":")[2])


def synchronize(device: object = None) -> None:
    """Waits until all that was asked of the mesh is done."""
    _check(device)
    if torch.cuda.is_initialized():
        for name in _names():
            kind, _, index = name.partition(":")
            if kind == "gpu":
                torch.cuda.synchronize(int(index))


def stream(stream: Stream | None) -> Any:
    """`with torch.mesh.stream(s):`; the order stays that of the calls."""
    return Stream() if stream is None else stream


def current_stream(device: object = None) -> Stream:
    """The one stream of the mesh."""
    return Stream(device)


def get_device_name(device: object = None) -> str:
    """E.g. "mesh of 4 CPU devices", or with the name of its GPUs."""
    _check(device)
    names = _names()
    kind = torch.cuda.get_device_name(_gpu()) if _is_gpu() else "CPU"
    return f"mesh of {len(names)} {kind} devices"


def get_device_capability(device: object = None) -> tuple[int, int]:
    """That of the GPUs of the mesh; (0, 0) of CPU devices."""
    _check(device)
    return torch.cuda.get_device_capability(_gpu()) if _is_gpu() else (0, 0)


def get_device_properties(device: object = None) -> types.SimpleNamespace:
    """Of one device: `name`, `total_memory` in bytes, `major`, `minor`,
    `multi_processor_count`; and `devices`, the names of all.
    """
    major, minor = get_device_capability(device)
    return types.SimpleNamespace(
        name=get_device_name(device),
        total_memory=mem_get_info(device)[1],
        major=major,
        minor=minor,
        multi_processor_count=(
            torch.cuda.get_device_properties(_gpu()).multi_processor_count
            if _is_gpu()
            else os.cpu_count() or 1
        ),
        devices=_names(),
    )


def mem_get_info(device: object = None) -> tuple[int, int]:
    """Free and total bytes of the memory of one device."""
    _check(device)
    if _is_gpu():
        free, total = torch.cuda.mem_get_info(_gpu())
        return int(free), int(total)
    page = os.sysconf("SC_PAGE_SIZE")
    return (
        os.sysconf("SC_AVPHYS_PAGES") * page,
        os.sysconf("SC_PHYS_PAGES") * page,
    )


def memory_allocated(device: object = None) -> int:
    """Bytes of global tensors that the fullest device holds.

    Counting begins with the first question about memory: with all tensors that
    Python can reach then.
    """
    _check(device)
    return max(held.of_process()[0].values(), default=0)


def max_memory_allocated(device: object = None) -> int:
    """The most bytes that a device held, since the first question about memory
    or the last `reset_peak_memory_stats`.
    """
    _check(device)
    return max(held.of_process()[1].values(), default=0)


def reset_peak_memory_stats(device: object = None) -> None:
    """Lets `max_memory_allocated` begin with what is held now."""
    _check(device)
    held.of_process()
    _C.reset_peak_memory()


def memory_stats(device: object = None) -> dict[str, int]:
    """`allocated_bytes.all.current` and `.peak` of the fullest device, and the
    same for each device under its name, `allocated_bytes.cpu:0.current`.
    """
    _check(device)
    now, peak = held.of_process()
    stats = {
        "allocated_bytes.all.current": max(now.values(), default=0),
        "allocated_bytes.all.peak": max(peak.values(), default=0),
    }
    for name in now:
        stats[f"allocated_bytes.{name}.current"] = now[name]
        stats[f"allocated_bytes.{name}.peak"] = peak[name]
    return stats


def empty_cache() -> None:
    """Gives unused memory of GPUs back; CPU devices keep none."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def set_device(device: object) -> None:
    """Nothing, but for the check: there is one device, index 0."""
    _check(device)


def manual_seed_all(seed: int) -> None:
    """Nothing: the mesh draws from torch's CPU generator."""


def get_rng_state(device: object = None) -> torch.Tensor:
    """That of torch's CPU generator."""
    _check(device)
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: object = None) -> None:
    """Sets that of torch's CPU generator."""
    _check(device)
    torch.set_rng_state(state)


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the mesh computes in bfloat16: True."""
    return True


def make() -> types.ModuleType:
    """The module `torch.mesh`."""
    module = types.ModuleType("torch.mesh", "The mesh device.")
    own: list[Callable[..., Any]] = [
        Event,
        Stream,
        current_stream,
        empty_cache,
        get_device_capability,
        get_device_name,
        get_device_properties,
        get_rng_state,
        is_bf16_supported,
        manual_seed_all,
        max_memory_allocated,
        mem_get_info,
        memory_allocated,
        memory_stats,
        reset_peak_memory_stats,
        set_device,
        set_rng_state,
        stream,
        synchronize,
    ]
    contents: dict[str, Any] = {
        **{function.__name__: function for function in own},
        # False keeps DataLoader and others from taking mesh as the accelerator.
        "is_available": lambda: False,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "default_stream": current_stream,
        "device": _Device,
        "manual_seed": torch.manual_seed,
        "initial_seed": torch.initial_seed,
        "max_memory_reserved": max_memory_allocated,
        "memory_reserved": memory_allocated,
        "_is_in_bad_fork": lambda: False,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "list_devices": devices.list_devices,
    }
    for name, value in contents.items():
        setattr(module, name, value)
    return module
