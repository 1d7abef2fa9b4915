"""Batch norm in training: torch's own kernel where one memory has the batch."""

import pytest
import torch
import torch.nn.functional as F

import torch_mesh as tm
from torch_mesh import _C

# Shapes of batches, their last dim uneven or of one element too.
SHAPES = [(8, 4, 3, 3), (5, 4, 3, 2), (4, 4, 1, 1), (6, 1, 2, 2), (4, 6)]
LAYOUTS = [("S0", "R"), ("R", "S0"), ("S0", "S0"), ("S0", "S1"), ("R", "S1")]


def pass_through(shape, place, dtype, order):
    """The result, the gradients and the running statistics of one pass.

    `place(tensor, is_batch)` puts each argument where it shall be.
    """
    torch.manual_seed(3)
    x, gradient = torch.randn(2, *shape, dtype=dtype).mul(3).add(1)
    if len(shape) == 4:
        x = x.contiguous(memory_format=order[0])
        gradient = gradient.contiguous(memory_format=order[1])
    weight, bias = torch.randn(2, shape[1])
    x = place(x, True).requires_grad_()
    weight = place(weight, False).requires_grad_()
    bias = place(bias, False).requires_grad_()
    mean = place(torch.zeros(shape[1]), False)
    var = place(torch.ones(shape[1]), False)
    y = F.batch_norm(x, mean, var, weight, bias, training=True)
    y.backward(place(gradient, True))
    return [y.detach(), x.grad, weight.grad, bias.grad, mean, var]


def on(mesh, placements):
    def place(tensor, is_batch):
        return tm.distribute(
            tensor, mesh, placements if is_batch else ("R", "R")
        )

    return place


ORDERS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("placements", LAYOUTS)
def test_batch_norm_gives_the_numbers_and_strides_of_plain_torch(
    mesh, shape, placements
):
    for dtype in (torch.float32, torch.bfloat16):
        close = {"rtol": 2e-2, "atol": 2e-2} if dtype.itemsize == 2 else {}
        for order in [(a, b) for a in ORDERS for b in ORDERS]:
            plain = pass_through(shape, lambda t, _: t.clone(), dtype, order)
            found = pass_through(shape, on(mesh, placements), dtype, order)
            for a, b in zip(found, plain, strict=True):
                assert a.stride() == b.stride()
                torch.testing.assert_close(a.cpu(), b, **close)


@pytest.mark.parametrize("placements", [("S0", "R"), ("S0", "S0")])
def test_one_memory_has_the_bits_of_plain_torch(mesh, placements):
    shape, order = (32, 8, 7, 7), ORDERS[:1] * 2
    plain = pass_through(shape, lambda t, _: t.clone(), torch.float32, order)
    found = pass_through(shape, on(mesh, placements), torch.float32, order)
    for a, b in zip(found, plain, strict=True):
        assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("placements", LAYOUTS)
def test_one_memory_counts_and_lays_out_as_separate_ones(placements):
    found = []
    for separate in (False, True):
        _C.separate_cpu_memories(separate)
        mesh = tm.Mesh({"data": 2, "model": 2})
        with tm.counting() as counts:
            results = pass_through(
                (6, 4, 3, 3), on(mesh, placements), torch.float32, ORDERS
            )
        layouts = [str(tm.layout(result)) for result in results]
        found.append((counts.collectives, counts.bytes, layouts))
    assert found[0] == found[1]
