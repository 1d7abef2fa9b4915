"""What one process does for all that hold a model: it writes, and it prints.

On a mesh of several processes each computes the same. Values are gathered by
all of them, so all go through the same saves and callbacks; the first process
of the mesh alone writes files, whole, under another name first, and the others
wait until they are there. With a mesh of one process Keras's own way is taken.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch_mesh as tm
from torch_mesh import agreement, job, meeting
from torch_mesh.keras import active

_local = threading.local()


def members() -> list[int]:
    """The processes of the mesh in force, this one alone without one."""
    distribution = active.current()
    mesh = getattr(distribution, "device_mesh", None)
    if mesh is None or job.num_processes() == 1:
        return [job.process_id()]
    found: list[int] = mesh.backend_mesh.processes
    return found


def members_of(model: Any) -> list[int]:
    """The processes that hold a model.

    One without variables is held by those of the mesh in force: they run the
    same program.

    Args:
        model: A Keras model or layer.
    """
    if job.num_processes() > 1:
        for variable in model.variables:
            value = variable._value
            if value is not None and tm.is_global(value):
                return tm.layout(value).mesh.processes
    return [job.process_id()] if model.variables else members()


def is_silent() -> bool:
    """Whether another process prints and logs what this one computes too."""
    return members()[0] != job.process_id()


def only_gathers() -> bool:
    """Whether what this thread saves is for another process to write."""
    return getattr(_local, "only_gathers", False)


# Replacements; `patches.py` says what for.


def save_model(original: Any) -> Any:
    """Wraps `saving_api.save_model`."""
    return _saved_once(original, "save")


def save_weights(original: Any) -> Any:
    """Wraps `saving_api.save_weights`."""
    return _saved_once(original, "save_weights")


def configure_async_dispatch(original: Any) -> Any:
    """Wraps `CallbackList._configure_async_dispatch`.

    Among processes the values of a step are read in the order of the program:
    on threads, that would be another one in each process.
    """

    @functools.wraps(original)
    def _configure_async_dispatch(self: Any, callbacks: Any) -> None:
        if len(members()) == 1:
            original(self, callbacks)

    return _configure_async_dispatch


def on_train_batch_end(original: Any) -> Any:
    """Wraps `CallbackList.on_train_batch_end`."""
    return _read_if_shown(original, "on_train_batch_end")


def on_test_batch_end(original: Any) -> Any:
    """Wraps `CallbackList.on_test_batch_end`."""
    return _read_if_shown(original, "on_test_batch_end")


def on_predict_batch_end(original: Any) -> Any:
    """Wraps `CallbackList.on_predict_batch_end`."""
    return _read_if_shown(original, "on_predict_batch_end")


def _read_if_shown(original: Any, hook: str) -> Any:
    """Wraps a hook of each step: values that nobody looks at are not read.

    Among processes a value that is read is a message, and a wait.
    """

    @functools.wraps(original)
    def method(self: Any, batch: int, logs: Any = None) -> None:
        if len(members()) > 1 and not _is_shown_to_anyone(self, hook):
            logs = None
        original(self, batch, logs)

    return method


def _is_shown_to_anyone(callbacks: Any, hook: str) -> bool:
    """Whether a callback of any process looks at what a step gives.

    Then all read it: `verbose` may be 0 in all processes but one. They tell
    each other once, at the first step.
    """
    known: dict[str, bool] = callbacks.__dict__.setdefault(
        "_torch_mesh_shown", {}
    )
    if hook not in known:
        mesh = active.current().device_mesh.backend_mesh
        said = agreement.said_by_each(mesh, _is_shown(callbacks, hook))
        known[hook] = any(said.values())
    return known[hook]


def _is_shown(callbacks: Any, hook: str) -> bool:
    """Whether a callback of this process looks at what a step gives.

    A progress bar of several processes is asked for the one that shows it.
    """
    from keras.src.callbacks import (
        BackupAndRestore,
        ModelCheckpoint,
        ProgbarLogger,
    )
    from keras.src.utils import python_utils

    for callback in callbacks.callbacks:
        if type(callback) is ProgbarLogger:
            if (callbacks.params or {}).get("verbose") in (1, "auto"):
                return hook != "on_predict_batch_end"
        elif type(callback) in (BackupAndRestore, ModelCheckpoint) and (
            callback.save_freq == "epoch"
        ):
            continue
        elif not all(
            python_utils.is_default(getattr(callback, name))
            for name in (hook, "on_batch_end")
        ):
            return True
    return False


def progbar_set_params(original: Any) -> Any:
    """Wraps `ProgbarLogger.set_params`."""

    @functools.wraps(original)
    def set_params(self: Any, params: Any) -> None:
        original(self, params)
        if is_silent():
            self.verbose = 0

    return set_params


def unless_silent(original: Any) -> Any:
    """Wraps a method of `CSVLogger`, which reads no values itself."""

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        if not is_silent():
            original(self, *args, **kwargs)

    return method


def tensorboard_set_model(original: Any) -> Any:
    """Wraps `TensorBoard.set_model`: it gathers, so it works everywhere."""

    @functools.wraps(original)
    def set_model(self: Any, model: Any) -> None:
        if not is_silent():
            original(self, model)
            return
        folder = tempfile.TemporaryDirectory(prefix="torch_mesh-")
        self._torch_mesh_folder = folder  # goes with the callback
        log_dir = self.log_dir
        self.log_dir = folder.name
        try:
            original(self, model)
        finally:
            self.log_dir = log_dir

    return set_model


def checkpoint_save_model(original: Any) -> Any:
    """Wraps `ModelCheckpoint._save_model`: one folder, and one who says so."""

    @functools.wraps(original)
    def _save_model(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(members()) > 1:
            folder = os.path.dirname(self.filepath)
            if folder and "{" not in folder and "://" not in folder:
                os.makedirs(folder, exist_ok=True)
        verbose = self.verbose
        self.verbose = 0 if is_silent() else verbose
        try:
            original(self, *args, **kwargs)
        finally:
            self.verbose = verbose

    return _save_model


def backup_on_train_begin(original: Any) -> Any:
    """Wraps `BackupAndRestore.on_train_begin`: all restore the same."""

    @functools.wraps(original)
    def on_train_begin(self: Any, logs: Any = None) -> None:
        processes = members()
        if len(processes) == 1:
            original(self, logs)
            return
        _restore(self, original, processes)
        mine = str(self.model._initial_epoch)
        first = job.told("BackupAndRestore", processes, mine)
        job.meet("BackupAndRestore", processes)  # all have read it
        if mine != first:
            raise ValueError(
                "BackupAndRestore: the processes have found other backups.\n"
                f"  backup_dir  {self.backup_dir}\n"
                f"  process {processes[0]} begins with epoch "
                f"{meeting.escaped(first)}, this one with {mine}\n"
                "Hint: give a folder that all processes see. "
                "[processes-differ]"
            )

    return on_train_begin


def _restore(backup: Any, original: Any, processes: list[int]) -> None:
    """Restores in all processes what the folder holds, or what it held before.

    Where the last weights cannot be read, Keras puts those before them in
    their place: the first process does so for all.
    """
    unreadable = _unreadable(backup)
    mesh = active.current().device_mesh.backend_mesh
    if not any(agreement.said_by_each(mesh, unreadable is not None).values()):
        return
    if processes[0] == job.process_id():
        _put_back(backup, original, unreadable, processes)
    else:
        state = job.told("BackupAndRestore", processes)
        if state != _DONE:
            raise unreadable or OSError(
                f"BackupAndRestore: process {processes[0]} could not restore "
                f"the weights.\n  {meeting.escaped(state)}"
            )
    backup._load_model()


def _put_back(
    backup: Any,
    original: Any,
    unreadable: OSError | None,
    processes: list[int],
) -> None:
    """Lets Keras put back the weights before the last ones, for all.

    Keras reads first what is there, and again what it has put back; all read
    that together, later.
    """
    errors = [unreadable or OSError("another process cannot read the weights")]

    def load() -> None:
        if errors:
            raise errors.pop()

    state = _DONE
    backup._load_model = load
    try:
        original(backup)
    except Exception as error:
        state = f"{type(error).__name__}: {error}"
        raise
    finally:
        del backup._load_model
        job.told("BackupAndRestore", processes, state)


def _unreadable(backup: Any) -> OSError | None:
    """Restores; returns Keras's error where the weights cannot be read."""
    try:
        backup._load_model()
    except OSError as error:
        return error
    return None


