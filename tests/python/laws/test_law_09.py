"""Law 9: what a plan depends on."""

import torch
from placing import assert_equal
from torch import nn

import torch_mesh as tm


def plans_of(f):
    with tm.counting() as counts:
        f()
    return counts.plans_made


def test_law_09_numbers_and_offsets_make_no_new_plan(mesh):
    x = tm.distribute(torch.randn(16, 4), mesh, ("R", "S1"))
    i = torch.tensor(1.0)
    for f in (
        lambda n: x.mul(0.1 * n),
        lambda n: x.add(x, alpha=0.5 + n),
        lambda n: x.narrow(0, n, 2),
        lambda n: x.select(0, n),
        lambda n: x[n : n + 3],
        lambda n: x.mul_(1 + 0.1 * n),
        lambda n: x.clamp(min=0.1 * n),
        lambda n: x * (i * n),
    ):
        f(1)
        assert plans_of(lambda f=f: [f(n) for n in range(2, 9)]) == 0


def test_law_09_a_changed_learning_rate_makes_no_new_plan(mesh):
    model = nn.Linear(4, 3)
    with tm.use(mesh):
        model.to("mesh")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = tm.distribute(torch.randn(8, 4), mesh, ("S0", "R"))

    def step():
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        step()
    optimizer.param_groups[0]["lr"] = 0.025
    assert plans_of(step) == 0


def test_law_09_what_a_plan_depends_on_makes_a_new_one(mesh):
    x = tm.distribute(torch.randn(16, 4), mesh, ("S0", "R"))
    x.sum(0)
    for f in (
        lambda: x.sum(1),
        lambda: x.sum(0, keepdim=True),
        lambda: x.sum(0, dtype=torch.float64),
        lambda: x[:8].clone().sum(0),
        lambda: x.double().sum(0),
        lambda: tm.redistribute(x, ("R", "S1")).sum(0),
    ):
        assert plans_of(f) >= 1
    # The same call again: none.
    assert plans_of(lambda: x.sum(1)) == 0


def test_law_09_kinds_of_numbers_are_told_apart(mesh):
    x = tm.distribute(torch.arange(6), mesh, ("S0", "R"))
    plain = torch.arange(6)
    for _ in range(2):
        for number in (2, 2.0, True, 2 + 0j, torch.tensor(2.0)):
            assert_equal(x * number, plain * number)
    torch.set_default_dtype(torch.float64)
    assert_equal(x * 2.0, plain * 2.0)
    assert (x * 2.0).dtype == torch.float64
