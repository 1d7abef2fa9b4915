"""The benchmarks run, and an op on the mesh takes no more instructions."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(script, *arguments):
    """The finished process of a benchmark."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_no_op_takes_five_percent_more_instructions_than_stored():
    result = run("callgrind.py", "--check")
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_change_of_the_local_ops_is_not_taken_for_ours(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import callgrind

    stored = {"mm": {"mesh": 1000, "local": 400}}
    other_kernel = {"mm": {"mesh": 1600, "local": 1000}}
    ours_is_up = {"mm": {"mesh": 1060, "local": 400}}
    assert callgrind.changes(other_kernel, stored) == {"mm": 0.0}
    assert callgrind.changes(ours_is_up, stored) == {"mm": 0.06}


def test_stored_counts_are_of_the_calls_that_are_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import callgrind
    import mesh_calls

    names = set(mesh_calls.OPS)
    names |= {f"add of R on {n}" for n in callgrind.REPLICAS}
    names |= {f"{a} to {b}" for a, b in mesh_calls.REDISTRIBUTIONS}
    assert set(json.loads(callgrind.REFERENCE.read_text())) == names


def test_replicas_on_more_devices_take_no_more_instructions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import callgrind

    stored = json.loads(callgrind.REFERENCE.read_text())
    few, many = (stored[f"add of R on {n}"] for n in callgrind.REPLICAS)
    assert many["mesh"] <= 1.01 * few["mesh"]


@pytest.mark.slow
def test_the_dispatch_benchmark_compares_with_dtensor():
    result = run("dispatch.py", "--quick")
    assert result.returncode == 0, result.stderr
    for name in ("add", "mm", "view", "sum", "transpose", "S0 -> R", "P+ -> R"):
        assert f" {name} " in result.stdout
