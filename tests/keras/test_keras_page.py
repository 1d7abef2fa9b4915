"""docs/keras.md: its programs run, and each row of its table has a test."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "keras.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def rows():
    """(feature, behaviour, test) of the table of behaviours."""
    table = PAGE[PAGE.index("## What programs rely on") :]
    lines = [li for li in table.splitlines() if li.startswith("|")][2:]
    return [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in lines
    ]


def names_in(path):
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_the_table_is_found():
    assert len(rows()) > 50
    assert all(len(row) == 3 for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2].strip("`"))
def test_the_test_of_each_row_exists(row):
    match = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", row[2])
    assert match, row
    path = pathlib.Path(__file__).parent / match[1]
    assert match[2] in names_in(path)


def test_no_test_stands_twice():
    names = [row[2] for row in rows()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_page_runs(program, tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert result.returncode == 0, result.stderr


def test_links_of_the_page_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert [x for x in links if not (ROOT / "docs" / x).exists()] == []
