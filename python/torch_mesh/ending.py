"""How a process leaves its job: it says why, and no group outlives it.

An exception that nobody catches is told to the other processes, which may wait
for this one, before Python prints it.

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
import os
import sys
import weakref
from typing import Any

import torch

from torch_mesh import job
from torch_mesh.patching import Group, Patch, Table, rebind

# Characters of an exception that the other processes are told.
_MAX_TOLD = 500
_MAX_NAME = 80  # of the name of a file

_meshes: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_is_prepared = False


def _noted(original: Any) -> Any:
    """Wraps a method that makes a DeviceMesh what it is."""

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        _meshes[id(self)] = self
        original(self, *args, **kwargs)

    return method


def _ending_the_job(original: Any) -> Any:
    """Wraps `destroy_process_group`: the engine lets go of the group first."""

    @functools.wraps(original)
    def destroy_process_group(group: Any = None) -> Any:
        if group is None or group is job.group():
            job.forget()
        return original(group)

    return destroy_process_group


# They hand on whatever they are given.
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
        Group(
            "destroy_process_group",
            (
                Patch(
                    "torch.distributed.distributed_c10d",
                    "destroy_process_group",
                    _ending_the_job,
                    "the engine lets go of a group before it ends",
                    expects="group=",
                ),
            ),
        ),
    ),
    lambda: torch.__version__,
)


def at_exit() -> None:
    """Makes this process tell of its end, and end its group before that."""
    global _is_prepared
    if _is_prepared:
        return
    _is_prepared = True
    _TABLE.apply()
    for done in _TABLE.done.values():
        if done.name == "destroy_process_group":
            rebind(done.original, done.replacement, "torch")
    sys.excepthook = _telling(sys.excepthook)
    atexit.register(_leave)


def _telling(original: Any) -> Any:
    """Wraps `sys.excepthook`: the other processes learn of the exception."""

    @functools.wraps(original)
    def excepthook(kind: Any, error: Any, traceback: Any) -> None:
        _tell(kind, error, traceback)
        original(kind, error, traceback)

    return excepthook


def _tell(kind: Any, error: Any, traceback: Any) -> None:
    """Tells the other processes of an exception, and of its line."""
    if job.num_processes() == 1:
        return
    from torch_mesh import _C

    with contextlib.suppress(Exception):  # the exception comes first
        text = f"{kind.__name__}: {error}"
        if len(text) > _MAX_TOLD:
            text = text[:_MAX_TOLD] + "..."
        line = _line_of(traceback)
        _C.report_failure(f"in {line}\n{text}" if line else text)


def _line_of(traceback: Any) -> str:
    """The innermost line of the script in a traceback, "train.py:41"."""
    globals_ = vars(sys.modules["__main__"])
    line = ""
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals is globals_:
            name = os.path.basename(frame.f_code.co_filename)
            line = f"{name[-_MAX_NAME:]}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line


def _leave() -> None:
    import torch.distributed as dist  # not all builds of torch have it

    job.forget()
    if dist.is_initialized():
        with contextlib.suppress(Exception):  # a peer may be gone before
            dist.destroy_process_group()
        for mesh in list(_meshes.values()):
            getattr(mesh, "_pg_registry", {}).clear()
