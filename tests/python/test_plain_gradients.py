"""Plain tensors that require grad, among global ones."""

import copy

import pytest
import torch
from placing import assert_close
from torch import nn

import torch_mesh as tm


@pytest.fixture
def x():
    return tm.distribute(torch.randn(4, 3), tm.Mesh({"data": 2}), ("S0",))


def test_the_gradient_arrives_where_the_leaf_is(x):
    p = nn.Parameter(torch.ones(4, 3))
    for _ in range(3):  # a leaf's node is another one in each step
        p.grad = None
        (x * p).sum().backward()
        assert p.grad.device.type == "cpu"
        assert_close(p.grad, tm.full(x))
    torch.optim.Adam([p]).step()


def test_the_gradient_of_a_result_goes_on_from_its_device(x):
    a = torch.ones(4, 3, requires_grad=True)
    (x * (a * 2)).sum().backward()
    assert_close(a.grad, 2 * tm.full(x))


def test_hooks_see_a_plain_gradient(x):
    seen = []
    p = torch.ones(4, 3, requires_grad=True)
    p.register_hook(lambda gradient: seen.append(gradient.device.type))
    (x * p).sum().backward()
    assert seen == ["cpu"]


def test_gradients_of_gradients(x):
    p = torch.full((4, 3), 2.0, requires_grad=True)
    (first,) = torch.autograd.grad((x * p * p * p).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), p)
    assert (first.device.type, second.device.type) == ("cpu", "cpu")
    assert_close(second, 12 * tm.full(x))


def test_what_took_part_may_be_used_off_the_mesh_as_before(x):
    a = torch.ones(4, 3, requires_grad=True)
    b = a * 2
    kept = [x * a, x * b]
    (b * 3).sum().backward()
    (a * 2).sum().backward()
    assert_close(a.grad, torch.full((4, 3), 8.0))
    assert len(kept) == 2


def test_a_plain_module_trains_on_global_inputs(x):
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    twin = copy.deepcopy(module)
    module(x).square().sum().backward()
    twin(tm.full(x)).square().sum().backward()
    for one, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert one.grad.device.type == "cpu"
        assert_close(one.grad, other.grad)
