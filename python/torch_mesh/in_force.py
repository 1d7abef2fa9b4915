"""What is in force: the mesh of new tensors, and how batches are cut."""

from __future__ import annotations

import dis
import sys
import threading
import weakref
from collections.abc import Iterable
from types import FrameType

from torch_mesh import _C, registration
from torch_mesh.layouts import Layout, Mesh, check_member

_CACHE = dis.opmap["CACHE"]
_BEFORE_WITH = dis.opmap.get("BEFORE_WITH", -1)  # up to Python 3.13
_LOAD_SPECIAL = dis.opmap.get("LOAD_SPECIAL", -1)  # from 3.14 on


def current_mesh() -> Mesh | None:
    """The mesh of new tensors.

    Returns:
        The `Mesh` that `use` has set for this thread, else for the process,
        else None.
    """
    mesh = Mesh._of(_C.current_mesh())
    return mesh if mesh.axis_names else None


class use:
    """Makes `mesh` the mesh of new tensors.

    `use(mesh)` sets it for the whole process, for good. `with use(mesh):` sets
    it until the block ends, for this thread and for the backward passes that
    it starts, recomputed checkpoints included. Blocks nest. A thread that is
    started inside of a block begins with what the process has: give it the
    mesh, and a block of its own. `use(None)` unsets.

    Beside another accelerator (CUDA) `torch.device("mesh")` exists from the
    first `use(mesh)` or global tensor on, and not from the import: until then
    it is torch's own error for an unknown device.

    With `batch=`, batches that are moved to the mesh are cut on dim 0 over
    that axis, or over several: what a loop of somebody else's does with
    `x.to("mesh")` or `x.to(device)`. Not cut is what `Module.to`,
    `load_state_dict`, optimizers, `copy.deepcopy` and `torch.load` move, what
    `torch.tensor(..., device="mesh")` and factories make, a `Parameter`, a
    tensor that requires grad, and one of fewer than two rows. All is right
    whichever layout a tensor takes; `describe` shows which it was.

    Args:
        mesh: a `Mesh`, or None.
        batch: name of the mesh axis that cuts batches, or several names.

    Raises:
        ValueError: if the mesh has no such axis.
        TypeError: if `mesh` is no `Mesh`.
        RuntimeError: if this process of a job has no device of the mesh.

    Example:
        >>> mesh = Mesh({"data": 2, "model": 2})
        >>> with use(mesh, batch="data"):
        ...     layout(torch.ones(4, 3).to("mesh"))
        (S0, R)
    """

    def __init__(
        self, mesh: Mesh | None, batch: str | Iterable[str] | None = None
    ) -> None:
        if not isinstance(mesh, Mesh | None):
            raise TypeError(
                f"use: a Mesh is due, and this is a {type(mesh).__name__}:"
                f" {mesh!r}.\nHint: torch_mesh.Mesh({{'data': 2}}) makes one."
                " [argument-type]"
            )
        layout = _layout_of(mesh, batch)
        if mesh is not None:
            registration.register()
        self._begin(layout)
        # Set for the process in the blink before `with` enters the block, it
        # would be seen by all other threads.
        if not _is_entered_next(sys._getframe(1)):
            self._set()

    def _begin(self, layout: _C.Layout) -> None:
        self._layout = layout
        # What the blocks of this object restore, the innermost last.
        self._before: list[_C.Layout | None] = []
        self._replaced: _C.Layout | None = None
        self._is_set = False

    def _set(self) -> None:
        self._is_set = True
        _process.set(self)
        self._replaced = _C.override_of_thread()
        if self._replaced is not None:
            _C.set_override_of_thread(self._layout)

    def _unset(self) -> None:
        self._is_set = False
        _process.unset(self)
        if self._replaced is not None:
            _C.set_override_of_thread(self._replaced)

    def __enter__(self) -> Mesh | None:
        if self._is_set:
            self._unset()
        self._before.append(_C.override_of_thread())
        _C.set_override_of_thread(self._layout)
        return current_mesh()

    def __exit__(self, *error: object) -> None:
        _C.set_override_of_thread(self._before.pop())


def set_mesh(mesh: Mesh | None) -> None:
    """`use(mesh)` without making the device exist where it does not yet.

    Args:
        mesh: a `Mesh`, or None.
    """
    setting = use.__new__(use)
    setting._begin(_layout_of(mesh, None))
    setting._set()


class batches_paused:
    """Within this block nothing that the thread moves is a batch."""

    def __enter__(self) -> None:
        _C.pause_batches()

    def __exit__(self, *error: object) -> None:
        _C.resume_batches()


class _Process:
    """What is in force for the process.

    An object of `use` may turn out to be the context of a block only after it
    was set. It then takes itself out from among those that were set since.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._floor = _C.layout_of_process()
        self._set: list[tuple[weakref.ref[use], _C.Layout]] = []

    def set(self, setting: use) -> None:
        with self._lock:
            self._settle()
            self._set.append((weakref.ref(setting), setting._layout))
            _C.set_layout_of_process(setting._layout)

    def unset(self, setting: use) -> None:
        with self._lock:
            self._settle()
            self._set = [entry for entry in self._set if entry[0]() != setting]
            top = self._set[-1][1] if self._set else self._floor
            _C.set_layout_of_process(top)

    def _settle(self) -> None:
        """What can no longer be entered was set for good."""
        if not self._set:
            self._floor = _C.layout_of_process()
        for place in reversed(range(len(self._set))):
            if self._set[place][0]() is None:
                self._floor = self._set[place][1]
                del self._set[: place + 1]
                break


_process = _Process()


def _is_entered_next(frame: FrameType) -> bool:
    """Whether a caller is about to enter a block with what it has called."""
    code = frame.f_code.co_code
    at = frame.f_lasti + 2
    while at < len(code) and code[at] == _CACHE:
        at += 2
    if code[at : at + 1] == bytes([_BEFORE_WITH & 0xFF]):
        return _BEFORE_WITH >= 0
    return _LOAD_SPECIAL >= 0 and _LOAD_SPECIAL in code[at : at + 4 : 2]


def _layout_of(
    mesh: Mesh | None, batch: str | Iterable[str] | None
) -> _C.Layout:
    """S0 on the axes of a batch, R on all others."""
    if mesh is None:
        if batch is not None:
            raise ValueError(
                "use: a batch is cut over an axis of a mesh, and there is no"
                " mesh.\nHint: use(mesh, batch=...). [unknown-axis]"
            )
        return _C.Layout.replicated(_C.Mesh([], []))
    check_member("use", mesh)
    names = [batch] if isinstance(batch, str) else batch
    names = list(names) if isinstance(names, Iterable) else names
    if names is not None and not (
        isinstance(names, list) and all(isinstance(n, str) for n in names)
    ):
        raise TypeError(
            "use: batch takes the name of a mesh axis, or several names, and"
            f" this is {batch!r}.\n"
            f"Hint: the axes are {', '.join(mesh.axis_names)}. [argument-type]"
        )
    names = names or []
    return Layout(mesh, dict.fromkeys(names, "S0"))._native
