"""What stands in several places is the same in each: torches, Pythons, version.

docs/releases.md says which places these are.
"""

import re
import tomllib
from pathlib import Path

import pytest
from release_tools import build_backend, check_compat, try_wheel

from torch_mesh import engines

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
JOBS = yaml.safe_load((ROOT / ".github/workflows/wheels.yml").read_text())[
    "jobs"
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RELEASES = (ROOT / "docs/releases.md").read_text()


def matrix(job):
    return JOBS[job]["strategy"]["matrix"]


def asked_for(requirements):
    text = (ROOT / "requirements" / requirements).read_text()
    [version] = re.findall(r"^torch==(\S+)$", text, re.MULTILINE)
    return version


BUILT = asked_for("torch.txt")
NEWEST = asked_for("torch-newest.txt")
TORCHES = matrix("engine")["torch"]
PYTHONS = matrix("test")["python"]


def test_a_wheel_is_tested_beside_each_torch_that_it_has_an_engine_for():
    assert matrix("test")["torch"] == TORCHES
    tags = [f"cp{version.replace('.', '')}" for version in PYTHONS]
    assert matrix("engine")["python"] == matrix("join")["python"] == tags


def test_there_is_one_torch_a_minor():
    minors = [tuple(map(int, version.split(".")[:2])) for version in TORCHES]
    assert minors == sorted(set(minors))


def test_each_torch_is_compiled_against_here():
    assert sorted([*check_compat.VERSIONS, BUILT]) == TORCHES
    assert {BUILT, NEWEST} <= set(TORCHES)


def test_the_wheel_is_tried_beside_those_that_it_is_made_with():
    assert try_wheel.TORCHES == [BUILT, NEWEST]


def test_a_source_build_without_a_torch_takes_that_of_the_tests():
    assert build_backend.TORCH == BUILT
    assert JOBS["from-source"]["env"]["TORCH"] == BUILT
    assert (
        JOBS["from-source"]["name"]
        and "from-source" in (JOBS["publish"]["needs"])
    )


def test_the_oldest_torch_is_one():
    assert engines.OLDEST == build_backend.OLDEST_TORCH
    oldest = ".".join(map(str, engines.OLDEST))
    assert engines.minor(TORCHES[0]) == oldest
    tool = (ROOT / "tools/wheel_dependencies.py").read_text()
    assert f'"torch>={oldest}"' in tool
    for page in ("README.md", "docs/releases.md", "docs/errors.md"):
        assert f"{oldest} or newer" in " ".join(
            (ROOT / page).read_text().split()
        )


def test_the_page_of_releases_says_what_was_tried_with_each():
    rows = re.findall(r"^\| (\d\S+) \|.*\|$", RELEASES, re.MULTILINE)
    tried = [row.partition("+")[0] for row in rows if row.startswith("2.")]
    assert tried == TORCHES


def test_the_pythons_are_those_that_the_project_names():
    names = [
        found.group(1)
        for line in PROJECT["classifiers"]
        if (found := re.fullmatch(r".* :: Python :: (3\.\d+)", line))
    ]
    assert names == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_an_upload_needs_all_other_jobs():
    needed, waiting = set(), ["publish"]
    while waiting:
        needs = JOBS[waiting.pop()].get("needs", [])
        waiting += [needs] if isinstance(needs, str) else needs
        needed |= set(waiting)
    assert needed == set(JOBS) - {"publish"}


def test_the_step_that_reads_the_version_finds_it():
    """With sed, as the workflow has it."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.findall(r'^version = "(.*)"$', text, re.MULTILINE)
    assert found == [PROJECT["version"]]


def test_make_compiles_anew_where_what_builds_changes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    modules = [project["build-system"]["build-backend"]]
    modules += [
        one["provider"]["module"] for one in project["tool"]["dynamic-metadata"]
    ]
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    [sources] = re.findall(r"^SOURCES := (.*)$", makefile, re.MULTILINE)
    assert {f"tools/{module}.py" for module in modules} <= set(sources.split())
