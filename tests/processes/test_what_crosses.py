"""What a program is told of bytes, devices and times of several processes."""

import json

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
model = torch.nn.Linear(4, 4)
tm.parallelize(model, mesh, {"weight": ("R", "S0")})
if me == 0:
    print(json.dumps([
        [m.axes_between_processes for m in (mesh, across, mine)],
        counts.bytes,
        [counts.bytes_between_processes(m) for m in (mesh, across, mine)],
        str(tm.visualize(x)).splitlines()[-1],
        str(tm.describe(model)).splitlines()[1],
        mine.processes_text(),
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
    num_bytes, (of_mesh, of_across, of_mine) = facts[1], facts[2]
    assert set(num_bytes) == {"all_gather@data", "all_gather@model"}
    assert of_mesh == {"all_gather@data": num_bytes["all_gather@data"]}
    assert of_across == {"all_gather@model": num_bytes["all_gather@model"]}
    assert of_mine == {}


def test_pictures_and_tables_name_the_process_of_each_device(facts):
    assert facts[3:] == [HELD, HELD, ""]


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
    assert content["torch_mesh"]["collectives"] == {"all_reduce@data": 3}
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