def backup_save_model(original: Any) -> Any:
    """Wraps `BackupAndRestore._save_model`: one process keeps the folder."""

    @functools.wraps(original)
    def _save_model(self: Any) -> None:
        if is_silent():
            self.model.save_weights(self._weights_path, overwrite=True)
        else:
            original(self)
        job.told("BackupAndRestore", members())

    return _save_model


def backup_on_train_end(original: Any) -> Any:
    """Wraps `BackupAndRestore.on_train_end`: one process removes the folder."""

    @functools.wraps(original)
    def on_train_end(self: Any, logs: Any = None) -> None:
        if not is_silent():
            original(self, logs)
        job.told("BackupAndRestore", members())

    return on_train_end


# Saves


def _saved_once(original: Any, op: str) -> Any:
    """Wraps a function that saves a model at a path."""

    @functools.wraps(original)
    def save(
        model: Any,
        filepath: Any,
        overwrite: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        processes = members_of(model)
        is_path = isinstance(filepath, (str, os.PathLike))
        if len(processes) == 1 or not is_path:
            return original(model, filepath, overwrite, *args, **kwargs)

        def write(where: str) -> None:
            original(model, where, True, *args, **kwargs)

        path = os.fspath(filepath)
        if processes[0] == job.process_id():
            _write(op, path, overwrite, processes, write)
        else:
            _gather(op, path, processes, write)
        return None

    return save


# What the first process tells the others before they gather, and afterwards;
# else it is an error's text.
_SAVES = "saves"
_KEEPS = "keeps what is there"
_DONE = "done"


def _write(
    op: str,
    path: str,
    overwrite: bool,
    processes: list[int],
    write: Callable[[str], None],
) -> None:
    """Saves a model for all: beside its place first."""
    state = "failed"
    try:
        if not overwrite and not _may_overwrite(path):
            state = _KEEPS
            return
        with contextlib.ExitStack() as stack:
            where = _place_beside(path, stack)
            state = job.told(op, processes, _SAVES)
            write(where)
            if where != path:
                _take_place(Path(where).parent, Path(path))
        state = _DONE
    except Exception as error:
        state = f"{type(error).__name__}: {error}"
        raise
    finally:
        job.told(op, processes, state)


def _gather(
    op: str, path: str, processes: list[int], write: Callable[[str], None]
) -> None:
    """Goes through the same, so that values can be gathered.

    Raises:
        OSError: if the first process could not write.
    """
    state = job.told(op, processes)
    if state == _SAVES:
        _local.only_gathers = True
        try:
            with tempfile.TemporaryDirectory(prefix="torch_mesh-") as folder:
                write(os.path.join(folder, os.path.basename(path)))
        except BaseException:
            job.pass_by(processes)  # how it ended for the first process
            raise
        finally:
            _local.only_gathers = False
        state = job.told(op, processes)
    if state not in (_KEEPS, _DONE):
        raise OSError(
            f"{op}: process {processes[0]} could not write the file.\n"
            f"  path   {path}\n"
            f"  error  {meeting.escaped(state)}\n"
            "Hint: look at the output of that process. [not-written]"
        )


def _may_overwrite(path: str) -> bool:
    """Whether nothing is there, or the user gives it up."""
    from keras.src.utils import io_utils

    return not os.path.exists(path) or bool(
        io_utils.ask_to_proceed_with_overwrite(path)
    )


def _place_beside(path: str, stack: contextlib.ExitStack) -> str:
    """A path of the same name, in a folder of its own beside a path.

    Itself where nothing can be renamed.
    """
    if "://" in path:
        return path
    target = Path(path)
    folder = tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}-"
    )
    return os.path.join(stack.enter_context(folder), target.name)


def _take_place(folder: Path, target: Path) -> None:
    """Moves what was written to its place.

    Last what was asked for: it names the other files, if there are any.
    """
    for name in sorted(os.listdir(folder), key=lambda n: n == target.name):
        new, old = folder / name, target.parent / name
        if new.is_dir() and old.is_dir():
            shutil.move(old, folder.parent / f"{folder.name}-old")
            os.replace(new, old)
            shutil.rmtree(folder.parent / f"{folder.name}-old")
        else:
            os.replace(new, old)
