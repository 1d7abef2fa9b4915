"""Replacements for functions of torch; `torch_patches.py` says what for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

from torch_mesh import _C, in_force, job
from torch_mesh.layouts import spans_processes
from torch_mesh.local_values import local_value


def same_answer(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that goes on giving what `original` gave before."""
    try:
        value = original()
    except RuntimeError:
        return original
    return lambda *args, **kwargs: value


def tensor_str(original: Any) -> Any:
    """Wraps what prints a tensor: a global one ends with its layout.

    Printing never waits for other processes: of a tensor over several it shows
    what this one has.
    """

    @functools.wraps(original)
    def _str(self: torch.Tensor, *, tensor_contents: str | None = None) -> str:
        if type(self) not in (
            torch.Tensor,
            torch.nn.Parameter,
        ) or not _C.is_global(self):
            text: str = original(self, tensor_contents=tensor_contents)
            return text
        has = size = ""
        if spans_processes(_C.layout_of(self).mesh):
            size = f"size={tuple(self.shape)}, "
            if tensor_contents is None:
                tensor_contents, has = _own_contents(self)
        text = original(self, tensor_contents=tensor_contents)
        # To print a sum of one process forms it.
        layout = _C.layout_of(self)
        if layout.mesh.devices[0].startswith("null"):
            has = " on null devices, whose values are of no use"
        return text.replace("device='mesh:0'", f"{size}layout={layout}{has}", 1)

    return _str


def _own_contents(x: torch.Tensor) -> tuple[str, str]:
    """What this process has of a tensor, as text, and words for what it is."""
    try:
        own = local_value(x.detach())
    except (RuntimeError, ValueError):  # not formed, no block, not on the mesh
        return "...", ""
    printed = torch._tensor_str._tensor_str(own, len("tensor("))
    if own.shape == x.shape:
        return printed, ""
    return printed, f", of which process {job.process_id()} has this"


def no_capsule(export: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an export by DLPack: a global tensor has no address to give."""

    @functools.wraps(export)
    def checked(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tensor, torch.Tensor) and _C.is_global(tensor):
            raise BufferError(
                "dlpack: the tensor is on the mesh, in "
                f"{_C.layout_of(tensor)}, and has no memory of its own to"
                " share.\nHint: export x.cpu(), or one of"
                " torch_mesh.shards(x). [no-dlpack]"
            )
        return export(tensor, *args, **kwargs)

    return checked


class _Follows(threading.local):
    """Whether this thread's autocast of the mesh is one of the CPU's."""

    cpu = False


_follows = _Follows()


def autocast_enter(enter: Any) -> Any:
    """Wraps `torch.autocast.__enter__`.

    `with torch.autocast("cpu"):` means the mesh too, whose devices are CPUs. It
    casts what `torch.autocast("mesh")` casts. A context that switches the CPU's
    autocast off does so for the mesh only if one of the CPU switched it on:
    checkpointing enters one beside that of the device it works on.
    """

    @functools.wraps(enter)
    def entered(self: Any) -> Any:
        before = (
            torch.is_autocast_enabled("mesh"),
            torch.get_autocast_dtype("mesh"),
            _follows.cpu,
        )
        result = enter(self)
        self._mesh_before = before
        enabled = torch.is_autocast_enabled(self.device)
        if self.device == "mesh":
            _follows.cpu = False
        elif self.device == "cpu" and (enabled or _follows.cpu):
            _follows.cpu = enabled
            torch.set_autocast_enabled("mesh", enabled)
            torch.set_autocast_dtype("mesh", torch.get_autocast_dtype("cpu"))
        return result

    return entered


def autocast_exit(leave: Any) -> Any:
    """Wraps `torch.autocast.__exit__`: the mesh's is as it was before."""

    @functools.wraps(leave)
    def left(self: Any, *error: Any) -> Any:
        result = leave(self, *error)
        enabled, dtype, _follows.cpu = self._mesh_before
        torch.set_autocast_enabled("mesh", enabled)
        torch.set_autocast_dtype("mesh", dtype)
        return result

    return left


def adjust_loss(adjust: Any) -> Any:
    """Wraps how `linear_cross_entropy(options=)` chooses by kind of device.

    Chunks and the dtype of sums come from a table of torch that knows no mesh:
    for half precision it would take the coarser ones. The mesh in force says
    what its devices are; without one they are CPUs.
    """

    @functools.wraps(adjust)
    def adjusted(self: Any, *args: Any, device: Any = None, **more: Any) -> Any:
        if device is not None and torch.device(device).type == "mesh":
            mesh = in_force.current_mesh()
            on_gpus = mesh is not None and mesh.devices[0].startswith("gpu")
            device = torch.device("cuda" if on_gpus else "cpu")
        return adjust(self, *args, device=device, **more)

    return adjusted


def swa_multi_avg(of_lists: Any) -> Any:
    """Wraps what gives `AveragedModel` its function for lists.

    It divides integers in place, which all devices refuse: they are averaged
    one tensor after the other, as on the CPU.
    """

    @functools.wraps(of_lists)
    def get_swa_multi_avg_fn() -> Callable[..., None]:
        update = of_lists()
        average = torch.optim.swa_utils.get_swa_avg_fn()

        @functools.wraps(update)
        def swa_update(averaged: Any, current: Any, count: Any) -> None:
            first = averaged[0]
            if first.device.type != "mesh" or (
                first.is_floating_point() or first.is_complex()
            ):
                update(averaged, current, count)
                return
            for mine, theirs in zip(averaged, current, strict=True):
                mine.copy_(average(mine, theirs, count))

        return swa_update

    return get_swa_multi_avg_fn


def validate_device(own: Any) -> Any:
    """Wraps how FlexAttention asks for a kind of device that it knows.

    Where the devices are CPUs the mesh is one: without gradients.
    """

    @functools.wraps(own)
    def validated(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        given: tuple[torch.Tensor, ...] = (query, key, value)
        if query.device.type == "mesh":
            given = tuple(
                torch.empty(0, requires_grad=t.requires_grad) for t in given
            )
        own(*given)

    return validated
