"""docs/api.md is what the docstrings say, and the docstrings say enough."""

import doctest
import importlib.util
import inspect
import pathlib

import griffe
import pytest
import torch

import torch_mesh as tm

ROOT = pathlib.Path(__file__).parents[2]
Kind = griffe.DocstringSectionKind


def _tool():
    path = ROOT / "tools" / "api_reference.py"
    spec = importlib.util.spec_from_file_location("api_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _tool()
PUBLIC = {
    f"{module}.{name}": thing
    for module, names in tool.public(tool.load(ROOT)).items()
    for name, thing in names.items()
}


def members():
    """Public functions, classes, methods and properties by dotted name."""
    for path, thing in PUBLIC.items():
        yield path, thing
        if isinstance(thing, griffe.Class):
            # The class's docstring may list what is an attribute and no more.
            listed = {
                item.name for item in sections(thing).get(Kind.attributes, [])
            }
            for member in thing.members.values():
                hidden = member.name.startswith("_")
                if not hidden and member.name not in listed:
                    yield f"{path}.{member.name}", member


def functions():
    return {
        path: thing
        for path, thing in members()
        if isinstance(thing, griffe.Function)
    }


def sections(thing):
    return {s.kind: s.value for s in thing.docstring.parse("google")}


def test_the_page_is_up_to_date():
    page = (ROOT / tool.PAGE).read_text()
    assert page == tool.page(ROOT), "run tools/api_reference.py"


def test_the_page_has_every_public_name():
    import torch_mesh.keras

    expected = {f"torch_mesh.{name}" for name in tm.__all__}
    expected |= {f"torch_mesh.keras.{n}" for n in torch_mesh.keras.__all__}
    assert set(PUBLIC) == expected


@pytest.mark.parametrize("path", [path for path, _ in members()])
def test_a_public_name_has_a_docstring(path):
    thing = dict(members())[path]
    assert thing.docstring is not None
    first = thing.docstring.value.split("\n\n")[0]
    assert first.endswith((".", ":", "::")) or "`" in first


@pytest.mark.parametrize("path", functions())
def test_a_docstring_names_each_argument(path):
    thing = functions()[path]
    expected = [p.name for p in thing.parameters if p.name != "self"]
    documented = sections(thing).get(Kind.parameters, [])
    assert [p.name.lstrip("*") for p in documented] == expected


@pytest.mark.parametrize("path", functions())
def test_a_docstring_says_what_comes_back(path):
    thing = functions()[path]
    gives = str(thing.returns)
    found = sections(thing)
    if gives == "None":
        assert Kind.returns not in found
    elif gives == "bool" and thing.docstring.value.startswith("Whether"):
        pass
    elif gives.startswith("Iterator"):
        assert Kind.yields in found
    elif thing.parameters and [p.name for p in thing.parameters] != ["self"]:
        assert Kind.returns in found
    else:
        said = thing.docstring.value.startswith(
            ("Returns", "The", "A ", "Dict")
        )
        assert Kind.returns in found or said


def test_examples_of_docstrings_are_true():
    """What stands behind `>>>`, in all docstrings of the package's names."""
    names = {"torch": torch, **{name: getattr(tm, name) for name in tm.__all__}}
    finder = doctest.DocTestFinder(recurse=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    import torch_mesh.keras

    for package in (tm, torch_mesh.keras):
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.ismodule(thing):
                continue
            for test in finder.find(thing, name):
                test.globs.update(names)
                test.globs.update(vars(torch_mesh.keras))
                test.globs.update(names)
                runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= 8
