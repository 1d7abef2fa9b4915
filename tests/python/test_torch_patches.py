"""What is replaced in torch, and that it fits the torch that is there."""

import importlib
import importlib.util
import sys
import types

import pytest

from torch_mesh import late_modules, registration, torch_patches
from torch_mesh.patching import Group, Patch, Table, parameters
from torch_mesh.torch_patches import LATE, TABLE


@pytest.fixture(scope="module", autouse=True)
def registered():
    registration.register()
    for group in LATE:
        for patch in group.patches:
            importlib.import_module(patch.module)


@pytest.mark.parametrize("patch", TABLE.patches, ids=lambda p: p.name)
def test_every_patch_of_the_table_is_in_force(patch):
    owner = importlib.import_module(patch.module)
    for name in patch.attribute.split("."):
        owner = getattr(owner, name)
    done = TABLE.done[patch.name]
    assert done.original is not None
    assert owner is done.replacement or owner is done.replacement.__func__


@pytest.mark.parametrize(
    "patch",
    [p for p in TABLE.patches if p.expects is not None],
    ids=lambda p: p.name,
)
def test_what_a_patch_expects_is_what_torch_has(patch):
    expected = patch.expects
    expected = (expected,) if isinstance(expected, str) else expected
    assert parameters(TABLE.done[patch.name].original) in expected


def test_an_unknown_torch_is_named_with_what_is_left_out(monkeypatch):
    gone = Patch("torch.nn", "Module.gone", lambda own: own, "a test")
    table = Table((Group("what is gone", (gone,)),), lambda: "9.9")
    monkeypatch.setattr(torch_patches, "TABLE", table)
    monkeypatch.setattr(torch_patches, "LATE", table.groups)
    with pytest.warns(UserWarning, match="unknown-torch") as record:
        torch_patches._apply_late("torch.nn")
    assert "what is gone  torch.nn.Module.gone" in str(record[0].message)


def test_a_module_that_is_loaded_later_is_waited_for(monkeypatch, tmp_path):
    for name in ("waited_for_a", "waited_for_b"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "there", types.ModuleType("there"))
    finders = list(sys.meta_path)
    called = []
    late_modules.when_loaded(
        ["there", "waited_for_a", "waited_for_b"],
        lambda name: called.append((name, name in sys.modules)),
    )
    assert called == [("there", True)]
    assert importlib.util.find_spec("waited_for_a")  # to ask is not to load
    assert len(called) == 1
    for name in ("waited_for_b", "waited_for_a"):
        importlib.import_module(name)
    assert called[1:] == [("waited_for_b", True), ("waited_for_a", True)]
    assert sys.meta_path == finders
