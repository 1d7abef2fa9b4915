"""The engine that goes with the running torch is found, and no other loads."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

import torch_mesh
from torch_mesh import _C, engines

PACKAGE = Path(torch_mesh.__file__).parent
RUNNING = engines.minor(torch.__version__)
FOLDER = f"torch_{RUNNING.replace('.', '_')}"


def engine(folder, name, compiled):
    home = folder / name
    home.mkdir(parents=True)
    (home / "engine.json").write_text(json.dumps({"torch": compiled}))
    return home


@pytest.mark.parametrize(
    ("version", "minor"),
    [
        ("2.13.0", "2.13"),
        ("2.14.1+cu130", "2.14"),
        ("2.15.0a0+git1", "2.15"),
        ("3.0.0.dev20270101", "3.0"),
        ("odd", "odd"),
    ],
)
def test_the_minor_of_a_version(version, minor):
    assert engines.minor(version) == minor


def test_the_engine_of_the_minor_is_found(tmp_path):
    old = engine(tmp_path, "torch_2_9", "2.9.1")
    new = engine(tmp_path, "torch_2_13", "2.13.0")
    assert engines.minors(tmp_path) == ["2.9", "2.13"]
    assert engines.fitting("2.9.0", tmp_path) == old
    assert engines.fitting("2.13.2+cpu", tmp_path) == new


@pytest.mark.parametrize("there", [(), ("2.13",), ("2.11", "2.13", "2.14")])
def test_a_torch_without_an_engine_is_one_sentence(there, tmp_path):
    for version in there:
        engine(tmp_path, f"torch_{version.replace('.', '_')}", f"{version}.0")
    with pytest.raises(ImportError) as caught:
        engines.fitting("2.99.0+cu140", tmp_path)
    text = str(caught.value)
    assert "\n" not in text and text.endswith("[no-engine]")
    assert "torch 2.99.0+cu140 is installed" in text
    assert (" and ".join(there) or "has no engine:") in text


def test_an_engine_of_another_torch_than_its_folder_says_is_refused(tmp_path):
    engine(tmp_path, "torch_2_14", "2.13.0")
    with pytest.raises(ImportError, match=r"2\.13\.0.*2\.14\.1.*\[wrong-eng"):
        engines.fitting("2.14.1", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", "2.13", "\xff"])
def test_what_an_engine_was_compiled_against_must_be_told(text, tmp_path):
    home = engine(tmp_path, "torch_2_14", "2.14.0")
    (home / "engine.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ImportError, match=r"engine\.json.*\[wrong-engine\]"):
        engines.fitting("2.14.1", tmp_path)
    (home / "engine.json").unlink()
    assert engines.minors(tmp_path) == []
    with pytest.raises(ImportError, match=r"has no engine.*\[no-engine\]"):
        engines.fitting("2.14.1", tmp_path)


def run(program, *path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", program],
        text=True,
        capture_output=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(map(str, path))},
    )


@pytest.fixture
def stub_torch(tmp_path):
    (tmp_path / "stub/torch").mkdir(parents=True)
    (tmp_path / "stub/torch/__init__.py").write_text('__version__ = "2.99.0"\n')
    return tmp_path / "stub"


def test_beside_an_unknown_torch_the_import_says_so(stub_torch):
    result = run("import torch; print(torch.__version__)", stub_torch)
    assert (result.returncode, result.stdout) == (0, "2.99.0\n")
    result = run("import torch_mesh", stub_torch)
    assert result.returncode == 1
    [last] = [
        line
        for line in result.stderr.splitlines()
        if line.startswith("ImportError")
    ]
    assert last == result.stderr.splitlines()[-1]
    assert "torch 2.99.0 is installed" in last and RUNNING in last
    assert "During handling" not in result.stderr
    assert ".cpp" not in result.stderr


def test_keras_stays_as_it_is_beside_a_torch_without_an_engine():
    """Also where warnings are errors; it is said once."""
    result = run(
        "import torch\n"
        "torch.__version__ = '2.99.0'\n"
        "import os, warnings\n"
        "os.environ['KERAS_BACKEND'] = 'torch'\n"
        "warnings.simplefilter('error', RuntimeWarning)\n"
        "import keras\n"
        "print(float(keras.ops.sum(keras.ops.ones(3))))\n"
    )
    assert result.stdout == "3.0\n", result.stderr
    assert result.stderr.count("[no-engine]") == 1


TRIES = """
import sys, torch
torch.__version__ = "2.99.0"
try:
    import torch_mesh
