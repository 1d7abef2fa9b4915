"""The build backend: scikit-build-core, with three things before and beside it.

- It says what is missing before it compiles for minutes.
- It compiles against the torch of the environment that is installed into, also
  from pip's isolated build environment, which has none: no second torch is
  fetched, and the wheel does not ask for another one.
- It shows how far it is, on the terminal, where pip shows nothing; and says so
  before a torch is fetched, where there is none.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from scikit_build_core import build as _backend

# What a build in an environment without any torch compiles against.
TORCH = "2.13.0"
OLDEST_TORCH = (2, 11)
OLDEST_GCC = 12
# The version that wheel_dependencies asks for.
VARIABLE = "TORCH_MESH_TORCH_VERSION"

Settings = dict[str, Any] | None

_FIND_TORCH = """
import importlib.metadata, importlib.util
spec = importlib.util.find_spec("torch")
if spec is not None and spec.submodule_search_locations:
    print(importlib.metadata.version("torch"))
    print(list(spec.submodule_search_locations)[0])
"""


def torch_around() -> tuple[str, str] | None:
    """The torch to compile against.

    Returns:
        Version and folder of the one that this environment has; else of the one
        that its interpreter finds without pip's isolation, which works by
        PYTHONPATH; None if there is none. Other installers isolate a build in
        an environment of its own, from which none is seen.
    """
    hidden_by_pip = ("PYTHONPATH", "PYTHONNOUSERSITE")
    without = {k: v for k, v in os.environ.items() if k not in hidden_by_pip}
    for environment in (dict(os.environ), without):
        found = subprocess.run(
            [sys.executable, "-P", "-c", _FIND_TORCH],
            capture_output=True,
            text=True,
            env=environment,
        ).stdout.split("\n")
        if len(found) > 2:
            return found[0], found[1]
    return None


def missing() -> list[str]:
    """What this machine lacks, a sentence each, with the way out."""
    found = []
    torch = torch_around()
    if torch is not None:
        numbers = re.findall(r"\d+", torch[0])[:2]
        if tuple(map(int, numbers)) < OLDEST_TORCH:
            found.append(
                f"torch {torch[0]} is older than 2.11: pip install -U torch"
            )
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    try:
        version = subprocess.run(
            [*compiler.split(), "-dumpfullversion", "-dumpversion"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found.append(
            f"no C++ compiler ({compiler}): on Debian apt-get install g++"
        )
    else:
        major = re.match(r"\d+", version)
        is_gcc = "clang" not in compiler and major is not None
        if is_gcc and int(major.group()) < OLDEST_GCC:
            found.append(
                f"g++ {version} is older than {OLDEST_GCC}: set CXX to a newer"
            )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        found.append(f"no {header}: on Debian apt-get install python3-dev")
    return found


def check() -> None:
    """Ends the build with what is missing."""
    found = missing()
    if found:
        lines = "".join(f"\n  - {line}" for line in found)
        print(f"torch-mesh cannot be compiled here:{lines}", file=sys.stderr)
        raise SystemExit(1)


# How far it is


def _terminal() -> Any:
    """Where lines can be shown while pip keeps what is printed to itself."""
    try:
        return open("/dev/tty", "w")
    except OSError:
        return open(os.dup(2), "w")


def _num_compiled(folder: Path) -> tuple[int, int]:
    """Objects that are there, and that there will be."""
    plan = folder / "build.ninja"
    if not plan.is_file():
        return 0, 0
    objects = re.findall(
        r"^build (\S+\.o): CXX_COMPILER", plan.read_text(), re.MULTILINE
    )
    return sum((folder / name).is_file() for name in objects), len(objects)


@contextlib.contextmanager
def progress(folder: Path) -> Iterator[None]:
    """A line for each tenth of what is compiled in `folder`."""
    done = threading.Event()
    start = time.monotonic()

    def watch() -> None:
        shown = 0
        with _terminal() as terminal:
            while not done.wait(1):
                num, all_of_them = _num_compiled(folder)
                tenth = 10 * num // max(all_of_them, 1)
                if tenth > shown:
                    shown = tenth
                    passed = time.monotonic() - start
                    left = passed * (all_of_them - num) / num / 60
                    print(
                        f"torch-mesh: {num} of {all_of_them} files compiled,"
                        f" some {left:.0f} minutes left",
                        file=terminal,
                        flush=True,
                    )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


# The hooks of PEP 517


def _with_torch(config_settings: Settings) -> dict[str, Any]:
    """Settings that name the torch to compile against."""
    settings = dict(config_settings or {})
    torch = torch_around()
    if torch is not None:
        os.environ[VARIABLE] = torch[0]
        settings.setdefault(
            "cmake.define.Torch_DIR", f"{torch[1]}/share/cmake/Torch"
        )
    return settings


def _compiled(
    build: Callable[..., str],
    folder: str,
    config_settings: Settings,
    metadata_directory: str | None,
) -> str:
    check()
    settings = _with_torch(config_settings)
    with tempfile.TemporaryDirectory() as build_dir:
        build_dir = settings.setdefault("build-dir", build_dir)
        with progress(Path(build_dir)):
            return build(folder, settings, metadata_directory)


def get_requires_for_build_wheel(
    config_settings: Settings = None,
) -> list[str]:
    check()
    requires = list(_backend.get_requires_for_build_wheel(config_settings))
    if torch_around():
        return requires
    with _terminal() as terminal:
        print(
            f"torch-mesh: no torch is seen here: torch {TORCH} is fetched to"
            " compile against, which may bring gigabytes of libraries for CUDA."
            "\n  To have another: pip install it first, from"
            " https://download.pytorch.org/whl/cpu for CPUs. Installers other"
            " than pip need --no-build-isolation to see it.",
            file=terminal,
            flush=True,
        )
    return [*requires, f"torch=={TORCH}"]


def build_wheel(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    return _compiled(
        _backend.build_wheel,
        wheel_directory,
        config_settings,
        metadata_directory,
    )


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    return _backend.prepare_metadata_for_build_wheel(
        metadata_directory, _with_torch(config_settings)
    )


get_requires_for_build_sdist = _backend.get_requires_for_build_sdist
build_sdist = _backend.build_sdist


def _no_editable_install(*_: Any) -> NoReturn:
    """An engine lies in the folder of the package, where no source does.

    Without these hooks pip would ask for a setup.py.
    """
    print(
        "torch-mesh has no editable install: use `make build`, which takes"
        " seconds after an edit (CONTRIBUTING.md), or `pip install .`",
        file=sys.stderr,
    )
    raise SystemExit(1)


get_requires_for_build_editable = _no_editable_install
build_editable = _no_editable_install
