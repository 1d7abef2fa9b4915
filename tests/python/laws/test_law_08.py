"""Law 8: partial means sum."""

import pytest
import torch
from placing import assert_close, assert_equal, assert_ran_as_counted, place
from torch import nn

import torch_mesh as tm


@pytest.mark.parametrize("separate", [False, True])
def test_law_08_sums_of_bfloat16_are_rounded_once(separate):
    tm._C.separate_cpu_memories(separate)
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
    tm._C.separate_cpu_memories(separate)
    mesh = tm.Mesh({"data": 3})
    value = torch.tensor([0.0, -0.0, 1.0, -2.0]).to(dtype)
    x = tm.redistribute(tm.distribute(value, mesh), ("P+",))
    y = tm.full(tm.redistribute(x, ("R",)))
    assert_equal(y, value)
    if dtype.is_floating_point:
        assert torch.equal(y.signbit(), value.signbit())


@pytest.mark.parametrize("separate", [False, True])
def test_law_08_ops_of_a_partial_that_are_not_linear_see_the_sum(separate):
    tm._C.separate_cpu_memories(separate)
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


INF, NAN = float("inf"), float("nan")
# (pending sum, number) -> value. Of a sum of parts of both signs, parts times
# an infinity would be inf - inf.
TIMES = {
    "mul": lambda t, v: t * v,
    "the number first": lambda t, v: v * t,
    "in place": lambda t, v: t.mul_(v),
    "out": lambda t, v: torch.mul(t, v, out=torch.empty_like(t)),
    "plain 0-d": lambda t, v: t * torch.tensor(v),
    "0-d of the mesh": lambda t, v: t * torch.tensor(v, device=t.device),
    "of a list": lambda t, v: torch._foreach_mul([t], v)[0],
    "of lists": lambda t, v: torch._foreach_mul([t], [v])[0],
    "alpha": lambda t, v: torch.add(t, t, alpha=v),
    "value": lambda t, v: torch.addcmul(t, t, torch.ones(4), value=v),
    "weight": lambda t, v: torch.lerp(t, t * 2, v),
    "beta": lambda t, v: torch.addmv(t, torch.eye(4), torch.ones(4), beta=v),
    "complex": lambda t, v: t * complex(v, 0),
    "over": lambda t, v: t / (1 / v if v else 0.0),
}
OVER = {
    "div": lambda t, v: t / v,
    "integer": lambda t, v: t / int(v),
    "in place": lambda t, v: t.div_(v),
    "plain 0-d": lambda t, v: t / torch.tensor(v),
    "of a list": lambda t, v: torch._foreach_div([t], v)[0],
    "addcdiv": lambda t, v: torch.addcdiv(t, t, torch.tensor(v)),
}
NOT_FINITE = [
    (f"times {n}, {v}", f, v)
    for n, f in TIMES.items()
    for v in (INF, -INF, NAN)
]
NOT_FINITE += [(f"over {n}", f, 0.0) for n, f in OVER.items()]


@pytest.mark.parametrize("memories", [[0] * 4, [0, 0, 1, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize(
    "f, number",
    [case[1:] for case in NOT_FINITE],
    ids=[case[0] for case in NOT_FINITE],
)
def test_law_08_sums_are_formed_before_they_meet_an_infinity(
    f, number, memories
):
    tm._C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 4})
    parts = torch.tensor(
        [[3.0, -1.0, 0.5, -8.0], [-1.0, 4.0, 0.5, 2.0], [1.0, -9.0, 0.5, 1.0]]
    )
    with tm.use(mesh):
        x = place(parts, mesh, ("S0",)).sum(0)
        assert tm.layout(x).placements == ("P+",)
        assert_equal(f(x, number), f(parts.sum(0), number))


@pytest.mark.parametrize("memories", [[0] * 4, [0, 0, 1, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize(
    "f",
    [
        lambda t: t * 1e39,
        lambda t: t / 1e-50,
        lambda t: t / 1e-42,
        lambda t: t * torch.tensor(1e39, dtype=torch.float64),
        lambda t: t.half() * 1e6,
        lambda t: t.double() * 1e39,
    ],
)
def test_law_08_numbers_are_those_of_the_dtype_of_the_sum(f, memories):
    tm._C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 4})
    parts = torch.tensor([[3.0, -1.0], [-1.0, 4.0], [1.0, -9.0], [0.0, 2.0]])
    with tm.use(mesh):
        x = place(parts, mesh, ("S0",)).sum(0)
        assert_close(f(x), f(parts.sum(0)), rtol=1e-12, atol=0)


ZERO, INFINITY = torch.tensor([1.0, -1, 0, 0]), torch.tensor([1.0, INF, 2, 3])
# (mesh) -> a number that the host does not know before it is read.
UNREAD = {
    "a sum": lambda on: on(ZERO, "S0").sum(),
    "an infinite sum": lambda on: on(INFINITY, "S0").sum(),
    "a row": lambda on: on(INFINITY, "S0")[1],
    "a row of zeros": lambda on: on(ZERO, "S0")[2],
    "blank": lambda on: torch.zeros_like(on(torch.ones(()), "R")),
    "a mean": lambda on: on(ZERO, "S0").mean(),
    "one element": lambda on: on(INFINITY, "S0")[1:2],
    "reshaped": lambda on: on(INFINITY, "S0")[1].reshape(1, 1),
}


@pytest.mark.parametrize("memories", [[0] * 4, [0, 0, 1, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize(
    "f",
    [
        lambda t, v: t * v,
        lambda t, v: v * t,
        lambda t, v: t / v,
        lambda t, v: torch.addcmul(t, t, v),
        lambda t, v: torch.addcdiv(t, t, v),
        lambda t, v: t.clone().div_(v.reshape(())),
    ],
)
def test_law_08_numbers_that_nobody_has_read_may_be_infinite(f, name, memories):
    tm._C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 4})
    parts = torch.tensor([[3.0, -1.0], [-1.0, 4.0], [1.0, -9.0], [0.0, 2.0]])
    number = UNREAD[name](lambda value, _: value)
    x = place(parts, mesh, ("S0",)).sum(0)
    v = UNREAD[name](lambda value, layout: place(value, mesh, (layout,)))
    assert_equal(f(x, v), f(parts.sum(0), number))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_law_08_a_number_decides_the_dtype_of_no_part(dtype):
    tm._C.set_memories_for_testing([0, 1, 2, 3])
    mesh = tm.Mesh({"data": 4})
    x = place(torch.tensor([2.0, 1, 1, 3], dtype=dtype), mesh, ("S0",))
    for f in (
        lambda s: s + 1.0,
        lambda s: 1.0 + s,
        lambda s: s - 0.1,
        lambda s: torch.add(s, 1.0, alpha=2),
    ):
        with tm.counting() as counts:
            y = f(x.sum())
            assert {shard.dtype for shard in tm.shards(y)} == {dtype}
            y.item()
        assert_ran_as_counted(counts, mesh)
        assert_close(
            y.as_strided((2,), (0,)) * 1, f(x.cpu().sum()).expand(2) * 1
        )


def test_law_08_a_number_that_is_finite_leaves_the_sum_pending(line):
    x = place(torch.randn(4, 6), line, ("P+",))
    for y in (x * 0.0, x * 2, x / 2, x * torch.tensor(3.0)):
        assert tm.layout(y).placements == ("P+",)
    assert tm.layout(x).placements == ("P+",)


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
