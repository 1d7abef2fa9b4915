"""The public functions have types that a checker of a user's program sees."""

import subprocess
import sys

import torch_mesh as tm

RIGHT = """
import torch
import torch_mesh as tm

mesh = tm.Mesh({"data": 2})
x = tm.distribute(torch.ones(4), mesh, ("S0",))
y: torch.Tensor = tm.full(tm.redistribute(x, "(R)"))
layout: tm.Layout = tm.layout(x)
parts: list[torch.Tensor] = tm.shards(x)
with tm.use(mesh), tm.counting() as c:
    number: int = c["all_reduce@data"]
"""
WRONG = {
    "value: int = tm.full(x)": "assignment",
    "tm.nonsense()": "attr-defined",
    'tm.distribute(3, "no")': "arg-type",
    "tm.Mesh(2)": "arg-type",
    "tm.shards(x, 1)": "call-arg",
}


def test_a_checker_sees_what_is_wrong(tmp_path):
    program = tmp_path / "program.py"
    first = len(RIGHT.splitlines()) + 1
    program.write_text(RIGHT + "\n".join(WRONG) + "\n")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = {}
    for line in result.stdout.splitlines():
        if ": error: " in line:
            number = int(line.split(":")[1])
            found[number] = line.rpartition("[")[2].rstrip("]")
    expected = {first + i: code for i, code in enumerate(WRONG.values())}
    assert found == expected, result.stdout


def test_all_public_names_are_there():
    assert tm.__all__ == sorted(tm._HOME)
    for name in tm.__all__:
        assert getattr(tm, name) is not None
