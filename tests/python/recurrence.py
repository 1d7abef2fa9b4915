"""What the tests of recurrent layers and of cells share."""

import copy

import torch

import torch_mesh as tm

AXES = [{"data": 2}, {"data": 4}, {"data": 3}, {"data": 2, "model": 2}]
STEPS, FEATURES, HIDDEN = 3, 5, 4


def on_mesh(module, mesh):
    with tm.use(mesh):
        return copy.deepcopy(module).to("mesh")


def cut(x, mesh, dim=0):
    return tm.distribute(x, mesh, (f"S{dim}",) + ("R",) * (len(mesh.axes) - 1))


def as_argument(states):
    return tuple(states) if len(states) == 2 else states[0]


def run_backward(results):
    """From a loss in which each result counts in a way of its own."""
    sum(
        (r.float().sin() * (i + 1)).sum() for i, r in enumerate(results)
    ).backward()


def assert_equal(got, want, tolerance=1e-5):
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        assert g.stride() == w.stride()
        torch.testing.assert_close(
            tm.full(g), w, atol=tolerance, rtol=tolerance
        )
