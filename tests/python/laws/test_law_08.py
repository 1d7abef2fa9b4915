"""Law 8: partial means sum."""

import pytest
import torch
from placing import assert_close, assert_equal, place
from torch import nn

import torch_mesh as tm


@pytest.mark.parametrize("separate", [False, True])
def test_law_08_sums_of_bfloat16_are_rounded_once(separate):
    tm._C.separate_memories_for_testing(separate)
    mesh = tm.Mesh({"data": 4})
    parts = [torch.tensor([v], dtype=torch.bfloat16) for v in (256, 1, 1, 1)]
    x = tm.from_shards(parts, mesh, ("P+",))
    # In bfloat16, 256 + 1 is 256.
    assert tm.full(x).item() == 260
    assert tm.full(tm.redistribute(x, ("R",))).dtype == torch.bfloat16


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.int64, torch.complex64]
)
def test_law_08_replicated_to_partial_and_back_keeps_the_bits(dtype, separate):
    tm._C.separate_memories_for_testing(separate)
    mesh = tm.Mesh({"data": 3})
    value = torch.tensor([0.0, -0.0, 1.0, -2.0]).to(dtype)
    x = tm.redistribute(tm.distribute(value, mesh), ("P+",))
    y = tm.full(tm.redistribute(x, ("R",)))
    assert_equal(y, value)
    if dtype.is_floating_point:
        assert torch.equal(y.signbit(), value.signbit())


@pytest.mark.parametrize("separate", [False, True])
def test_law_08_ops_of_a_partial_that_are_not_linear_see_the_sum(separate):
    tm._C.separate_memories_for_testing(separate)
    mesh = tm.Mesh({"data": 3})
    parts = [torch.tensor([2.5, -1.0]), torch.tensor([-4.0, 2.5])]
    parts.append(torch.tensor([0.75, -0.75]))
    value = sum(parts)
    mask = torch.tensor([True, False])
    other = torch.tensor([1.0, 2.0])
    for f in (
        torch.relu,
        torch.exp,
        torch.abs,
        lambda t: t + 1,
        lambda t: 1 - t,
        lambda t: t + other,
        lambda t: t * t,
        lambda t: t * 3,
        lambda t: t / 4,
        lambda t: 4 / t,
        lambda t: t**2,
        lambda t: -t,
        lambda t: t + t,
        lambda t: t.sum(),
        lambda t: t.mean(),
        lambda t: t.max(),
        lambda t: t.norm(),
        lambda t: t.to(torch.int64),
        lambda t: t.to(torch.bool),
        lambda t: t.to(torch.float64),
        lambda t: t > 0,
        lambda t: torch.where(mask, t, other),
        lambda t: torch.where(mask, t, 7.0),
        lambda t: t.masked_fill(mask, 3.0),
        lambda t: t.masked_fill(mask, 0.0),
        lambda t: torch.zeros_like(t),
        lambda t: torch.full_like(t, 3),
        lambda t: torch.ones_like(t),
        lambda t: torch.cat([t, other]),
        lambda t: torch.stack([t, t]),
        lambda t: t.add(other, alpha=2),
        lambda t: torch.lerp(t, other, 0.25),
        lambda t: torch.addcmul(t, other, other),
        lambda t: torch.addcmul(other, t, t),
        lambda t: nn.functional.pad(t, (1, 1), value=2.0),
        lambda t: nn.functional.softmax(t, 0),
        lambda t: t.cumsum(0),
        lambda t: t.clamp(-1, 1),
        lambda t: t.add_(1),
        lambda t: t.fill_(2),
        lambda t: t.mul_(2),
        lambda t: t.zero_(),
        lambda t: t.copy_(other),
        lambda t: t.index_fill(0, torch.tensor([1]), 3.0),
        lambda t: t @ other,
        lambda t: torch.outer(t, t),
        lambda t: torch.addmv(t, torch.eye(2), other),
        lambda t: nn.functional.linear(other, torch.eye(2), t),
    ):
        x = tm.from_shards(parts, mesh, ("P+",))
        assert_close(f(x), f(value.clone()), rtol=0, atol=1e-6)


def test_law_08_linear_ops_carry_a_partial_on(line):
    x = place(torch.randn(4, 6), line, ("P+",))
    y = place(torch.randn(4, 6), line, ("P+",))
    whole = tm.distribute(torch.randn(6, 2), line)
    with tm.counting() as counts:
        for result in (
            x * 3,
            -x,
            x + y,
            x.sum(0),
            x @ whole,
            x.t(),
            x.view(24),
            x.to(torch.float64),
            torch.cat([x, y]),
        ):
            assert tm.layout(result).placements == ("P+",)
    assert counts.collectives == {}
