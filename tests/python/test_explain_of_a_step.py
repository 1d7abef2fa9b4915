"""explain names every op of a training step, and every collective."""

import collections
import re

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C

UNITS = {"B": 1, "KiB": 1024}
OPTIMIZERS = {
    "adam foreach": lambda ps: torch.optim.Adam(ps, foreach=True),
    "adam": lambda ps: torch.optim.Adam(ps, foreach=False),
    "adamw fused": lambda ps: torch.optim.AdamW(ps, fused=True),
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9),
}


def training(mesh, weights, optimizer):
    """A step of a model with batch norm, dropout and clipping."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 6),
        torch.nn.BatchNorm1d(6),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(6, 4),
    )
    for tensor in model.parameters():
        layout = weights if tensor.dim() == 2 else ("R",)
        tensor.data = tm.distribute(tensor.data, mesh, layout)
    for tensor in model.buffers():
        tensor.data = tm.distribute(tensor.data, mesh, ("R",))
    optim = OPTIMIZERS[optimizer](model.parameters())
    x = tm.distribute(torch.randn(64, 4), mesh, ("S0",))

    def step():
        optim.zero_grad()
        y = model(x)
        loss = y.square().mean() + y[3].sum() + y[1:].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        return loss.item()

    step()
    return step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("weights", [("R",), ("S0",)])
@pytest.mark.parametrize("memories", [[], [0, 0], [0, 1]])
def test_the_lines_of_a_step_are_its_ops_and_collectives(
    memories, weights, optimizer
):
    _C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 2})
    _C.set_memories_for_testing([])
    step = training(mesh, weights, optimizer)
    with tm.counting() as counts:
        text = tm.explain(step)
    collectives, num_bytes = collections.Counter(), collections.Counter()
    for kind, number, unit in re.findall(r"(\w+@\w+) ([\d.]+) (\w+)", text):
        if kind.split("@")[0] not in ("slice", "to_partial"):
            collectives[kind] += 1
            num_bytes[kind] += round(float(number) * UNITS[unit])
    assert dict(collectives) == counts.collectives
    assert dict(num_bytes) == counts.bytes
    assert len(text.splitlines()) == counts.ops
