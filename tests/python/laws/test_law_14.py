"""Law 14: collectives come from ops."""

import gc

import pytest
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


# --- whatever the state ------------------------------------------------------


def stale_window(x):
    """A write-back window whose base was written since it was taken."""
    window = x[3]
    x.add_(1)
    return window


def taken_window(x):
    window = x[3]
    window.sum()
    return window


def pending_window(x):
    return (x.t() @ x)[1:3]


def broken(x):
    y = x.double()
    with pytest.raises(RuntimeError):
        torch.mm(x.t(), x[:, :3], out=y.int())
    return y


STATES = {
    "held": lambda x: x,
    "alias": lambda x: x[:, 1:3],
    "taken window": taken_window,
    "stale window": stale_window,
    "pending sum": lambda x: x.t() @ x,
    "window of a pending sum": pending_window,
    "reduced elsewhere": lambda x: (s := x.sum(0), s[1:], s.relu())[1],
    "unwritten": torch.empty_like,
    "blank": torch.zeros_like,
    "after an error": broken,
    "conjugated": lambda x: x.cfloat().conj(),
}
QUESTIONS = {
    "layout": tm.layout,
    "text of the layout": lambda x: str(tm.layout(x)),
    "visualize": tm.visualize,
    "memory": lambda x: tm.memory(),
    "sizes": lambda x: (x.shape, x.numel(), x.dim()),
    "strides": lambda x: (x.stride(), x.storage_offset()),
    "is_contiguous": lambda x: (x.is_contiguous(), x.is_conj()),
    "dtype": lambda x: (x.dtype, x.device, x.requires_grad),
    "hash": hash,
    "data_ptr": lambda x: (x.data_ptr(), x.untyped_storage().data_ptr()),
    "repr of the storage": lambda x: x.untyped_storage().nbytes(),
    "is_global": tm.is_global,
    "an alias": lambda x: x.detach(),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("state", STATES)
def test_law_14_a_question_moves_nothing(mesh, state, question):
    x = place(torch.randn(4, 4), mesh, ("S0", "R"))
    y = STATES[state](x)
    with tm.counting() as counts:
        QUESTIONS[question](y)
    assert counts.collectives == {}
    assert counts.moved == {}
    # The answer is that of the tensor once it is read.
    layout = tm.layout(y)
    y.cpu()
    assert tm.layout(y) == layout or "P+" in str(layout)
