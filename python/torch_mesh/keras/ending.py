"""How a process leaves its job: no group outlives the interpreter.

A thread of gloo drops the tensors of a collective after the caller has its
answer. It needs the GIL for that; once the interpreter has begun to end, Python
ends the thread instead, and C++ the process. The threads of a group end with
the last who holds it: `destroy_process_group` lets go, and so must the
DeviceMesh of a DTensor that stands in a global. torch has no call for that, nor
a list of them, so those that are made in a job are noted.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import weakref
from typing import Any

import torch

from torch_mesh.keras import job
from torch_mesh.patching import Group, Patch, Table

_meshes: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_is_prepared = False


def _noted(original: Any) -> Any:
    """Wraps a method that makes a DeviceMesh what it is."""

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        _meshes[id(self)] = self
        original(self, *args, **kwargs)

    return method


# Both hand on whatever they are given.
_TABLE = Table(
    (
        Group(
            "the end of a job",
            tuple(
                Patch(
                    "torch.distributed.device_mesh",
                    f"DeviceMesh.{method}",
                    _noted,
                    "its groups are let go of when the process ends",
                )
                for method in ("__init__", "__setstate__")
            ),
        ),
    ),
    lambda: torch.__version__,
)


def at_exit() -> None:
    """Makes this process end its group before the interpreter ends."""
    global _is_prepared
    if not _is_prepared:
        _is_prepared = True
        _TABLE.apply()
        atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as dist  # not all builds of torch have it

    if dist.is_initialized():
        with contextlib.suppress(Exception):  # a peer may be gone before
            dist.destroy_process_group()
        for mesh in list(_meshes.values()):
            getattr(mesh, "_pg_registry", {}).clear()
    job.forget()
