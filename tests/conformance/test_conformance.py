"""The suites on the mesh of 2, as far as `make test` has time for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.conformance import SUITES, counted
from tests.conformance.record import Wrong

import torch_mesh as tm

ROOT = Path(__file__).parents[2]
FAILING = Path(__file__).with_name("failing.txt")


def failing_units(suites, *options, tmp_path, **env):
    """Runs suites in a process of their own; gives unit -> first failure.

    Not in this process: the workers are forked, and a process that has used
    the mesh has threads.
    """
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.conformance", "--json", report]
    command += ["--suite", *suites, *options]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found = {}
    for o in json.loads(report.read_text()):
        if o["kind"] in ("raises", "wrong"):
            name = f"{o['suite']}/{o['unit']}"
            found.setdefault(name, f"{o['kind']} {o['case']}: {o['text']}")
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "suites",
    [
        ["ops"],
        ["writes"],
        ["views", "modules", "optimizers"],
        ["destinations"],
        ["dtypes", "random_ops", "ecosystem"],
    ],
    ids="-".join,
)
def test_mesh_of_two_agrees_with_plain_torch(suites, tmp_path):
    found = failing_units(
        suites, "--mesh", "2", "--quick", "--samples", "1", tmp_path=tmp_path
    )
    known = {
        unit
        for unit in FAILING.read_text().split("\n")
        if unit and unit.split("/")[0] in suites
    }
    new = {unit: text for unit, text in found.items() if unit not in known}
    assert not new, "\n".join(f"{unit}: {text}" for unit, text in new.items())
    repaired = known - set(found)
    assert not repaired, f"take these out of {FAILING.name}: {repaired}"


# Every fifth unit; `make counted` runs all.
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("memories", ["0 1 2 3", "0 0 1 1"])
def test_what_is_counted_is_what_moves(memories, tmp_path):
    found = failing_units(
        SUITES,
        *("--mesh", "2x2", "--quick", "--samples", "1", "--part", "0/5"),
        *("--memories", *memories.split()),
        tmp_path=tmp_path,
    )
    assert not found, "\n".join(f"{u}: {text}" for u, text in found.items())


def test_bytes_that_are_counted_and_do_not_move_are_seen():
    mesh = tm.Mesh({"data": 2}, devices="null")
    x = tm.distribute(torch.ones(4, 2), mesh, ("S0",))
    with counted.moved():
        x + 1
    unmoved = pytest.raises(Wrong, match="moved {} in {'all_gather@data': 1}")
    with unmoved, counted.moved():
        x.cpu()


# Bytes of memory that nobody has written, by glibc, are the complement.
POISON = "85"
POISONED = (
    "import torch; print(set(torch.empty(99, dtype=torch.uint8).tolist()))"
)


def test_memory_can_be_poisoned():
    done = subprocess.run(
        [sys.executable, "-c", POISONED],
        env={**os.environ, "MALLOC_PERTURB_": POISON},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "{170}"


UNITS = [
    "sum|var|softmax|matmul|cat|index_select|sort|cumsum|gather",  # of ops
    "nn.functional.(embedding|layer_norm|conv1d)",
    "slice_first|t|select_first|uneven_reshape|diagonal",  # of views
    "list (add|lerp)|plain (mul_|out)|sum addmm_",  # of destinations
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_empty_parts_in_poisoned_memory_are_right(tmp_path):
    found = failing_units(
        ["ops", "views", "destinations"],
        *("--mesh", "7", "8", "2x3", "--quick", "--samples", "1"),
        *("--only", f"^({'|'.join(UNITS)})$"),
        tmp_path=tmp_path,
        MALLOC_PERTURB_=POISON,
    )
    assert not found, "\n".join(f"{u}: {text}" for u, text in found.items())