except ImportError as error:
    print(error)
print("mesh" in sys.modules, torch.ones(2).sum().item())
"""


@pytest.fixture
def copied(tmp_path):
    """The package, with its engine under a name that the test chooses."""

    def copy(name, compiled):
        package = tmp_path / "copy/torch_mesh"
        shutil.copytree(
            PACKAGE, package, ignore=shutil.ignore_patterns("engines")
        )
        home = package / "engines" / name
        shutil.copytree(PACKAGE / "engines" / FOLDER, home)
        (home / "engine.json").write_text(json.dumps({"torch": compiled}))
        return tmp_path / "copy"

    return copy


def test_an_engine_in_the_wrong_folder_is_not_loaded(copied):
    result = run(TRIES, copied("torch_2_99", torch.__version__))
    assert "[wrong-engine]" in result.stdout, result.stderr
    assert result.stdout.endswith("False 2.0\n")


def test_an_engine_that_says_another_torch_than_it_is_of_tells(copied):
    result = run(TRIES, copied("torch_2_99", "2.99.0"))
    assert f"compiled against torch {RUNNING}" in result.stdout, result.stderr
    assert "torch 2.99.0 is running" in result.stdout
    assert "[library-load]" in result.stdout


def test_the_engine_stands_in_the_folder_of_the_running_torch():
    assert Path(_C.__file__).parent == PACKAGE / "engines" / FOLDER
    told = json.loads((PACKAGE / f"engines/{FOLDER}/engine.json").read_text())
    assert engines.minor(told["torch"]) == RUNNING


LIBRARIES = sorted((PACKAGE / "engines" / FOLDER).glob("*.so"))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_an_engine_brings_nothing_that_torch_has_or_the_builder(library):
    told = subprocess.run(
        ["readelf", "-d", library], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", told))
    assert {n for n in needed if n.startswith("libtorch")}
    # Its name differs from build to build of torch.
    assert not {n for n in needed if "omp" in n}
    assert not {n for n in needed if "re2" in n}
    found = re.findall(
        rb"[\w./-]*/(?:site-packages|src)/[\w./-]+", library.read_bytes()
    )
    assert not [path for path in found if path.startswith(b"/")]


THREADS = """
import re, torch, torch_mesh as tm
torch.set_num_threads(2)
mesh = tm.Mesh({"data": 2})
x = tm.distribute(torch.randn(512, 512), mesh, ("S0",))
print(float((x @ x.T).sum() * 0), torch.get_num_threads())
print(len({line.split()[-1] for line in open("/proc/self/maps")
           if re.search(r"lib[gi]?omp", line)}))
"""


def test_there_is_one_openmp_runtime_torchs_own():
    result = run(THREADS)
    assert result.stdout == "0.0 2\n1\n", result.stderr


# Joining wheels.


def load_tool(name):
    path = Path(__file__).parents[2] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert load_tool("join_wheels").requirement(minors) == expected


def test_pip_takes_no_pre_release_for_a_wheel_and_keeps_a_vendors():
    requirement = load_tool("join_wheels").requirement([(2, 13), (2, 14)])
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
    joined = load_tool("join_wheels").join(wheels, tmp_path / "out")
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
        load_tool("join_wheels").join(wheels, tmp_path / "out")
