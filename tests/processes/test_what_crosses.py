"""What a program is told of bytes, devices and times of several processes."""

import json
import re

import pytest
import torch
from tests.processes import spawn

import torch_mesh as tm
from torch_mesh import merged_traces

FACTS = """
import json
mesh = tm.Mesh({"data": 2, "model": 2})
across = tm.Mesh({"data": 2, "model": 2}, ["cpu:0", "cpu:2", "cpu:1", "cpu:3"])
mine = tm.Mesh({"data": 2}, tm.list_local_devices())
x = tm.distribute(torch.ones(8, 8), mesh, ("S0", "S1"))
with tm.counting() as counts:
    tm.redistribute(x, ("S0", "R"))
    tm.redistribute(x, ("R", "S1"))
    parts = tm.distribute(torch.ones(4, 8), across, ("R", "S1"))
    tm.redistribute(parts, ("R", "R"))
model = torch.nn.Linear(4, 4)
tm.parallelize(model, mesh, {"weight": ("R", "S0")})
explained = tm.explain(lambda: x.sum().item())
if me == 0:
    print(json.dumps([
        [m.axes_between_processes for m in (mesh, across, mine)],
        counts.bytes,
        [counts.bytes_between_processes(m) for m in (mesh, across, mine, None)],
        str(tm.visualize(x)).splitlines()[-1],
        str(tm.describe(model)).splitlines()[1],
        mine.processes_text(),
        explained,
    ]))
"""

HELD = "process 0 has cpu:0, cpu:1; process 1 has cpu:2, cpu:3"

TRACE = """
import pathlib
path = pathlib.Path({path!r})
mesh = tm.Mesh({{"data": 2}})
x = tm.distribute(torch.ones(8, 8), mesh, ("S0",))
with tm.trace(path):
    for _ in range(3):
        tm.full(x.sum(0))
assert path.exists()
"""


@pytest.fixture(scope="module")
def facts():
    text, _ = spawn.check(
        FACTS,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "2"},
    )
    return json.loads(text)


def test_axes_between_processes_are_those_along_which_they_lie(facts):
    assert facts[0] == [["data"], ["model"], []]


def test_bytes_between_processes_are_those_of_such_axes(facts):
    num_bytes, (of_mesh, of_across, of_mine, of_all) = facts[1], facts[2]
    # A quarter of 8 x 8 and of 4 x 8 numbers; halves of the latter.
    assert num_bytes == {"all_gather@data": 64, "all_gather@model": 64 + 64}
    assert of_mesh == {"all_gather@data": 64}
    assert of_across == {"all_gather@model": 64}
    assert of_mine == {}
    assert of_all == {**of_mesh, **of_across}


def test_pictures_and_tables_name_the_process_of_each_device(facts):
    assert facts[3:6] == [HELD, HELD, ""]


def test_an_explanation_says_what_crosses(facts):
    collectives = re.findall(r"\w+@(\w+) ([1-9][^,;\n]*)", facts[6])
    assert {axis for axis, _ in collectives} == {"data", "model"}
    for axis, num_bytes in collectives:
        crosses = num_bytes.endswith(" between processes")
        assert crosses == (axis == "data"), facts[6]


def test_lines_of_the_log_name_the_process():
    for me, (code, _, err) in enumerate(
        spawn.run(
            "(tm.distribute(torch.ones(4), tm.Mesh({'x': 2}), ('S0',)) + 1)\n",
            preamble=spawn.PLAIN,
            start=spawn.PLAIN_START,
            environment=lambda _: {
                "TORCH_MESH_CPU_DEVICES": "1",
                "TORCH_MESH_LOG": "debug",
            },
        )
    ):
        assert code == 0, err
        lines = [x for x in err.splitlines() if x.startswith("torch_mesh: ")]
        name = f"torch_mesh: process {me} of 2: "
        assert any("add" in line for line in lines), err
        assert all(line.startswith(name) for line in lines), err


def test_in_one_process_they_do_not():
    mesh = tm.Mesh({"data": 2, "model": 2})
    x = tm.distribute(torch.ones(8, 8), mesh, ("S0", "S1"))
    assert mesh.axes_between_processes == ()
    assert "process" not in str(tm.visualize(x))
    assert "process" not in str(tm.describe(torch.nn.Linear(2, 2)))


def test_a_job_writes_one_trace(tmp_path):
    path = tmp_path / "trace.json"
    spawn.check(
        TRACE.format(path=str(path)),
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]
    content = json.loads(path.read_text())
    counted = content["torch_mesh"]
    assert counted["collectives"] == {"all_reduce@data": 3}
    assert counted["bytes_between_processes"] == counted["bytes"]
    events = content["traceEvents"]
    names = {
        e["pid"]: e["args"]["name"]
        for e in events
        if e["name"] == "process_name" and e["pid"] in (0, 1)
    }
    assert [names[i].partition(" on ")[0] for i in (0, 1)] == [
        "process 0",
        "process 1",
    ]
    # Each op of the mesh, and the local one in it.
    starts = [
        sorted(
            e["ts"]
            for e in events
            if e["name"] == "aten::sum" and e["pid"] == process
        )[::2]
        for process in (0, 1)
    ]
    assert len(starts[0]) == len(starts[1]) == 3
    # None goes on before the other has come to the sum before; us.
    for mine, other in (starts, starts[::-1]):
        for before, after in zip(mine[:-1], other[1:], strict=True):
            assert before < after + 100


def test_parts_are_shifted_to_one_moment():
    def part(start, pid):
        events = [
            {"name": "f", "ph": "X", "ts": 5.0, "dur": 1, "pid": pid, "id": 3},
            {"name": "g", "ph": "X", "ts": 5.0, "dur": 1, "pid": "Spans"},
        ]
        return {
            "baseTimeNanoseconds": start,
            "traceEvents": events,
            "host": "h",
        }

    whole = merged_traces.merged([part(1000, 77), part(4000, 77)])
    assert "host" not in whole
    assert [
        (e["name"], e["ts"], e["pid"], e.get("id"))
        for e in whole["traceEvents"]
    ] == [
        ("f", 5.0, 0, "0.3"),
        ("g", 5.0, "Spans of process 0", None),
        ("f", 8.0, 1, "1.3"),
        ("g", 8.0, "Spans of process 1", None),
    ]
