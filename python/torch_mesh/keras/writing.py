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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch_mesh as tm
from torch_mesh import job
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

    Args:
        model: A Keras model or layer.
    """
    if job.num_processes() > 1:
        for variable in model.variables:
            value = variable._value
            if value is not None and tm.is_global(value):
                return tm.layout(value).mesh.processes
    return [job.process_id()]


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
        path = os.fspath(filepath)
        if not overwrite and not _may_overwrite(op, path, processes):
            return None

        def write(where: str) -> None:
            original(model, where, True, *args, **kwargs)

        if processes[0] != job.process_id():
            with _only_gathering() as folder:
                write(os.path.join(folder, os.path.basename(path)))
            error = job.told(op, processes)
            if error:
                raise OSError(
                    f"{op}: process {processes[0]} could not write the file.\n"
                    f"  path   {path}\n"
                    f"  error  {_escaped(error)}\n"
                    "Hint: look at the output of that process. [not-written]"
                )
            return None
        error = "it has failed"
        try:
            _write_whole(path, write)
            error = ""
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            job.told(op, processes, error)
        return None

    return save


def _may_overwrite(op: str, path: str, processes: list[int]) -> bool:
    """Whether the first process, or its user, lets a file be written."""
    answer = ""
    if processes[0] == job.process_id():
        from keras.src.utils import io_utils

        answer = "yes"
        if os.path.exists(path) and not io_utils.ask_to_proceed_with_overwrite(
            path
        ):
            answer = "no"
    return job.told(op, processes, answer) == "yes"


@contextlib.contextmanager
def _only_gathering() -> Iterator[str]:
    """A folder for what another process writes, which is thrown away."""
    _local.only_gathers = True
    try:
        with tempfile.TemporaryDirectory(prefix="torch_mesh-") as folder:
            yield folder
    finally:
        _local.only_gathers = False


def _write_whole(path: str, write: Callable[[str], None]) -> None:
    """Writes beside a path, and puts what is there in its place at the end."""
    if "://" in path:  # where nothing can be renamed
        write(path)
        return
    target = Path(path)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}-"
    ) as folder:
        write(os.path.join(folder, target.name))
        # Last what was asked for: it names the others, if there are any.
        for name in sorted(os.listdir(folder), key=lambda n: n == target.name):
            _replace(Path(folder) / name, target.parent / name)


def _replace(new: Path, old: Path) -> None:
    if new.is_dir() and old.is_dir():
        shutil.move(old, new.parent / "old")  # goes with its folder
    os.replace(new, old)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")
