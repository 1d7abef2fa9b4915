"""docs/everyday.md: each row has a test, and each public name a row."""

import ast
import functools
import pathlib
import re

import pytest

import torch_mesh as tm

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "everyday.md").read_text()


def rows():
    """(name or behaviour, what it gives, test) of all the tables."""
    found = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        is_row = line.startswith("|") and not line.startswith("|---")
        if is_row and cells[-1] != "test":
            found.append(tuple(cells))
    return found


@functools.cache
def names_in(path):
    """Tests of a file; those of a class with its name before them."""
    tree = ast.parse(path.read_text())
    return {
        prefix + node.name
        for prefix, body in (
            ("", tree.body),
            *(
                (f"{c.name}::", c.body)
                for c in tree.body
                if isinstance(c, ast.ClassDef)
            ),
        )
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_the_tables_are_found():
    assert len(rows()) > 90
    assert all(len(row) == 3 and row[1] for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2].strip("`"))
def test_the_test_of_each_row_exists(row):
    match = re.fullmatch(r"`([\w/]+\.py)::([\w:]+)`", row[2])
    assert match, row
    assert match[2] in names_in(ROOT / "tests" / match[1])


def test_each_public_name_has_a_row():
    listed = {row[0] for row in rows()}
    assert {f"`tm.{name}`" for name in tm.__all__} <= listed


def test_no_row_stands_twice():
    named = [row for row in rows() if row[0]]
    assert len(set(named)) == len(named)


def test_links_of_the_page_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE)
    assert links
    assert [x for x in links if not (ROOT / "docs" / x).exists()] == []
