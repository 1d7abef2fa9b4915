"""What a planned call does, as the text that `instructions` gives."""

import os
import subprocess
import sys

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C

MESH = {"data": 2, "model": 2}


@pytest.fixture(params=[[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]])
def memories(request):
    _C.set_memories_for_testing(request.param)
    yield request.param
    _C.set_memories_for_testing([])


def listed(text):
    """The names of instructions, one list for each op."""
    ops = []
    for line in text.splitlines():
        if line.startswith("    "):
            ops[-1].append(line.split()[0])
        else:
            ops.append([])
    return ops


def test_a_matrix_product_and_a_sum(memories):
    mesh = tm.Mesh(MESH)
    x = tm.distribute(torch.randn(8, 6), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(6, 4), mesh, ("R", "S1"))
    parts = "pick" if memories == [0, 1, 2, 3] else "fold"
    assert listed(tm.instructions(lambda: (x @ w).sum())) == [
        ["take", "call", "pick", "make"],
        ["take", "call", parts, "make"],
    ]


@pytest.mark.usefixtures("memories")
def test_what_moves_is_what_the_plan_says():
    mesh = tm.Mesh(MESH)
    x = tm.distribute(torch.randn(8, 6), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(8, 6), mesh, ("S1", "R"))
    text = tm.instructions(lambda: x.mul(w))
    line, *instructions = text.splitlines()
    moves = [i for i in instructions if i.startswith("    move")]
    assert len(moves) == 1
    assert moves[0].split(": ")[1] in line


@pytest.mark.parametrize("op", ["relu", "view"])
def test_only_the_inner_listener_that_wants_them_hears_them(op):
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.randn(8), mesh, ("S0",))

    def call():
        return x.relu() if op == "relu" else x.view(2, 4)

    heard = []
    outer = tm.explain(lambda: heard.append(tm.instructions(call)))
    assert heard[0].count("\n    ") >= 4
    assert heard[0] == outer
    assert "\n" not in tm.explain(call)


def test_replicas_give_the_same_by_instructions():
    program = """
import torch, torch_mesh as tm
torch.manual_seed(0)
mesh = tm.Mesh({"data": 4})
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU())
for p in model.parameters():
    p.data = tm.distribute(p.data, mesh)
x = tm.distribute(torch.randn(3, 4), mesh)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
tm._C.clear_plans()
with tm.counting() as counts:
    y = model(x)
print(y.sum().item(), counts.plans_made)
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "TORCH_MESH_EXECUTOR": executor},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
        for executor in ("", "plain")
    ]
    straight, by_instructions = outputs
    assert straight[0] == by_instructions[0]
    assert int(straight[1]) < int(by_instructions[1])
