"""The tools that make a wheel of several engines, and try it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from release_tools import (
    check_compat,
    check_wheel,
    join_wheels,
    repair_wheel,
    try_wheel,
)

from torch_mesh import engines

# Joining wheels.


@pytest.mark.parametrize(
    ("minors", "expected"),
    [
        ([(2, 13)], "torch>=2.12,!=2.12.*,<2.14"),
        ([(2, 14), (2, 13)], "torch>=2.12,!=2.12.*,<2.15"),
        (
            [(2, 11), (2, 14), (2, 12)],
            "torch>=2.10,!=2.10.*,<2.15,!=2.13.*",
        ),
        ([(3, 0)], "torch>=2,!=2.*,<3.1"),
    ],
)
def test_a_wheel_asks_for_the_torches_that_it_has_engines_for(minors, expected):
    assert join_wheels.requirement(minors) == expected


def test_pip_takes_no_pre_release_for_a_wheel_and_keeps_a_vendors():
    requirement = join_wheels.requirement([(2, 13), (2, 14)])
    asked = Requirement(requirement).specifier
    assert asked.prereleases is None
    offered = ["2.12.1", "2.13.0", "2.14.1", "2.15.0a0", "2.15.0"]
    assert list(asked.filter([*offered, "2.14.2a0"])) == ["2.13.0", "2.14.1"]
    assert asked.contains("2.13.0a0+abc", prereleases=True)
    assert not asked.contains("2.12.1.post1", prereleases=True)


def make_wheel(folder, minor, **changed):
    """A wheel with an engine, in a folder of its own."""
    root = folder / f"source_{minor}" / "torch_mesh-1.0"
    files = {
        "torch_mesh/__init__.py": "x = 1\n",
        f"torch_mesh/engines/torch_2_{minor}/_C.so": f"binary {minor}",
        f"torch_mesh/engines/torch_2_{minor}/engine.json": "{}",
        f"torch_mesh/share/cmake/torch_mesh/torch_2_{minor}/a.cmake": "",
        "torch_mesh-1.0.dist-info/METADATA": (
            "Metadata-Version: 2.2\nName: torch-mesh\nVersion: 1.0\n"
            f"Requires-Dist: torch==2.{minor}.*\n"
        ),
        "torch_mesh-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n"
            "Tag: cp311-cp311-linux_x86_64\n"
        ),
    } | changed
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    out = folder / f"wheel_{minor}"
    out.mkdir()
    subprocess.run(
        [sys.executable, "-m", "wheel", "pack", root, "-d", out],
        check=True,
        capture_output=True,
    )
    [wheel] = out.iterdir()
    return wheel


def test_two_wheels_become_one_with_both_engines(tmp_path):
    wheels = [make_wheel(tmp_path, minor) for minor in (13, 14)]
    joined = join_wheels.join(wheels, tmp_path / "out")
    subprocess.run(
        [sys.executable, "-m", "wheel", "unpack", joined, "-d", tmp_path],
        check=True,
        capture_output=True,
    )  # which checks RECORD
    root = tmp_path / "torch_mesh-1.0"
    for minor in (13, 14):
        text = (root / f"torch_mesh/engines/torch_2_{minor}/_C.so").read_text()
        assert text == f"binary {minor}"
    metadata = (root / "torch_mesh-1.0.dist-info/METADATA").read_text()
    assert "Requires-Dist: torch>=2.12,!=2.12.*,<2.15\n" in metadata
    assert engines.minors(root / "torch_mesh/engines") == ["2.13", "2.14"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"torch_mesh/__init__.py": "x = 2\n"}, "differs from wheel to wheel"),
        ({"torch_mesh/more.py": ""}, "Only one of two wheels holds"),
        ({"torch_mesh/engines/torch_2_13/_C.so": ""}, "Two wheels hold"),
        (
            {
                "torch_mesh-1.0.dist-info/METADATA": (
                    "Metadata-Version: 2.2\nName: torch-mesh\nVersion: 1.0\n"
                    "Requires-Dist: torch==2.14.*\nRequires-Dist: more\n"
                )
            },
            "METADATA differs",
        ),
    ],
)
def test_wheels_that_do_not_go_together_are_refused(changed, message, tmp_path):
    wheels = [make_wheel(tmp_path, 13), make_wheel(tmp_path, 14, **changed)]
    with pytest.raises(ValueError, match=message):
        join_wheels.join(wheels, tmp_path / "out")


# What is inside a wheel.

WHEEL = "torch_mesh-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"


def wheel_of(folder, name=WHEEL, **files):
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return folder / name


@pytest.mark.parametrize(
    "path",
    [
        "/home/x/src/a.cpp",
        "/src/core/layout.cpp",
        "/home/x/build/empty.cpp",
        "/opt/env-1/lib/python3.11/site-packages/torch/include/c10/a.h",
    ],
)
def test_a_path_of_the_builder_is_found(path, tmp_path):
    wheel = wheel_of(
        tmp_path,
        **{
            "torch_mesh/_C.so": b"\0about " + path.encode() + b":\0",
            "torch_mesh/a.py": "/home/y/src/a.py",
        },
    )
    assert check_wheel.paths_of_builder(wheel) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "src/core/layout.cpp",
        "torch/include/c10/core/a.h",
        "$ORIGIN/../../../torch/lib",
        "../src/a.cpp",
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
    ],
)
def test_what_every_build_says_alike_is_no_path_of_the_builder(text, tmp_path):
    wheel = wheel_of(tmp_path, **{"a.so": b"\0" + text.encode() + b"\0"})
    assert check_wheel.paths_of_builder(wheel) == []


def test_a_wheel_is_to_need_what_its_name_says(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        check_wheel, "needed", lambda _: ("manylinux_2_34_x86_64", "GLIBC 2.34")
    )
    wheel = wheel_of(tmp_path, **{"a.so": b"/home/x/src/a.cpp"})
    with pytest.raises(ValueError, match="2_28.* needs manylinux_2_34_x86_64"):
        check_wheel.check(wheel)
    assert "needs GLIBC 2.34" in capsys.readouterr().out
    wheel = wheel.rename(tmp_path / WHEEL.replace("2_28", "2_34"))
    with pytest.raises(ValueError, match="names the builder's files"):
        check_wheel.check(wheel)


def test_a_wheel_of_one_system_is_to_be_repaired(tmp_path):
    wheel = wheel_of(tmp_path, "torch_mesh-1.0-cp311-cp311-linux_x86_64.whl")
    with pytest.raises(ValueError, match="for linux_x86_64, .*repair_wheel"):
        check_wheel.check(wheel)


def test_the_symbols_that_auditwheel_reads_are_shown(monkeypatch):
    told = {
        "sym_tag": "manylinux_2_34_x86_64",
        "overall_tag": "linux_x86_64",
        "versioned_symbols": {
            "libc.so.6": ["GLIBC_2.4", "GLIBC_2.34", "GLIBC_2.2.5"],
            "libstdc++.so.6": ["CXXABI_1.3", "CXXABI_1.3.11"],
        },
    }
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], 0, json.dumps(told)),
    )
    assert check_wheel.needed(Path(WHEEL)) == (
        "manylinux_2_34_x86_64",
        "CXXABI 1.3.11, GLIBC 2.34",
    )


@pytest.mark.parametrize("brings", ["torch_mesh.libs/libgomp.so.1", None])
def test_a_repaired_wheel_brings_no_library_of_others(
    brings, tmp_path, monkeypatch
):
    def run(command, **_):
        excluded = {
            part.removeprefix("--exclude=")
            for part in command
            if part.startswith("--exclude=")
        }
        assert excluded == set(repair_wheel.OF_TORCH)
        folder = Path(command[command.index("-w") + 1])
        wheel_of(folder, **dict.fromkeys(["a.so", brings or "b.so"], b""))

    monkeypatch.setattr(subprocess, "run", run)
    wheel = wheel_of(tmp_path, "torch_mesh-1.0-cp311-cp311-linux_x86_64.whl")
    if brings:
        with pytest.raises(ValueError, match=r"brings .*libgomp"):
            repair_wheel.repair(wheel, tmp_path / "dist")
    else:
        repaired = repair_wheel.repair(wheel, tmp_path / "dist")
        assert repaired == tmp_path / "dist" / WHEEL and repaired.is_file()


# A wheel beside a torch.

TOLD = {
    "torch": "2.13.0+cpu",
    "engine": "torch_2_13",
    "openmp": ["/there/libgomp.so.1"],
    "threads": [2, 2],
}


@pytest.fixture
def beside(monkeypatch, tmp_path):
    """Tries a wheel where a program prints what the test says."""

    def try_it(torches=("torch 2.13.0",), **told):
        installed = [["torch 2.13.0"], list(torches)]
        monkeypatch.setattr(try_wheel, "python_of", lambda *_: Path("python"))
        monkeypatch.setattr(try_wheel, "pip", lambda *_: "")
        monkeypatch.setattr(try_wheel, "torches", lambda _: installed.pop(0))
        monkeypatch.setattr(
            try_wheel, "run", lambda *_: json.dumps(TOLD | told)
        )
        monkeypatch.setattr(
            subprocess,
            "run",
            lambda *_, **__: subprocess.CompletedProcess([], 0, "0.3 ms\n"),
        )
        try_wheel.try_beside(tmp_path / WHEEL, "2.13.0", tmp_path)

    return try_it


def test_a_wheel_that_does_as_it_should_is_told_of(beside, capsys):
    beside()
    told = capsys.readouterr().out
    assert "beside torch 2.13.0+cpu: torch_2_13\n" in told
    assert "programs of the README run\n  0.3 ms\n" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"torches": ["torch 2.14.1"]}, "torch was touched"),
        ({"engine": "torch_2_14"}, "not torch 2.13.0 with torch_2_13"),
        ({"torch": "2.13.1"}, "not torch 2.13.0 with torch_2_13"),
        ({"openmp": ["a/libgomp.so", "b/libiomp5.so"]}, "not one OpenMP"),
        ({"threads": [2, 1]}, "number of threads"),
    ],
)
def test_what_is_not_as_it_should_ends_the_trial(changed, told, beside):
    with pytest.raises(SystemExit, match=told):
        beside(**changed)


def test_a_wheel_of_one_system_is_not_tried(tmp_path, monkeypatch):
    wheel = wheel_of(tmp_path, "torch_mesh-1.0-cp311-cp311-linux_x86_64.whl")
    command = ["try_wheel", str(wheel), "--folder", str(tmp_path / "there")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="not for manylinux"):
        try_wheel.main()


# Sources against the headers of other torches.


def test_headers_come_from_where_the_users_pip_looks(tmp_path, monkeypatch):
    """Without a constraint, which is meant for the torch that runs."""
    asked = []

    def run(command, check, env):
        asked.append((command, env))
        with zipfile.ZipFile(tmp_path / "torch-2.12.1/torch-.whl", "w") as file:
            file.writestr("torch/include/a.h", "")
            file.writestr("torch/b.py", "")

    monkeypatch.setenv("PIP_CONFIG_FILE", "/a/mirror.conf")
    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):  # the second finds them
        include = check_compat.headers_of("2.12.1", tmp_path)
        assert [path.name for path in include.iterdir()] == ["a.h"]
    [(command, env)] = asked
    assert "torch==2.12.1" in command
    assert env["PIP_CONFIG_FILE"] == "/a/mirror.conf"
    assert env["PIP_CONSTRAINT"] == os.devnull


@pytest.mark.parametrize(
    ("text", "error"), [("int x;", ""), ("int x = y;", "was not declared")]
)
def test_what_the_compiler_says_is_told(text, error, tmp_path):
    (tmp_path / "a.cpp").write_text(text)
    source, _, told = check_compat.compile_one(tmp_path / "a.cpp", tmp_path)
    assert source == tmp_path / "a.cpp"
    assert error in told and bool(error) == bool(told)


def test_sources_without_torch_are_left_to_the_build():
    source = check_compat.ROOT / "src"
    assert not check_compat.uses_torch(source / "core/layout.cpp")
    assert check_compat.uses_torch(source / "tensor/current_mesh.cpp")
