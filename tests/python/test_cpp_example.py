"""examples/cpp builds against the installed package and trains alike."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"


def tool(name):
    """A tool beside this interpreter, or else on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def installed_package():
    spec = importlib.util.find_spec("torch_mesh")
    for folder in spec.submodule_search_locations if spec else ():
        if (Path(folder) / "share/cmake/torch_mesh").is_dir():
            return Path(folder)
    pytest.skip("torch_mesh is not installed in this interpreter")


def run(command, folder):
    """What a command of the shell prints, run as the page has it."""
    tools = {str(Path(tool(name)).parent) for name in ("cmake", "ninja")}
    interpreter = str(Path(sys.executable).parent)
    # A build of its own: nothing of this one's settings.
    environment = {k: v for k, v in os.environ.items() if k != "CXXFLAGS"}
    environment |= {
        "PATH": os.pathsep.join([interpreter, *tools, os.environ["PATH"]]),
        "CMAKE_GENERATOR": "Ninja",
        "CMAKE_BUILD_PARALLEL_LEVEL": "1",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder in which the commands of the page were run, and their output."""
    installed_package()
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copytree(
        EXAMPLE,
        folder / "examples" / "cpp",
        ignore=shutil.ignore_patterns("build"),
    )
    page = (EXAMPLE / "README.md").read_text()
    (commands,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return folder, run(commands, folder)


@pytest.mark.slow
def test_the_example_trains_to_the_losses_of_one_device(built):
    printed = built[1].splitlines()
    counts = [line for line in printed if " on data=" in line]
    assert "all_reduce@data" in counts[0]
    assert "all_reduce@model" in counts[1]
    rows = [line.split() for line in printed if line.strip()[:1].isdigit()]
    assert len(rows) == 20
    # The losses fall: what is compared is a training.
    assert all(float(rows[-1][i]) < float(rows[0][i]) for i in (1, 2, 3))


@pytest.mark.slow
def test_the_programs_of_the_guide_are_true(built):
    assert run("build/example/guide", built[0]).splitlines() == [
        "layout: (S0, S1)",
        "value: true",
        "shards: 4 of them, the last 2 x 3",
        "from shards: true",
        "gradient: true",
        "first weight: (R, S0)",
        "loss falls: true",
        "collectives: true",
        "replicated ops: 0",
        "error: unknown-axis",
        "error of torch: true",
    ]
