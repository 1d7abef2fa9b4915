"""`import torch` with torch_mesh installed changes nothing (law 17)."""

import json
import os
import subprocess
import sys
import sysconfig
import types

import pytest

import torch_mesh_autoload

CORE = "keras.src.backend.torch.core"
WATCHED = {
    CORE,
    "keras.src.backend.torch.trainer",
    "keras.src.distribution.distribution_lib",
}


def run(program, *, autoload, **env):
    """The JSON that `program` prints, in a new process."""
    env = {
        **os.environ,
        **env,
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "1" if autoload else "0",
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        check=True,
    )
    return json.loads(result.stdout)


IMPORT_TORCH = """
import json, sys, torch
print(json.dumps({
    "modules": sorted(sys.modules),
    "finders": [type(f).__name__ for f in sys.meta_path],
    "accelerator": str(torch.accelerator.current_accelerator()),
    "backend": torch._C._get_privateuse1_backend_name(),
}))
"""


def test_importing_torch_imports_the_entry_point_and_nothing_more():
    without = run(IMPORT_TORCH, autoload=False)
    with_it = run(IMPORT_TORCH, autoload=True)
    # Reading entry points imports modules of the standard library, whether or
    # not torch_mesh is among them.
    new = {
        name.partition(".")[0]
        for name in set(with_it.pop("modules")) - set(without.pop("modules"))
    }
    assert new - sys.stdlib_module_names == {"torch_mesh_autoload"}
    assert with_it.pop("finders") == ["_Finder", *without.pop("finders")]
    assert with_it == without


def test_the_entry_point_takes_milliseconds_even_uncompiled():
    program = """
import json, sys, time, warnings, importlib.machinery
start = time.perf_counter()
import torch_mesh_autoload
torch_mesh_autoload.install()
print(json.dumps(time.perf_counter() - start))
"""
    # The least of several: what a busy machine adds is not the hook's.
    assert any(run(program, autoload=False) < 5e-3 for _ in range(20))


def test_installing_twice_leaves_one_finder(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    torch_mesh_autoload.install()
    torch_mesh_autoload.install()
    assert len(sys.meta_path) == 1


# Keras, with stand-ins for the modules that the hooks go to.
IMPORT_KERAS = """
import inspect, json, sys, types, warnings

calls = []

def note(when):
    def hook(name, module=None):
        calls.append([when, name, module is sys.modules.get(name)])
        if FAIL:
            raise KeyError("planted")
    return hook

for name in ("torch_mesh", "torch_mesh.keras", "torch_mesh.keras.install",
             "torch_mesh.keras.distribution_lib"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torch_mesh.keras.install"].before = note("before")
sys.modules["torch_mesh.keras.install"].after = note("after")

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import keras
import keras.src.backend.torch.distribution_lib as found

ours = sys.modules["torch_mesh.keras.distribution_lib"]
core = sys.modules["keras.src.backend.torch.core"]
print(json.dumps({
    "backend": keras.backend.backend(),
    "calls": calls,
    "warnings": [str(w.message) for w in caught
                 if "[keras-hook]" in str(w.message)],
    "alias": [found is ours, ours.__name__, ours.__spec__ is None],
    "loaders": [type(core.__loader__).__name__,
                type(core.__spec__.loader).__name__],
    "source": "class Variable" in inspect.getsource(core),
}))
"""


@pytest.fixture(scope="module", params=[False, True], ids=["", "failing"])
def keras_import(request):
    pytest.importorskip("keras")
    answer = run(
        f"FAIL = {request.param}\n{IMPORT_KERAS}",
        autoload=True,
        KERAS_BACKEND="torch",
    )
    return {"failing": request.param, **answer}


def test_hooks_run_before_and_after_each_watched_module(keras_import):
    calls = keras_import["calls"]
    assert calls[:2] == [["before", CORE, False], ["after", CORE, True]]
    assert sorted(calls) == sorted(
        call
        for name in WATCHED
        for call in (["before", name, False], ["after", name, True])
    )


def test_a_watched_module_keeps_its_loader_and_source(keras_import):
    assert keras_import["loaders"] == ["SourceFileLoader"] * 2
    assert keras_import["source"]


def test_the_torch_backends_distribution_library_is_an_alias(keras_import):
    name = "torch_mesh.keras.distribution_lib"
    assert keras_import["alias"] == [True, name, True]


def test_a_hook_that_raises_becomes_a_warning(keras_import):
    assert keras_import["backend"] == "torch"
    texts = keras_import["warnings"]
    if keras_import["failing"]:
        assert len(texts) == 1  # the same error each time
        assert f"{CORE} is left as Keras made it.\n" in texts[0]
        assert "KeyError: 'planted'" in texts[0]
        assert "Hint: report this text, or" in texts[0]
    else:
        assert texts == []


def test_an_error_that_says_what_to_do_is_not_to_be_reported(monkeypatch):
    monkeypatch.setattr(torch_mesh_autoload, "_warned", set())
    error = ImportError("torch 2.99 is installed: install another. [no-engine]")
    with pytest.warns(RuntimeWarning, match=r"Hint: do what it says, or un"):
        torch_mesh_autoload._warn("keras.src", error)


@pytest.mark.parametrize("backend", ["jax", "tensorflow", None])
def test_without_the_torch_backend_nothing_is_found(backend, monkeypatch):
    config = types.ModuleType("keras.src.backend.config")
    if backend is None:
        monkeypatch.delitem(sys.modules, config.__name__, raising=False)
    else:
        config.backend = lambda: backend
        monkeypatch.setitem(sys.modules, config.__name__, config)
    finder = torch_mesh_autoload._Finder()
    assert [finder.find_spec(name) for name in WATCHED] == [None] * len(WATCHED)


@pytest.mark.parametrize(
    "name",
    [
        "torch_mesh_autoload.py",
        "torch_mesh/include/torch_mesh/mesh.h",
        "torch_mesh/share/cmake/torch_mesh/torch_meshConfig.cmake",
    ],
)
def test_the_wheel_has_it(name):
    assert os.path.isfile(os.path.join(sysconfig.get_path("platlib"), name))
