"""find_package(torch_mesh) says why it finds none, and ends no configure step.

torch is a stand-in: a header that tells the version, and a target.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_cpp_example import tool

import torch_mesh
from torch_mesh import engines

PACKAGE = Path(torch_mesh.__file__).parent / "share/cmake/torch_mesh"
PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES NONE)
foreach(time IN ITEMS first second)
  find_package(torch_mesh QUIET)
  message(STATUS "found: ${torch_mesh_FOUND}.")
endforeach()
message(STATUS "because: ${torch_mesh_NOT_FOUND_MESSAGE}")
if(NOT MAY_LACK)
  find_package(torch_mesh REQUIRED)
endif()
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package, with the names of its engines given."""

    def copy(*names):
        [own] = [path.name for path in PACKAGE.glob("torch_*_*")]
        home = tmp_path / "installed/torch_mesh/share/cmake/torch_mesh"
        shutil.copytree(PACKAGE, home)
        for name in names:
            shutil.copytree(PACKAGE / own, home / name, dirs_exist_ok=True)
        if own not in names:
            shutil.rmtree(home / own)
        return home

    return copy


def torch_of(folder, version):
    config = folder / "torch/share/cmake/Torch/TorchConfig.cmake"
    config.parent.mkdir(parents=True)
    config.write_text(
        "set(TORCH_FOUND TRUE)\nadd_library(torch INTERFACE IMPORTED)\n"
    )
    header = folder / "torch/include/torch/headeronly/version.h"
    if version:
        header.parent.mkdir(parents=True)
        header.write_text(
            "".join(
                f"#define TORCH_VERSION_{part} {number}\n"
                for part, number in zip(
                    ("MAJOR", "MINOR", "PATCH"), version, strict=True
                )
            )
        )
    return config.parent


def configured(folder, package, torch, **settings):
    """(exit status, output in one line) of a configure step."""
    (folder / "CMakeLists.txt").write_text(PROJECT)
    done = subprocess.run(
        [tool("cmake"), "-S", folder, "-B", folder / "build", "-G", "Ninja"]
        + [f"-Dtorch_mesh_DIR={package}", f"-DTorch_DIR={torch}"]
        + [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
        + [f"-D{name}={value}" for name, value in settings.items()],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, " ".join(done.stdout.split())


def test_without_an_engine_for_that_torch_it_names_those_there_are(
    tmp_path, package
):
    home = package("torch_2_98", "torch_2_99")
    torch = torch_of(tmp_path, (2, 13, 1))
    status, told = configured(tmp_path, home, torch, MAY_LACK=True)
    assert (status, told.count("found: 0.")) == (0, 2), told
    expected = (
        "torch_mesh: no engine for torch 2.13.1; there is torch_2_98 and"
        " torch_2_99. Hint: install"
    )
    assert f"because: {expected}" in told
    status, told = configured(tmp_path, home, torch, MAY_LACK=False)
    assert status != 0 and told.count(expected) == 2


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (None, r"no \S*/version\.h: torch is older than 2\.11\."),
        ("none", r"torch was not found\."),
    ],
)
def test_a_torch_that_does_not_do_is_no_error_either(
    version, expected, tmp_path, package
):
    torch = tmp_path / "nowhere"
    if version is None:
        torch = torch_of(tmp_path, version)
    status, told = configured(
        tmp_path, package("torch_2_13"), torch, MAY_LACK=True
    )
    assert status == 0 and told.count("found: 0.") == 2, told
    assert re.search(f"because: torch_mesh: {expected}", told), told


def test_the_engine_of_a_torch_has_the_name_that_python_gives_it(
    tmp_path, package
):
    home = package(engines.name("2.13"), engines.name("3.1"))
    for name in ("2.13", "3.1"):
        targets = home / engines.name(name) / "torch_meshTargets.cmake"
        targets.write_text(f'message(STATUS "targets of {name}")')
    torch = torch_of(tmp_path, (3, 1, 4))
    status, told = configured(tmp_path, home, torch)
    assert status == 0 and "targets of 3.1" in told, told
    assert "targets of 2.13" not in told
