"""The engine that goes with the running torch is found, and no other loads."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from release_tools import check_wheel

import torch_mesh
from torch_mesh import _C, engines

PACKAGE = Path(torch_mesh.__file__).parent
RUNNING = engines.minor(torch.__version__)
FOLDER = engines.name(torch.__version__)


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


def test_an_engine_is_named_after_the_minor():
    assert engines.name("2.13.0+cpu") == engines.name("2.13") == "torch_2_13"
    assert re.fullmatch(engines.NAME, "torch_2_13").groups() == ("2", "13")


COMPILE = f"compile an engine for yours with `{engines.WAY_OUT}`"


@pytest.mark.parametrize(
    ("there", "version", "told"),
    [
        ((), "2.99.0", f"no engine: {COMPILE}"),
        (
            ("2.13",),
            "2.99.0+cu140",
            f"an engine for 2.13: install that torch, or {COMPILE}",
        ),
        (
            ("2.11", "2.13", "2.14"),
            "2.99.0",
            "engines for 2.11, 2.13 and 2.14: install one of those, or "
            + COMPILE,
        ),
        (
            ("2.13", "2.14"),
            "2.10.2",
            "engines for 2.13 and 2.14: install one of those",
        ),
        ((), "1.13.1", "no engine: install torch 2.11 or newer"),
    ],
)
def test_a_torch_without_an_engine_is_one_sentence(
    there, version, told, tmp_path
):
    """Which advises no compile that the build would refuse."""
    for minor in there:
        engine(tmp_path, engines.name(minor), f"{minor}.0")
    with pytest.raises(ImportError) as caught:
        engines.fitting(version, tmp_path)
    assert str(caught.value) == (
        f"torch_mesh: torch {version} is installed, and this torch-mesh has"
        f" {told}. [no-engine]"
    )


@pytest.mark.parametrize(
    ("version", "told"), [("", "says nothing of"), ("odd", "says 'odd' of")]
)
def test_a_torch_that_does_not_say_its_version_is_told_so(
    version, told, tmp_path
):
    with pytest.raises(ImportError, match=rf"{told} its version.*\[no-engine"):
        engines.fitting(version, tmp_path)


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
    of_torch = {"libc10.so", "libtorch_cpu.so"}
    if library.name.startswith("_C"):
        of_torch |= {"libtorch_mesh.so", "libtorch_python.so"}
    assert of_torch <= needed
    # Its name differs from build to build of torch.
    assert not {n for n in needed if "omp" in n}
    assert not {n for n in needed if "re2" in n}
    assert not check_wheel.BUILDERS_PATH.findall(library.read_bytes())


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
