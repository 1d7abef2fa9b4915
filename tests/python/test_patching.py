"""Tables of patches: whole groups, and only of what is as expected."""

import sys
import types

import pytest

from torch_mesh.patching import Group, Patch, Table, parameters

NAME = "a_library_that_is_patched"


@pytest.fixture
def library(monkeypatch):
    """A library with a function, a class, and a module that holds both."""
    module = types.ModuleType(NAME)
    exec(
        "def f(x, *, y=1): return x\n"
        "def g(x): return x\n"
        "class Base:\n"
        "    def inherited(self): return 'own'\n"
        "class C(Base):\n"
        "    def method(self, a): return a\n",
        vars(module),
    )
    user = types.ModuleType(f"{NAME}.user")
    user.f = module.f
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setitem(sys.modules, user.__name__, user)
    return module


def replaced(original):
    def replacement(*args, **kwargs):
        return "replaced"

    return replacement


def patch(attribute, expects=None, **more):
    return Patch(NAME, attribute, replaced, "a test", expects, **more)


def table_of(*groups, version="1.4"):
    return Table(groups, lambda: version)


def test_a_group_that_fits_is_applied(library):
    table = table_of(
        Group("a", (patch("f", "x, *, y="), patch("C.method", "self, a")))
    )
    table.apply()
    assert library.f(1) == library.C().method(2) == "replaced"
    assert table.missing == {}


@pytest.mark.parametrize(
    "second",
    [patch("gone"), patch("C.gone"), patch("Gone.method"), patch("g", "x, z")],
    ids=lambda p: p.attribute,
)
def test_a_group_with_one_misfit_is_put_back(library, second):
    own = library.f, vars(library.C)["method"]
    first = patch("f"), patch("C.method"), patch("C.inherited")
    table = table_of(Group("a", (*first, second)), Group("b", (patch("g"),)))
    table.apply()
    assert (library.f, vars(library.C)["method"]) == own
    assert "inherited" not in vars(library.C)
    assert list(table.missing) == ["a"]
    assert library.g(1) == "replaced"


def test_a_misfit_says_both_signatures(library):
    table = table_of(Group("a", (patch("f", ("x", "x, y")),)))
    table.apply()
    assert table.missing["a"] == [
        f"{NAME}.f: it takes (x, *, y=), and not (x) or (x, y)"
    ]


def test_what_holds_a_function_by_value_gets_it_back(library):
    user = sys.modules[f"{NAME}.user"]
    table = table_of(Group("a", (patch("f"), patch("later.gone"))))
    table.apply(groups=(Group("a", (patch("f"),)),))
    user.f = library.f  # imported while the patch was in force
    table.apply()
    assert user.f is library.f
    assert user.f(1) == 1


@pytest.mark.parametrize(
    ("version", "result"), [("1.4", "replaced"), ("1.5.dev", 1), ("2.0", 1)]
)
def test_a_fix_ends_with_the_version_that_needs_it_no_more(
    library, version, result
):
    table = table_of(Group("a", (patch("f", until="1.5"),)), version=version)
    table.apply()
    assert library.f(1) == result
    assert table.missing == {}


def test_a_group_is_left_out_with_what_it_needs(library):
    table = table_of(
        Group("a", (patch("gone"),)), Group("b", (patch("f"),), needs=("a",))
    )
    table.apply()
    assert library.f(1) == 1
    assert table.missing["b"] == ["needs a"]


def test_a_replacement_that_does_not_load_breaks_no_import(library):
    broken = Patch(NAME, "f", "no_such_module:f", "a test")
    table = table_of(Group("a", (broken,)))
    table.apply()
    assert library.f(1) == 1
    assert "no_such_module" in table.missing["a"][0]


def test_another_name_and_a_new_one_are_found(library):
    table = table_of(
        Group("a", (patch("gone", also="f"), patch("C.added", new=True)))
    )
    table.apply()
    assert library.f(1) == library.C().added() == "replaced"


def test_parameters_are_written_without_defaults_and_annotations():
    def f(a: int, b=1, *c, d, e=2, **g): ...

    assert parameters(f) == "a, b=, *c, d, e=, **g"
