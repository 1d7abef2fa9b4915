"""Bytes of global tensors that the devices hold, of the whole process."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from torch_mesh import _C, devices

# By device, "cpu:0".
Bytes = dict[str, int]


def of_process() -> tuple[Bytes, Bytes]:
    """Bytes that the devices hold, and the most that they held.

    Counting begins with the first call.
    """
    now, peak = _C.memory_of_process(
        [] if _C.is_memory_counted() else list(_living())
    )
    return devices.by_name(now), devices.by_name(peak)


def _living() -> Iterator[torch.Tensor]:
    """The tensors that Python can reach."""
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor):
            yield found
            if found.is_leaf and found.grad is not None:
                yield found.grad
