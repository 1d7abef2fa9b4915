"""`local_value` in one process, which has all devices."""

import pytest
import torch

import torch_mesh as tm


@pytest.mark.parametrize(
    "placements", [("R", "R"), ("S0", "R"), ("S1", "S0"), ("S0", "S0")]
)
def test_it_is_the_whole_value(mesh, memories, placements):
    whole = torch.arange(15.0).reshape(5, 3)
    x = tm.distribute(whole, mesh, placements).requires_grad_()
    value = tm.local_value(x)
    assert torch.equal(value, whole)
    assert not value.requires_grad
    value.zero_()
    assert torch.equal(tm.full(x), whole)


def test_a_pending_sum_is_there(mesh, memories):
    x = tm.distribute(torch.ones(4, 2), mesh, ("S0", "R"))
    assert float(tm.local_value(x.sum())) == 8.0


def test_plain_tensors_are_copied():
    x = torch.ones(3)
    value = tm.local_value(x)
    value += 1
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="local_value"):
        tm.local_value(3.0)
