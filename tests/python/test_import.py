"""`import torch` costs no more with the package, and finds nothing else."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest
from programs import run_program

import torch_mesh as tm

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(
        name, BENCHMARKS / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(program, **env):
    """The JSON that `program` prints, in a new process."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
        check=True,
    )
    return json.loads(result.stdout)


def test_the_package_adds_at_most_two_milliseconds_to_import_torch():
    import_time = load("import_time")
    answers = [import_time.import_torch("with") for _ in range(3)]
    assert all(answer["loaded"] for answer in answers)
    # The least: others use the machine too. benchmarks/import_time.py compares
    # whole imports, in pairs.
    assert 0 < min(a["ours"] for a in answers) < import_time.TARGET_MS


STATE = """
import json, sys, torch
print(json.dumps({
    "modules": sorted(m for m in sys.modules if "mesh" in m.split(".")[0]),
    "libraries": sorted({
        line.split("/")[-1].strip()
        for line in open("/proc/self/maps") if ".so" in line
    }),
    "accelerator": str(torch.accelerator.current_accelerator()),
    "is_available": torch.accelerator.is_available(),
    "cuda": torch.cuda.is_available(),
    "backend": torch._C._get_privateuse1_backend_name(),
    "default": str(torch.get_default_device()),
    "threads": torch.get_num_threads(),
    "has_mesh": hasattr(torch, "mesh"),
}))
"""


@pytest.fixture(scope="module")
def states():
    """What `import torch` leaves, with the entry point and without."""
    return [run(STATE, TORCH_DEVICE_BACKEND_AUTOLOAD=on) for on in "10"]


def test_import_torch_loads_one_module_of_ours(states):
    with_it, without = states
    assert with_it["modules"] == ["torch_mesh_autoload"]
    assert without["modules"] == []


def test_import_torch_loads_no_library_of_ours(states):
    with_it, without = states
    assert not [name for name in with_it["libraries"] if "mesh" in name]
    # Reading the entry points may load parts of Python's own library.
    torch_of = [
        {name for name in state["libraries"] if name.startswith("lib")}
        for state in (with_it, without)
    ]
    assert torch_of[0] == torch_of[1]


def test_import_torch_finds_no_other_accelerator(states):
    with_it, without = states
    for state in states:
        del state["modules"], state["libraries"]
    assert with_it == without
    assert with_it["has_mesh"] is False


def test_the_version_is_that_of_the_project():
    project = pathlib.Path(__file__).resolve().parents[2] / "pyproject.toml"
    version = tomllib.loads(project.read_text())["project"]["version"]
    assert tm.__version__ == version


def test_a_library_that_does_not_load_says_what_to_do():
    run_program(
        "import sys\n"
        'sys.modules["torch_mesh._C"] = None\n'
        "try:\n"
        "    import torch_mesh\n"
        "except ImportError as error:\n"
        "    text = str(error)\n"
        "import torch\n"
        'assert "[library-load]" in text and torch.__version__ in text, text\n'
        'assert "Hint:" in text\n'
    )
