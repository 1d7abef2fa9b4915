"""A small model with the same weights on either side, and the programs on it.

Each program takes a `World`, a matrix `x` [7, 6] and a matrix `w` [6, 5].
"""

import torch
from torch import nn

PROGRAMS = {}


def program(function, name=None):
    """Makes a function of this file a unit of the suite."""
    PROGRAMS[name or function.__name__] = function
    return function


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(21))


def model(world, bias=True):
    """A small model with the same weights on either side."""
    torch.manual_seed(8)
    made = nn.Sequential(
        nn.Linear(6, 8, bias=bias), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)
    )
    return place_model(world, made)


def place_model(world, made):
    made = made.to(world.device)
    if world.on_mesh:  # one weight is not replicated
        for p in list(made.parameters())[:1]:
            p.data = world.sharded(p.detach().cpu())
    return made


def gradients(made):
    return [p.grad for p in made.parameters()]


def rounded(values, dtype):
    """In the precision that they were computed in, which says how close they
    have to be."""
    return [v.to(dtype) for v in values]
