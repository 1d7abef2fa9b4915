"""Law 14: collectives come from ops."""

import gc

import torch
from placing import place

import torch_mesh as tm


def test_law_14_asking_about_a_tensor_starts_no_collective(mesh):
    x = place(torch.randn(4, 4), mesh, ("S0", "P+"))
    with tm.counting() as counts:
        _ = (x.shape, x.dtype, x.device, tm.layout(x), x.stride())
        _ = (tm.visualize(x), x.is_contiguous(), x.data_ptr(), hash(x))
        _ = (x.detach(), x.view(16), x.t())
        del x
        gc.collect()
    assert counts.collectives == {}


def test_law_14_the_same_program_makes_the_same_collectives(mesh):
    def program():
        torch.manual_seed(3)
        x = tm.distribute(torch.randn(8, 6), mesh, ("S0", "R"))
        w = tm.distribute(torch.randn(6, 4), mesh, ("R", "S1"))
        w.requires_grad_()
        (x @ w).softmax(1).log().mean().backward()
        tm.redistribute(w.grad, ("R", "R"))

    events = []
    for _ in range(2):
        with tm.counting() as counts:
            program()
        events.append(counts.events)
    assert events[0] == events[1]
    assert events[0]
