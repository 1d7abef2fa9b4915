"""What a cut optimizer leaves behind that ends in the middle, or for good."""

import gc

import pytest
import torch
from cut_nets import backward, on, train, values
from torch import optim

import torch_mesh as tm


def test_what_an_optimizer_leaves_behind_does_not_depend_on_the_collector():
    """Garbage is collected when it pleases each process of a job."""

    def clipped(collects):
        model, cut = on("4")
        first = tm.shard_optimizer(optim.Adam(model.parameters()))
        train(model, first, cut, steps=1)
        cycle = {"optimizer": first}
        cycle["self"] = cycle
        del first, cycle
        if collects:
            gc.collect()
        second = optim.Adam(model.parameters())
        second.zero_grad()
        backward(model, cut)
        with tm.counting() as counts:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            second.step()
        return counts.collectives

    gc.collect()
    gc.disable()
    try:
        assert clipped(collects=False) == clipped(collects=True)
    finally:
        gc.enable()


def test_weights_are_whole_where_a_step_ends_before_it_begins(monkeypatch):
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.Adam(model.parameters()))
    backward(model, cut)
    before = values(model)

    def interrupted(optimizer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torch_mesh.moves.states_follow", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert tm.layout(parameter).placements == ("R",)
        assert torch.equal(tm.full(parameter.detach()), value)
    optimizer.step()
    assert not torch.equal(values(model)[0], before[0])
