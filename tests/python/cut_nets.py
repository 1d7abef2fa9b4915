"""Nets on meshes whose optimizers are cut, and how they train."""

import torch

import torch_mesh as tm

MESHES = {
    "4": ({"data": 4}, {}),
    "2x2": ({"data": 2, "model": 2}, {"0": "colwise", "2": "rowwise"}),
    "3": ({"data": 3}, {}),
}


def net():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(12, 32),
        torch.nn.Tanh(),
        torch.nn.Linear(32, 8),
        torch.nn.Tanh(),
        torch.nn.Linear(8, 2),
    )


def on(name):
    """A net on a mesh, and the function that cuts its batches."""
    axes, layouts = MESHES[name]
    mesh = tm.Mesh(axes)
    placements = ("S0", *["R"] * (len(axes) - 1))
    return (
        tm.parallelize(net(), mesh, layouts),
        lambda x: tm.distribute(x, mesh, placements),
    )


def backward(model, cut=lambda x: x, seed=5):
    torch.manual_seed(seed)
    x, y = torch.randn(16, 12), torch.randn(16, 2)
    loss = torch.nn.functional.mse_loss(model(cut(x)), cut(y))
    loss.backward()
    return loss


def train(model, optimizer, cut=lambda x: x, steps=3):
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, cut, seed=step)
        optimizer.step()


def values(model):
    return [tm.full(p.detach()) for p in model.parameters()]
