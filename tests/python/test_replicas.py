"""Ops on replicas in one memory: the local op, without a plan."""

import pytest
import torch

import torch_mesh as tm

MESH = tm.Mesh({"data": 2, "model": 2})


def replicated(tensor):
    return tm.distribute(tensor, MESH, ["R", "R"])


def draw(*sizes, dtype=torch.float32):
    return torch.randn(*sizes, generator=torch.manual_seed(3)).to(dtype)


X = draw(4, 6)
Y = draw(4, 6) + 1

CALLS = {
    "pointwise": lambda x, y: torch.add(x, y, alpha=2),
    "number": lambda x, y: x * 3.0,
    "plain 0-d": lambda x, y: x * torch.tensor(2.0),
    "no rule": lambda x, y: torch.linalg.pinv(x),
    "several results": lambda x, y: torch.sort(x, dim=1),
    "list": lambda x, y: torch._foreach_mul([x, y], [y, x]),
    "list and number": lambda x, y: torch._foreach_add([x, y], 2.0),
    "optional list": lambda x, y: torch.ops.aten.index(
        x, [None, torch.tensor([0, 2]).to(x.device)]
    ),
    "undefined result": lambda x, y: torch.ops.aten.native_layer_norm_backward(
        x, y, [6], y[:, :1] * 0, y[:, :1] * 0 + 1, None, None, [1, 0, 0]
    )[0],
    "size from values": lambda x, y: x.masked_select(y > 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_values_are_plain_torchs(name):
    expected = CALLS[name](X, Y)
    actual = CALLS[name](replicated(X), replicated(Y))
    if isinstance(expected, torch.Tensor):
        expected, actual = [expected], [actual]
    assert len(expected) == len(actual)
    for e, a in zip(expected, actual, strict=True):
        assert tm.layout(a).placements == ("R", "R")
        assert a.dtype == e.dtype and a.stride() == e.stride()
        assert torch.equal(tm.full(a), e)


def test_no_plan_is_made():
    x, y = replicated(X), replicated(Y)
    with torch.no_grad(), tm.counting() as counts:
        for n in range(2, 6):  # each size would want a plan of its own
            ones = torch.ones(n, device="mesh")
            torch.add(ones, ones)
        x.mul_(y).copy_(y)
        torch._foreach_add_([x, y], [y, x])
    assert counts.plans_made == 0
    assert counts.replicated_ops == {}


def test_writes_in_place_are_seen_by_views():
    x = replicated(X)
    row, base = x[1], x.view(24)
    version = x._version
    x.add_(replicated(Y))
    x.copy_(x * 2)
    assert x._version == version + 2
    expected = (X + Y) * 2
    assert torch.equal(tm.full(row), expected[1])
    assert torch.equal(tm.full(base), expected.view(24))
    torch._foreach_mul_([row], 0.0)
    expected[1] = 0
    assert torch.equal(tm.full(x), expected)


def test_a_destination_takes_another_size():
    # addbmm_ of plain torch resizes what it writes to.
    a, b = draw(2, 3, 5), draw(2, 5, 4)
    plain, ours = torch.ones(1, 4), replicated(torch.ones(1, 4))
    plain.addbmm_(a, b)
    ours.addbmm_(replicated(a), replicated(b))
    assert ours.shape == plain.shape
    assert torch.equal(tm.full(ours), plain)


def test_a_tensor_written_the_first_time_needs_no_plan_either():
    with tm.counting() as counts:
        x = torch.empty(3, 7, device="mesh").fill_(2.5)
        y = torch.ones_like(x)
    assert counts.plans_made == 0
    assert torch.equal(tm.full(x), torch.full((3, 7), 2.5))
    assert torch.equal(tm.full(y), torch.ones(3, 7))


def test_an_error_names_op_layouts_and_mesh():
    with pytest.raises(RuntimeError) as error:
        torch.mm(replicated(X), replicated(Y))
    text = str(error.value)
    assert "in aten::mm (R, R) (R, R) on mesh data=2 model=2" in text
    with pytest.raises(RuntimeError):
        torch.mm(X, Y)


def test_a_failed_write_leaves_the_destination_whole():
    x = replicated(X)
    with pytest.raises(RuntimeError):
        x.add_(replicated(draw(5)))
    assert torch.equal(tm.full(x), X)
    x.add_(1)


def test_gradients_flow_through():
    x, w = X.clone().requires_grad_(), Y.clone().requires_grad_()
    ((x * w).sin() @ w.T).sum().backward()
    a, b = (replicated(t).requires_grad_() for t in (X, Y))
    ((a * b).sin() @ b.T).sum().backward()
    assert torch.equal(tm.full(a.grad), x.grad)
    assert torch.equal(tm.full(b.grad), w.grad)


@pytest.mark.parametrize("placement", ["R", "S0", "S1", "P+"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_has_plain_torchs_bits_and_gradient(placement, p):
    x = X.clone().requires_grad_()
    torch.manual_seed(5)
    y = torch.nn.functional.dropout(x, p)
    (y * Y).sum().backward()
    ours = tm.distribute(X, MESH, [placement, "R"]).requires_grad_()
    torch.manual_seed(5)
    dropped = torch.nn.functional.dropout(ours, p)
    (dropped * replicated(Y)).sum().backward()
    assert torch.equal(tm.full(dropped), y)
    assert torch.equal(tm.full(ours.grad), x.grad)
    if placement.startswith("S"):
        assert tm.layout(dropped).placements == (placement, "R")
    # The same numbers come next.
    assert torch.equal(torch.rand(3), _after(x.detach(), p))


def _after(x, p):
    """The numbers that plain torch draws after the dropout."""
    torch.manual_seed(5)
    torch.nn.functional.dropout(x, p)
    return torch.rand(3)
