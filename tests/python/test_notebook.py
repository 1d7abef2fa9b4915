"""examples/tour.ipynb is made from tour.py, runs, and shows its pictures."""

import importlib.util
import os
import pathlib

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def _tool():
    path = ROOT / "tools" / "build_notebook.py"
    spec = importlib.util.spec_from_file_location("build_notebook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _tool()


def outputs(notebook):
    """For each code cell: what it printed, its value as text and as HTML."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        shown = {"stdout": "", "text/plain": "", "text/html": ""}
        for output in cell.outputs:
            if output.output_type == "stream":
                assert output.name == "stdout", output.text
                shown["stdout"] += output.text
            else:
                shown |= output.data
        found.append(shown)
    return found


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(tool.NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed():
    os.environ["KERAS_BACKEND"] = "torch"
    notebook = tool.build(tool.SOURCE.read_text())
    tool.execute(notebook)
    return notebook


def test_the_notebook_is_valid(stored):
    nbformat.validate(stored)


def test_the_notebook_has_the_cells_of_its_source(stored):
    expected = tool.build(tool.SOURCE.read_text())
    assert [(c.id, c.cell_type, c.source) for c in stored.cells] == [
        (c.id, c.cell_type, c.source) for c in expected.cells
    ], "run tools/build_notebook.py"


def test_running_it_gives_what_is_stored(stored, executed):
    assert outputs(executed) == outputs(stored)


def test_pictures_are_in_it_as_html(stored):
    pages = [shown["text/html"] for shown in outputs(stored)]
    pictures = [page for page in pages if "<table" in page and "cpu:" in page]
    assert len(pictures) == 5
    assert sum("still to be formed" in page for page in pictures) == 1


def test_training_on_the_mesh_shows_the_losses_of_one_device(stored):
    printed = [shown["stdout"] for shown in outputs(stored)]
    lines = next(t for t in printed if t.startswith("one device")).splitlines()
    assert lines[0].split()[2:] == lines[1].split()[3:]
