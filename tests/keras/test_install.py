"""What is patched in Keras, and that it stays harmless."""

import importlib
import re
import sys
import types
import warnings
from pathlib import Path

import keras
import pytest
from keras.distribution import DataParallel
from packaging.version import Version

from torch_mesh.keras import install

ROOT = Path(__file__).parents[2]


def resolve(patch):
    owner = importlib.import_module(patch.module)
    for name in patch.attribute.split("."):
        owner = getattr(owner, name)
    return owner


@pytest.mark.parametrize(
    "patch", install.PATCHES, ids=lambda p: f"{p.module}.{p.attribute}"
)
def test_every_patch_of_the_table_is_in_force(patch, devices):
    with DataParallel(devices=devices).scope():
        pass
    assert resolve(patch) is not None
    original = install._originals[patch.module, patch.attribute]
    assert resolve(patch) is not original
    assert (original is None) <= patch.new


def test_a_checked_keras_lacks_nothing():
    if Version(keras.__version__).base_version in install.CHECKED_VERSIONS:
        assert install._missing == []


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
    before = dict(install._originals)
    for name in install.HOOKED:
        if name in sys.modules:
            install.before(name)
            install.after(name, sys.modules[name])
    install.before("keras.src.layers")
    install.after("keras.src.layers", types.ModuleType("x"))
    install.install_now()
    assert install._originals == before
    assert install._missing == []


def test_an_unknown_keras_warns_once_at_the_first_distribution(monkeypatch):
    monkeypatch.setattr(install, "_missing", [])
    monkeypatch.setattr(install, "_complete", False)
    gone = install.Patch(install.TRAINER, "TorchTrainer.gone", "x:y", "")
    broken = install.Patch("keras.src.no_such", "x", "x:y", "")
    monkeypatch.setattr(install, "_AT_FIRST_DISTRIBUTION", (gone, broken))
    with pytest.warns(UserWarning, match="unknown-keras") as record:
        install.complete()
    assert f"{install.TRAINER}.TorchTrainer.gone" in str(record[0].message)
    assert "keras.src.no_such" in str(record[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        install.complete()


def test_a_backend_lib_of_keras_gives_way_and_keeps_its_other_names():
    module = types.ModuleType(install.BACKEND_LIB)
    module.SomethingOfKeras = object()
    module.list_devices = None
    ours = sys.modules[install.BACKEND_LIB]
    try:
        install.after(install.BACKEND_LIB, module)
        assert sys.modules[install.BACKEND_LIB] is ours
        assert ours.SomethingOfKeras is module.SomethingOfKeras
        assert ours.list_devices is not None
    finally:
        del ours.SomethingOfKeras
