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


def penalty(module):
    return 0.1 * sum(p.square().sum() for p in module.parameters())


# A plain module on what `put` gives, and its plain weights beside it, in one
# graph.
BOTH_PLACES = {
    "penalty behind": lambda m, x, put: m(put(x)).square().mean() + penalty(m),
    "penalty in front": lambda m, x, put: (
        penalty(m) + m(put(x)).square().mean()
    ),
    "both losses plain": lambda m, x, put: (
        m(put(x)).square().mean().cpu() + penalty(m)
    ),
    "plain call behind": lambda m, x, put: (
        m(put(x)).sum().cpu() * 2 + m(x).square().mean()
    ),
    "plain call in front": lambda m, x, put: (
        m(x).square().mean() + m(put(x)).sum().cpu() * 2
    ),
    "an edge without an op": lambda m, x, put: (
        ((put(x) + m.weight).sum() * 3).cpu() + penalty(m)
    ),
    "a result": lambda m, x, put: (
        lambda w: (put(x) * w).sum().cpu() + w.square().sum()
    )(m.weight * 2),
    "a result without an op": lambda m, x, put: (
        lambda w: (put(x) + w).sum().cpu() + w.square().sum()
    )(m.weight * 2),
}


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@pytest.mark.parametrize("placement", ["R", "S0", "S1"])
@pytest.mark.parametrize("name", BOTH_PLACES)
def test_a_plain_leaf_takes_part_on_the_mesh_and_off_it(
    name, placement, separate
):
    tm._C.separate_cpu_memories(separate)
    module = nn.Linear(3, 3)
    twin = copy.deepcopy(module)
    x, mesh = torch.randn(3, 3), tm.Mesh({"data": 2})

    def put(t):
        return tm.distribute(t, mesh, (placement,))

    for _ in range(2):  # gradients add up
        BOTH_PLACES[name](module, x, put).backward()
        BOTH_PLACES[name](twin, x, lambda t: t).backward()
    for one, other in zip(module.parameters(), twin.parameters(), strict=True):
        if other.grad is None:
            assert one.grad is None
            continue
        assert one.grad.device.type == "cpu"
        assert_close(one.grad, other.grad)


def test_gradients_of_a_leaf_in_both_places_can_be_asked_for(x):
    p = torch.full((4, 3), 2.0, requires_grad=True)
    (first,) = torch.autograd.grad(
        (x * p * p).sum().cpu() + p.pow(3).sum(), p, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), p)
    assert (first.device.type, second.device.type) == ("cpu", "cpu")
    assert_close(first.detach(), 2 * 2 * tm.full(x) + 3 * 4)
    assert_close(second, 2 * tm.full(x) + 6 * 2)


def test_a_write_in_place_of_a_leaf_in_both_places(x):
    p = torch.full((4, 3), 2.0, requires_grad=True)
    q = p.detach().clone().requires_grad_()
    y = x * 2
    y.add_(p)
    z = torch.zeros_like(x)
    z.mul_(3).sub_(p)
    (y.sum().cpu() + z.sum().cpu() * 3 + p.square().sum()).backward()
    (q.sum() - q.sum() * 3 + q.square().sum()).backward()
    assert_close(p.grad, q.grad)
