"""A build from source says what is missing first, and how far it is."""

import importlib.metadata
import importlib.util
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "tools" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    return load("build_backend")


def compiler(folder, version):
    path = folder / "my-g++"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


def test_nothing_is_missing_where_this_was_built(backend):
    assert backend.missing() == []
    backend.check()


def test_a_missing_compiler_is_named(backend, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    [found] = backend.missing()
    assert "/nowhere/g++" in found and "apt-get install g++" in found
    with pytest.raises(SystemExit):
        backend.check()
    told = capsys.readouterr().err
    assert told.startswith("torch-mesh cannot be compiled here:\n  - no C++")
    with pytest.raises(SystemExit):
        backend.get_requires_for_build_wheel()


@pytest.mark.parametrize(
    ("version", "is_old"), [("9.4.0", True), ("13", False)]
)
def test_an_old_compiler_is_named(
    version, is_old, backend, monkeypatch, tmp_path
):
    monkeypatch.setenv("CXX", compiler(tmp_path, version))
    assert bool(backend.missing()) == is_old
    if is_old:
        assert backend.missing() == [
            "g++ 9.4.0 is older than 12: set CXX to a newer"
        ]


def test_an_old_torch_is_named(backend, monkeypatch):
    monkeypatch.setattr(backend, "torch_around", lambda: ("2.10.0", "/there"))
    assert backend.missing() == [
        "torch 2.10.0 is older than 2.11: pip install -U torch"
    ]


def test_missing_headers_of_python_are_named(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(backend.sysconfig, "get_path", lambda _: str(tmp_path))
    [found] = backend.missing()
    assert str(tmp_path / "Python.h") in found and "python3-dev" in found


def test_it_compiles_against_the_torch_that_is_there(backend, monkeypatch):
    version, folder = backend.torch_around()
    assert version == importlib.metadata.version("torch")
    assert Path(folder) == Path(torch.__file__).parent
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    settings = backend._with_torch({"build-dir": "b"})
    assert settings == {
        "build-dir": "b",
        "cmake.define.Torch_DIR": f"{folder}/share/cmake/Torch",
    }
    assert os.environ.pop(backend.VARIABLE) == version
    assert not any(
        name.startswith("torch")
        for name in backend.get_requires_for_build_wheel()
    )


def test_it_finds_that_torch_from_within_pips_isolation(tmp_path):
    """Which hides site-packages by a sitecustomize on PYTHONPATH."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
    )
    scikit = Path(sys.modules["pytest"].__file__).parents[1]
    program = (
        "import sys\n"
        "try:\n"
        "    import torch\n"
        "except ImportError:\n"
        "    print('hidden')\n"
        f"sys.path.append({str(scikit)!r})\n"
        "import scikit_build_core.build\n"
        "sys.path.pop()\n"
        f"sys.path.insert(0, {str(ROOT / 'tools')!r})\n"
        "import build_backend\n"
        "print(build_backend.torch_around()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    version = importlib.metadata.version("torch")
    assert done.stdout.split() == ["hidden", version], done.stderr


class Terminal(io.StringIO):
    """Holds what was shown, also once it is closed."""

    def close(self):
        pass


@pytest.fixture
def terminal(backend, monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(backend, "_terminal", lambda: shown)
    return shown


def test_without_any_torch_one_is_asked_for(backend, monkeypatch, terminal):
    monkeypatch.setattr(backend, "torch_around", lambda: None)
    requires = backend.get_requires_for_build_wheel()
    assert f"torch=={backend.TORCH}" in requires
    assert backend._with_torch(None) == {}
    told = terminal.getvalue()
    assert f"torch {backend.TORCH} is fetched to compile against" in told
    assert "gigabytes" in told and "pip install it first" in told


def test_with_a_torch_nothing_is_fetched_and_nothing_said(backend, terminal):
    backend.get_requires_for_build_wheel()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [("get_requires_for_build_editable", ()), ("build_editable", ("there",))],
)
def test_an_editable_install_is_refused_in_one_sentence(
    hook, arguments, backend, capsys
):
    with pytest.raises(SystemExit):
        getattr(backend, hook)(*arguments)
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith("torch-mesh has no editable install: use `make buil")


def test_pip_shows_that_sentence(tmp_path):
    """Asked of pip itself, which calls the hooks in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-build-isolation"]
        + ["--no-deps", "--no-index", "--target", tmp_path, "-e", ROOT],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode != 0
    assert "torch-mesh has no editable install" in done.stdout
    assert "setup.py" not in done.stdout and "Traceback" not in done.stdout


def test_the_wheel_asks_for_the_minor_that_it_was_compiled_for(monkeypatch):
    tool = load("wheel_dependencies")
    monkeypatch.setenv("TORCH_MESH_TORCH_VERSION", "2.14.1+cu130")
    assert tool.dynamic_metadata({}, {}) == {"dependencies": ["torch==2.14.*"]}


def test_sources_ask_for_any_torch_also_when_packed_beside_one(monkeypatch):
    tool = load("wheel_dependencies")
    monkeypatch.delenv("TORCH_MESH_TORCH_VERSION", raising=False)
    assert tool.dynamic_metadata({}, {}) == {"dependencies": ["torch>=2.11"]}


def test_progress_is_shown_as_files_are_compiled(backend, terminal, tmp_path):
    assert backend._num_compiled(tmp_path) == (0, 0)
    names = [f"a/file{i}.cpp.o" for i in range(4)]
    (tmp_path / "a").mkdir()
    (tmp_path / "build.ninja").write_text(
        "".join(f"build {name}: CXX_COMPILER__a x.cpp\n" for name in names)
    )
    with backend.progress(tmp_path):
        for name in names[:3]:
            (tmp_path / name).write_text("")
        deadline = time.monotonic() + 30
        while "3 of 4" not in terminal.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "torch-mesh: 3 of 4 files compiled, some" in terminal.getvalue()
