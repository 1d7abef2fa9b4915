"""Law 13: plain tensors."""

import torch
from placing import assert_close, assert_equal, every_layout, mesh_of, place
from torch import nn

import torch_mesh as tm


@every_layout(2)
def test_law_13_plain_tensors_count_as_replicated(mesh_name, placements):
    value, plain = torch.randn(6, 4), torch.randn(6, 4)
    x = place(value, mesh_of(mesh_name), placements)
    row, index = torch.randn(4), torch.tensor([3, 0, 5])
    for f in (
        lambda t: t + plain,
        lambda t: plain + t,
        lambda t: t * row,
        lambda t: t @ plain.t(),
        lambda t: plain.t() @ t,
        lambda t: torch.cat([t, plain]),
        lambda t: torch.where(plain > 0, t, plain),
        lambda t: t[index],
        lambda t: t[plain > 0],
        lambda t: nn.functional.mse_loss(t, plain),
        lambda t: t + torch.tensor(3.0),
        lambda t: t.clone().add_(plain),
        lambda t: torch.addmm(row, t, plain[:4]),
        lambda t: nn.functional.linear(t, plain, torch.ones(6)),
        lambda t: nn.functional.embedding(index, t),
        lambda t: t.index_select(0, index),
        lambda t: torch.stack([plain, t]),
    ):
        actual = f(x)
        assert tm.is_global(actual)
        assert_close(actual, f(value))


def test_law_13_a_gradient_arrives_where_the_plain_tensor_is(mesh):
    plain = torch.randn(4, requires_grad=True)
    x = tm.distribute(plain, mesh, ("S0", "R"))
    (x * 3).sum().backward()
    assert plain.grad.device.type == "cpu"
    assert_equal(plain.grad, torch.full((4,), 3.0))


def test_law_13_a_plain_number_costs_nothing(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "S1"))
    with tm.counting() as counts:
        y = x * torch.tensor(2.0) + torch.tensor(1)
    assert counts.collectives == {}
    assert tm.layout(y).placements == ("S0", "S1")


@every_layout(1)
def test_law_13_asking_for_a_value_gives_the_global_one(mesh_name, placements):
    value = torch.arange(1.0, 6.0)
    x = place(value, mesh_of(mesh_name), placements)
    assert x.sum().item() == 15
    assert x.tolist() == value.tolist()
    assert float(x[3]) == 4
    assert bool((x > 0).all())
    assert len(x) == 5
    assert_equal(x.cpu(), value)
    assert (x.cpu().numpy() == value.numpy()).all()
    assert "4." in repr(x)
    assert f"layout={tm.layout(x)}" in repr(x)
    assert x.to("cpu", torch.float64).dtype == torch.float64
    assert [float(v) for v in x] == value.tolist()


def test_law_13_a_global_tensor_may_be_copied_into_a_plain_one(mesh):
    plain = torch.zeros(4, 4)
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "S1"))
    plain.copy_(x)
    assert_equal(plain, tm.full(x))
    plain[1:].copy_(x[1:] * 2)
    assert_equal(plain[1:], tm.full(x)[1:] * 2)
