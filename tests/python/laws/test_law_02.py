"""Law 2: values do not depend on the layout."""

import pytest
import torch
from placing import (
    SMALL,
    assert_close,
    assert_equal,
    every_layout,
    mesh_of,
    place,
)
from torch import nn

import torch_mesh as tm


def random_program(x):
    """Draws of all kinds, with shuffles in between."""
    device = x.device
    return [
        torch.randn(x.shape, device=device),
        torch.randperm(11, device=device),
        torch.rand_like(x),
        nn.functional.dropout(x, 0.3, training=True),
        torch.randperm(7),
        torch.empty_like(x).uniform_(-2, 3),
        torch.empty_like(x).normal_(1, 2),
        torch.randint(0, 9, (3, 5), device=device),
        torch.bernoulli(torch.full_like(x, 0.4)),
        torch.rand(5, 7, device=device),
        torch.empty_like(x).exponential_(),
        torch.multinomial(x.detach().abs() + 0.1, 2),
        nn.functional.alpha_dropout(x, 0.3, training=True),
        torch.randn(3),
    ]


@pytest.mark.parametrize("sizes", [(5, 4), (17, 3)], ids=str)
@every_layout(2)
def test_law_02_random_bits_are_those_of_the_plain_program(
    mesh_name, placements, sizes
):
    value = torch.arange(1.0, 1 + sizes[0] * sizes[1]).reshape(sizes)
    mesh = mesh_of(mesh_name)
    x = place(value, mesh, placements)
    torch.manual_seed(7)
    expected = random_program(value)
    with tm.use(mesh):
        torch.manual_seed(7)
        actual = random_program(x)
    for a, e in zip(actual, expected, strict=True):
        assert_equal(a, e)


@every_layout(2, SMALL, partial=False)
def test_law_02_filling_a_sharded_tensor_in_place_draws_for_the_whole(
    mesh_name, placements
):
    draws = [
        lambda t: t.uniform_(),
        lambda t: t.normal_(),
        lambda t: t.bernoulli_(0.5),
        lambda t: t.random_(0, 100),
        lambda t: t[1:].uniform_(),
        lambda t: t.t().normal_(),
    ]
    x = tm.distribute(torch.zeros(7, 5), mesh_of(mesh_name), placements)
    plain = torch.zeros(7, 5)
    for draw in draws:
        torch.manual_seed(3)
        draw(plain)
        torch.manual_seed(3)
        draw(x)
        assert_equal(x, plain)
        assert tm.layout(x).placements == placements


def test_law_02_a_generator_of_ones_own_gives_the_plain_bits(mesh):
    plain = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    x = tm.distribute(torch.zeros(6, 4), mesh, ("S0", "S1"))
    x.normal_(generator=torch.Generator().manual_seed(5))
    assert_equal(x, plain)


@every_layout(2)
def test_law_02_integer_sums_are_bitwise_equal(mesh_name, placements):
    value = torch.arange(35).reshape(7, 5) ** 3
    x = place(value, mesh_of(mesh_name), placements)
    for f in (
        lambda t: t.sum(),
        lambda t: t.sum(0),
        lambda t: t.cumsum(1),
        lambda t: t.prod(1),
        lambda t: t.max(0).values,
        lambda t: t.argmax(1),
        lambda t: t * 3 - t // 2,
        lambda t: t.sort(1, descending=True).indices,
    ):
        assert_equal(f(x), f(value))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@every_layout(2, SMALL)
def test_law_02_mean_losses_have_the_plain_value_and_gradient(
    mesh_name, placements, reduction
):
    functional = nn.functional
    value, target = torch.rand(7, 5), torch.rand(7, 5)
    for loss in (
        functional.mse_loss,
        functional.l1_loss,
        functional.smooth_l1_loss,
        functional.huber_loss,
        functional.binary_cross_entropy,
        functional.binary_cross_entropy_with_logits,
        functional.soft_margin_loss,
        functional.kl_div,
    ):
        plain = value.clone().requires_grad_()
        expected = loss(plain, target, reduction=reduction)
        expected.sum().backward()
        x = place(value, mesh_of(mesh_name), placements).requires_grad_()
        actual = loss(x, target, reduction=reduction)
        actual.sum().backward()
        assert_close(actual.detach(), expected.detach())
        assert_close(x.grad, plain.grad)
