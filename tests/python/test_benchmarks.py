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
    names |= set(mesh_calls.LOOPS)
    assert set(json.loads(callgrind.REFERENCE.read_text())) == names
    assert set(json.loads(callgrind.FROZEN.read_text())) == names


def test_the_calls_that_are_counted_do_what_their_names_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mesh_calls
    import torch

    import torch_mesh as tm

    moves = {
        "mm with a gather": {"all_gather@data": 1},
        "foreach add of 50 S0 and S1": {"all_to_all@data": 1},
    }
    mesh = mesh_calls.make_mesh(2)
    for name in mesh_calls.LOOPS:
        timer = mesh_calls.loop_timer(name, mesh)
        with torch.no_grad():
            timer.timeit(32)
            with tm.counting() as counts:
                timer.timeit(1)
        assert counts.ops > 0, name
        assert counts.plans_made == 0, name
        if name in moves:
            assert counts.collectives == moves[name], name


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
