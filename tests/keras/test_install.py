"""What is patched in Keras, and that it stays harmless."""

import importlib
import os
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import keras
import pytest
from keras.distribution import DataParallel
from packaging.version import Version

from torch_mesh.keras import compat, install
from torch_mesh.keras.patches import AT_FIRST_DISTRIBUTION, TABLE
from torch_mesh.patching import Group, Patch, Table, parameters

GONE = Patch(compat.TRAINER, "TorchTrainer.gone", lambda own: own, "")

ROOT = Path(__file__).parents[2]


def resolve(patch):
    owner = importlib.import_module(patch.module)
    for name in patch.attribute.split("."):
        owner = getattr(owner, name)
    return owner


def is_over(patch):
    numbers = [
        tuple(int(part) for part in text.split(".")[:2])
        for text in (patch.until or "999.0", keras.__version__)
    ]
    return numbers[1] >= numbers[0]


@pytest.fixture
def installed(devices):
    with DataParallel(devices=devices).scope():
        pass


@pytest.mark.parametrize("patch", install.PATCHES, ids=lambda p: p.name)
def test_every_patch_of_the_table_is_in_force(patch, installed):
    if is_over(patch):
        assert patch.name not in TABLE.done
        return
    assert resolve(patch) is not None
    original = TABLE.done[patch.name].original
    assert resolve(patch) is not original
    assert (original is None) <= patch.new


@pytest.mark.parametrize(
    "patch",
    [p for p in install.PATCHES if not p.new],
    ids=lambda p: p.name,
)
def test_what_a_patch_expects_is_what_keras_has(patch, installed):
    assert patch.expects is not None
    if not is_over(patch):
        assert parameters(TABLE.done[patch.name].original) == patch.expects


def test_a_checked_keras_lacks_nothing(installed):
    if Version(keras.__version__).base_version in install.CHECKED_VERSIONS:
        assert TABLE.missing == {}


def test_a_checked_version_is_one_that_keras_can_have():
    """A development version of Keras counts as the release that it becomes."""
    for version in install.CHECKED_VERSIONS:
        assert Version(version).base_version == version
    page = (ROOT / "docs/releases.md").read_text()
    [table] = re.findall(r"^\| Keras \|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert set(re.findall(r"^\| (\d[\d.]+)", table, re.MULTILINE)) == set(
        install.CHECKED_VERSIONS
    )


def test_hooks_are_idempotent_and_ignore_other_names():
    before = dict(TABLE.done)
    for name in install.HOOKED:
        if name in sys.modules:
            install.before(name)
            install.after(name, sys.modules[name])
    install.before("keras.src.layers")
    install.after("keras.src.layers", types.ModuleType("x"))
    install.install_now()
    assert TABLE.done == before
    assert TABLE.missing == {}


def test_an_unknown_keras_warns_once_at_the_first_distribution(monkeypatch):
    broken = Patch("keras.src.no_such", "x", "x:y", "")
    groups = (Group("what is gone", (GONE,)), Group("the rest", (broken,)))
    table = Table(groups, compat.version, compat.module)
    monkeypatch.setattr(install, "TABLE", table)
    monkeypatch.setattr(install, "AT_FIRST_DISTRIBUTION", groups)
    monkeypatch.setattr(install, "_complete", False)
    with pytest.warns(UserWarning, match="unknown-keras") as record:
        install.complete()
    text = str(record[0].message)
    assert f"  what is gone  {compat.TRAINER}.TorchTrainer.gone\n" in text
    assert "  the rest      keras.src.no_such.x" in text
    assert keras.__version__ in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        install.complete()


def test_batches_are_not_sharded_where_variables_are_not(monkeypatch):
    batches = next(g for g in AT_FIRST_DISTRIBUTION if g.feature == "batches")
    table = Table(
        (Group("variables", (GONE,)), batches), compat.version, compat.module
    )
    table.apply()
    assert table.done == {}
    assert table.missing["batches"] == ["needs variables"]


def test_a_fix_is_left_out_from_the_version_on_that_ends_it():
    program = """
import sys
from importlib.machinery import ModuleSpec

class Version:
    def find_spec(name, path=None, target=None):
        if name == "keras.src.version":
            return ModuleSpec(name, Version)
    def create_module(spec): return None
    def exec_module(module):
        module.__version__ = "3.16.0"
        module.version = lambda: "3.16.0"

sys.meta_path.insert(0, Version)
import keras
from torch_mesh.keras.patches import TABLE
assert keras.__version__ == "3.16.0"
assert "keras.src.backend.torch.core.associative_scan" in TABLE.done
assert "keras.src.backend.torch.core.scatter" not in TABLE.done
"""
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )


def test_a_backend_lib_of_keras_gives_way_and_keeps_its_other_names():
    module = types.ModuleType(compat.BACKEND_LIB)
    module.SomethingOfKeras = object()
    module.list_devices = None
    ours = sys.modules[compat.BACKEND_LIB]
    try:
        install.after(compat.BACKEND_LIB, module)
        assert sys.modules[compat.BACKEND_LIB] is ours
        assert ours.SomethingOfKeras is module.SomethingOfKeras
        assert ours.list_devices is not None
    finally:
        del ours.SomethingOfKeras
