"""check_parity finds what is planted, names the op, and raises no alarm."""

import pytest
import torch
import torch.nn.functional as F

import torch_mesh as tm

MESH = {"data": 2, "model": 2}


def on_mesh(x):
    return x.device.type == "mesh"


def place(t, *placements):
    return tm.distribute(t, tm.Mesh(MESH), placements)


class Net(torch.nn.Module):
    """A little of all that a step may hold: draws, buffers, tied weights."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 8)
        self.mix = torch.nn.Linear(8, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.drop = torch.nn.Dropout(0.25)
        self.out = torch.nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x, fault=None):
        h = self.embed(x).mean(1)
        h = self.mix(h)
        if fault is not None and on_mesh(h):
            h = fault(h)
        h = self.norm(h)
        return self.out(self.drop(F.relu(h)))


def state(make=Net, optimizer=torch.optim.Adam):
    torch.manual_seed(0)
    net = make()
    x = torch.randint(0, 11, (7, 5))
    y = torch.randint(0, 11, (7,))
    with tm.use(tm.Mesh(MESH)):
        net.to("mesh")
    net.mix.weight.data = place(net.mix.weight.data.cpu(), "R", "S0")
    return (
        net,
        optimizer(net.parameters(), lr=0.01),
        place(x, "S0", "R"),
        place(y, "S0", "R"),
    )


def step(net, optimizer, x, y, fault=None):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x, fault), y)
    loss.backward()
    optimizer.step()
    return loss


def with_fault(fault):
    return lambda net, optimizer, x, y: step(net, optimizer, x, y, fault)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW]
)
def test_a_right_step_has_no_difference(optimizer):
    found = tm.check_parity(step, *state(optimizer=optimizer))
    assert found, str(found)
    assert found.first is None
    assert found.compared > 30
    assert not found.unchecked
    names = [value.name for value in found.values]
    assert {"result 0", "mix.weight", "mix.weight.grad"} <= set(names)
    if optimizer is not torch.optim.SGD:
        assert "state mix.weight exp_avg" in names
        assert "norm.running_mean" in names


def test_the_state_stays_as_it_is():
    net, optimizer, x, y = state()
    step(net, optimizer, x, y)
    before = [tm.full(p) for p in net.parameters()]
    layouts = [tm.layout(p) for p in net.parameters()]
    seed = torch.get_rng_state()
    assert tm.check_parity(step, net, optimizer, x, y)
    assert torch.equal(torch.get_rng_state(), seed)
    assert [tm.layout(p) for p in net.parameters()] == layouts
    for p, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(tm.full(p), old)
    assert len(optimizer.state[net.mix.weight]) == 3


def test_the_second_step_is_compared_too():
    given = state()
    step(*given)
    found = tm.check_parity(step, *given)
    assert found, str(found)


def test_double_precision_agrees_to_ten_digits():
    found = tm.check_parity(step, *state(lambda: Net().double()))
    assert found, str(found)
    # A bias before a batch norm has no gradient but noise: not that one.
    exact = [v for v in found.values if "mix.bias" not in v.name]
    assert len(exact) > 20
    assert max(v.largest / (v.scale or 1) for v in exact) < 1e-10


def test_a_step_may_place_its_batch_itself():
    net, optimizer, x, y = state()

    def placing(net, optimizer, x, y):
        x = tm.distribute(x, tm.Mesh(MESH), ("S0", "R"))
        y = y.to("mesh") if net.out.weight.device.type == "mesh" else y
        return step(net, optimizer, x, y)

    found = tm.check_parity(
        placing, net, optimizer, x.cpu(), place(y.cpu(), "R", "R")
    )
    assert found, str(found)


# ------------------------------------------------------------- planted faults


@pytest.fixture(scope="module")
def library():
    made = torch.library.Library("parity_faults", "DEF")
    for name in ("running", "centred"):
        made.define(f"{name}(Tensor x) -> Tensor")
    made.impl("running", lambda x: x.cumsum(0), "CPU")
    made.impl("centred", lambda x: x - x.mean(0), "CPU")
    tm.register_rule("parity_faults::running", "b x -> b x")
    tm.register_rule("parity_faults::centred", "b x -> b x")
    yield made
    made._destroy()


def op_of(name):
    return getattr(torch.ops.parity_faults, name)


@pytest.mark.parametrize("name", ["running", "centred"])
def test_a_wrong_rule_is_found_at_its_op(library, name):
    def faulty(x):
        return op_of(name)(x).square().sum()

    found = tm.check_parity(faulty, place(torch.randn(6, 4), "S0", "R"))
    assert not found
    assert found.first.op == f"parity_faults::{name}"
    assert "(S0, R)" in found.first.layouts
    assert len(found.differences) == 1  # what follows is right on its input


def test_a_doubled_gradient_is_found():
    def doubled(h):
        h.register_hook(lambda g: g * 2)
        return h

    found = tm.check_parity(with_fault(doubled), *state())
    assert not found
    assert found.first.op == "aten::mul"
    wrong = {v.name for v in found.values if not v.agrees}
    assert "mix.weight.grad" in wrong
    assert "result 0" not in wrong


def test_another_seed_is_found_at_the_draw():
    def seeded(h):
        torch.manual_seed(3)
        return h

    found = tm.check_parity(with_fault(seeded), *state())
    assert not found
    assert "dropout" in found.first.op
    assert "another state of the generator" in found.first.what


def test_a_draw_too_many_is_found():
    def drawing(h):
        torch.rand(1)
        return h

    found = tm.check_parity(with_fault(drawing), *state())
    assert not found
    assert "rand" in found.first.op


def test_another_mask_is_found():
    def drops(x):
        if on_mesh(x):  # as many draws, at other places
            return F.dropout(x.flip(0), 0.5).flip(0).square().sum()
        return F.dropout(x, 0.5).square().sum()

    found = tm.check_parity(drops, place(torch.randn(6, 4), "S0", "R"))
    assert not found
    assert found.first.op == "aten::flip"
    assert "only on the mesh" in found.first.what


def test_a_stale_buffer_is_found_by_its_name():
    def stale(net, optimizer, x, y):
        before = net.norm.running_mean.clone()
        loss = step(net, optimizer, x, y)
        if on_mesh(x):
            net.norm.running_mean.copy_(before)
        return loss

    found = tm.check_parity(stale, *state())
    assert not found
    assert found.first.op == "aten::copy_"
    assert [v.name for v in found.values if not v.agrees] == [
        "norm.running_mean"
    ]


def test_a_mean_of_shards_is_found():
    def mean_of_the_first_shard(h):
        return h - h[:2].mean(0)

    found = tm.check_parity(with_fault(mean_of_the_first_shard), *state())
    assert not found
    assert found.first is not None


def test_a_lost_write_is_found_at_the_op(monkeypatch):
    """The engine loses what an op writes; every op is asked, so this one."""
    from torch_mesh import op_check

    def losing(x):
        y = x.clone()
        y[1:].mul_(3)
        return y.sum()

    compare = op_check._Beside.compare

    def undone(self, result, drawing=None):
        if self._call.name == "aten::mul_":
            self._call.args[0].div_(3)
        compare(self, result, drawing)

    monkeypatch.setattr(op_check._Beside, "compare", undone)
    found = tm.check_parity(losing, place(torch.randn(6, 4), "S0", "R"))
    assert not found
    assert found.first.op == "aten::mul_"
    assert found.first.largest > 1


def test_a_rounding_that_plain_torch_shares_is_no_fault():
    """A sum that cancels: any order of it is far from the exact value."""

    def cancelling(x):
        return (x + 1e6).sum() - 1e6 * x.numel()

    x = torch.randn(64, 64)
    found = tm.check_parity(cancelling, place(x, "S0", "S1"), rtol=10.0)
    assert found, str(found)


# ------------------------------------------------------------------- messages


def test_a_step_that_holds_a_model_is_refused_with_its_name():
    net, optimizer, x, y = state()
    with pytest.raises(TypeError, match=r"uses net, (.|\n)*\[parity-state\]"):
        tm.check_parity(lambda x, y: F.cross_entropy(net(x), y), x, y)
    with pytest.raises(TypeError, match=r"object of the method"):
        tm.check_parity(net.forward, x)


def test_plain_state_and_no_function_are_refused():
    with pytest.raises(TypeError, match=r"\[parity-state\]"):
        tm.check_parity(lambda x: x.sum(), torch.ones(2))
    with pytest.raises(TypeError, match=r"\[argument-type\]"):
        tm.check_parity(3, torch.ones(2))


def test_a_result_of_a_graph_is_refused_as_state():
    x = place(torch.ones(4, 2), "S0", "R").requires_grad_() * 2
    with pytest.raises(TypeError, match=r"\[parity-state\]"):
        tm.check_parity(lambda x: x.sum(), x)


def test_the_report_shows_op_layouts_and_values():
    def doubled(h):
        return h * 2

    text = str(tm.check_parity(with_fault(doubled), *state()))
    assert "they differ" in text
    assert "aten::mul" in text
    assert "mix.weight.grad" in text
    assert "(R, S0)" in text


def test_hooks_of_parameters_are_run():
    """A doubled gradient, and an optimizer that steps within backward."""
    mesh = tm.Mesh({"data": 2})
    model = tm.parallelize(torch.nn.Linear(4, 2), mesh, {})
    x = tm.distribute(torch.randn(6, 4), mesh, ("S0",))

    def step(model, x):
        loss = model(x).square().mean()
        loss.backward()
        return loss

    def descend(p):
        p.data.sub_(p.grad)

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(descend)
    found = tm.check_parity(step, model, x)
    assert found, found
    model.weight.register_hook(
        lambda g: g * 2 if g.device.type == "mesh" else g
    )
    assert not tm.check_parity(step, model, x)
    held = model.bias
    model.weight.register_hook(lambda g: g + held.sum())
    with pytest.raises(TypeError, match="(?s)held.*parity-state"):
        tm.check_parity(step, model, x)
