"""Keras's own tests, with the mesh in force: a part of `make keras-suite`."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "keras_suite.py"
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "tests" / "keras_suite"))

import modes

import keras_suite_report as report


def run(*arguments, timeout=900):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )


def results_in(folder, mode):
    (store,) = folder.glob(f"*/{mode}.json")
    return json.loads(store.read_text())


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_what_passes_on_the_cpu_passes_on_the_mesh(tmp_path):
    done = run("--quick", "--modes", "mesh,data,model", "--out", tmp_path)
    if "no baseline" in done.stdout:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    for mode in ("mesh", "data", "model"):
        tests = [
            test
            for file in results_in(tmp_path, mode).values()
            for test in file["tests"].values()
        ]
        assert sum(test["outcome"] == "passed" for test in tests) > 500
        # The mode was in force, to the end of nearly every test.
        on_mesh = sum(test["on_mesh"] for test in tests)
        assert on_mesh > 0.9 * sum(t["outcome"] == "passed" for t in tests)


FAKE_TESTS = """
import os, time

def test_first(): pass
def test_dies(): os.abort()
def test_between(): pass
def test_hangs(): time.sleep(600)
def test_fails(): assert 1 == 2, "one is not two"
def test_last(): pass
"""


@pytest.fixture
def fake_keras(tmp_path):
    """A folder with a package `keras` that has one file of tests."""
    source = tmp_path / "other" / "keras" / "src"
    source.mkdir(parents=True)
    (source.parent / "__init__.py").write_text('__version__ = "0.0"\n')
    (source / "__init__.py").write_text("")
    (source / "version.py").write_text('__version__ = "0.0"\n')
    (source / "fake_test.py").write_text(FAKE_TESTS)
    return source.parent.parent


def test_a_process_that_dies_or_hangs_fails_one_test_only(fake_keras, tmp_path):
    out = tmp_path / "out"
    done = run(
        *("--keras", fake_keras, "--modes", "stock", "--out", out),
        *("--limit", "1"),
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = results_in(out, "stock")["fake_test.py"]["tests"]
    assert {
        name.partition("::")[2]: (test["outcome"], test["why"])
        for name, test in tests.items()
    } == {
        "test_first": ("passed", ""),
        "test_dies": ("failed", "the process died of signal 6"),
        "test_between": ("passed", ""),
        "test_hangs": ("failed", "no end within 1.0 s"),
        "test_fails": ("failed", "AssertionError: one is not two"),
        "test_last": ("passed", ""),
    }


def outcomes(**tests):
    return {
        "why": "",
        "tests": {
            f"f.py::{name}": {"outcome": outcome, "why": "", "seconds": 0.0}
            for name, outcome in tests.items()
        },
    }


def test_only_what_passes_in_stock_can_differ(tmp_path):
    stock = outcomes(a="passed", b="failed", c="passed", d="skipped")
    other = outcomes(a="failed", b="failed", c="skipped", d="failed")
    assert report.differing(stock, other) == ["f.py::a", "f.py::c"]
    report.save_baseline(tmp_path / "baseline.json", {"f.py": stock})
    recorded = report.load_baseline(tmp_path / "baseline.json")["f.py"]
    assert report.differing(recorded, other) == ["f.py::a", "f.py::c"]
    assert report.passed(recorded) == 2


def test_a_test_that_is_not_run_is_a_difference():
    stock = outcomes(a="passed", b="passed", c="skipped")
    assert report.missing(stock, outcomes(a="passed", c="skipped")) == 1
    assert report.missing(stock, outcomes(a="failed", b="passed")) == 0


def test_a_difference_needs_a_reason_for_its_mode():
    results = {
        "stock": {"f.py": outcomes(a="passed", b="passed")},
        "mesh": {"f.py": outcomes(a="failed", b="failed")},
    }
    expected = [
        {"test": "f.py::a", "modes": ["mesh"], "reason": "asks for cpu"},
        {"test": "f.py::b", "modes": ["data"], "reason": "of another mode"},
    ]
    summary = report.Summary("0.0", ["f.py"], results, expected)
    assert [name for _, name, _ in summary.unexplained] == ["f.py::b"]


def test_a_reason_without_a_difference_is_reported():
    results = {"stock": {"f.py": outcomes(a="passed")}}
    results["mesh"] = results["data"] = results["stock"]
    expected = [{"test": "f.py::a", "modes": ["mesh"], "reason": "was wrong"}]
    summary = report.Summary("0.0", ["f.py"], results, expected)
    assert summary.needless == [("mesh", "f.py::a")]


def test_every_reviewed_difference_has_a_reason_and_is_of_keras():
    import keras

    source = pathlib.Path(keras.__file__).parent / "src"
    entries = report.load_expected(
        ROOT / "tests" / "keras_suite" / "expected.toml"
    )
    for entry in entries:
        file, _, test = entry["test"].partition("::")
        name = test.rpartition("::")[2].rstrip("*").partition("[")[0]
        assert (source / file).exists(), entry
        assert name.rstrip("0123456789_") in (source / file).read_text(), entry
        assert len(entry["reason"]) > 20
        assert set(entry["modes"]) <= {*modes.MODES} - {"stock"}
