"""Optimizers whose states and update are cut over the axis of the batch."""

import copy
import gc
import io
import warnings
import weakref

import pytest
import torch
from cut_nets import MESHES, backward, net, on, train, values
from torch import optim

import torch_mesh as tm

POINTWISE = {
    "sgd": lambda p, **k: optim.SGD(p, lr=0.1, momentum=0.9, **k),
    "adam": lambda p, **k: optim.Adam(p, lr=0.1, **k),
    "adamw": lambda p, **k: optim.AdamW(p, lr=0.1, amsgrad=True, **k),
    "adagrad": lambda p, **k: optim.Adagrad(p, lr=0.1, **k),
    "rmsprop": lambda p, **k: optim.RMSprop(p, lr=0.1, momentum=0.5, **k),
}


def assert_equal(model, other):
    for ours, theirs in zip(values(model), values(other), strict=True):
        assert torch.equal(ours, theirs)


def assert_close(model, other, **tolerance):
    torch.testing.assert_close(values(model), values(other), **tolerance)


def states(optimizer):
    """States that have dims."""
    return [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.dim() > 0
    ]


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("kind", POINTWISE)
def test_a_cut_update_gives_the_bits_of_the_whole_one(
    memories, kind, foreach, name
):
    plain = net()
    train(plain, POINTWISE[kind](plain.parameters(), foreach=foreach))
    whole, cut = on(name)
    train(whole, POINTWISE[kind](whole.parameters(), foreach=foreach), cut)
    model, cut = on(name)
    optimizer = POINTWISE[kind](model.parameters(), foreach=foreach)
    train(model, tm.shard_optimizer(optimizer), cut)
    assert_equal(model, whole)
    # rmsprop divides by roots of what is near 0
    assert_close(model, plain, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.Adam(p, lr=0.1, fused=True),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
        lambda p: optim.Adafactor(p, lr=0.1),
        lambda p: optim.NAdam(p, lr=0.1),
        lambda p: optim.ASGD(p, lr=0.1),
    ],
    ids=["fused adam", "fused sgd", "adafactor", "nadam", "asgd"],
)
def test_other_updates_agree_up_to_rounding(make, name):
    plain = net()
    train(plain, make(plain.parameters()))
    model, cut = on(name)
    train(model, tm.shard_optimizer(make(model.parameters())), cut)
    assert_close(model, plain, rtol=1e-4, atol=1e-6)


def model_devices(model):
    return tm.layout(model[0].weight).mesh.devices


def test_a_device_holds_its_part_of_the_states():
    whole, cut = on("4")
    all_of_it = optim.Adam(whole.parameters())
    train(whole, all_of_it, cut, steps=1)
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.Adam(model.parameters()))
    train(model, optimizer, cut, steps=1)
    small = 2 * 4 * model[4].bias.numel()  # fewer rows than devices: whole
    parts, wholes = tm.memory(optimizer), tm.memory(all_of_it)
    for device in model_devices(model):
        num_bytes = wholes.states[device] - small
        assert parts.states[device] - small == num_bytes // 4
    assert parts.parameters == wholes.parameters
    assert {tm.layout(p).placements for p in model.parameters()} == {("R",)}


def test_a_step_moves_the_bytes_of_one_all_reduce(separate_memories):
    def count(shard):
        model, cut = on("4")
        optimizer = optim.Adam(model.parameters(), foreach=True)
        if shard:
            tm.shard_optimizer(optimizer)
        train(model, optimizer, cut, steps=2)
        optimizer.zero_grad()
        backward(model, cut)
        with tm.counting() as counts:
            optimizer.step()
        assert counts.plans_made == 0
        assert counts.calls == counts.collectives
        return counts

    whole, parts = count(False), count(True)
    small = 4 * 2 * 6 // 4
    assert parts.collectives == {
        "reduce_scatter@data": 1,
        "all_gather@data": 1,
        "all_reduce@data": 1,  # of the bias that is too small
    }
    assert parts.bytes["reduce_scatter@data"] == parts.bytes["all_gather@data"]
    assert sum(parts.bytes.values()) <= sum(whole.bytes.values()) + small
    assert sum(parts.moved.values()) <= sum(whole.moved.values())


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_gradients_are_formed_in_parts_before_they_are_clipped(max_norm):
    plain = net()
    backward(plain)
    expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), max_norm)
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.SGD(model.parameters(), lr=0.1))
    backward(model, cut)
    with tm.counting() as counts:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    torch.testing.assert_close(norm.cpu(), expected)
    for ours, theirs in zip(
        model.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad)
    assert counts["reduce_scatter@data"] == 1
    large = [e for e in counts.events if e[0] == "all_reduce" and e[2] > 128]
    assert large == []
    optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clips", [False, True])
def test_a_scaler_finds_infinities_and_unscales_parts(fused, clips):
    def run(model, optimizer, cut, device):
        scaler = torch.amp.GradScaler(device, init_scale=64.0)
        for step in range(4):
            optimizer.zero_grad()
            torch.manual_seed(step)
            x = torch.randn(16, 12) * (float("inf") if step == 2 else 1)
            loss = model(cut(x)).square().mean()
            scaler.scale(loss).backward()
            if clips:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        return scaler.get_scale()

    plain = net()
    make = POINTWISE["adam"]
    scale = run(plain, make(plain.parameters(), fused=fused), tm.full, "cpu")
    model, cut = on("4")
    optimizer = tm.shard_optimizer(make(model.parameters(), fused=fused))
    assert run(model, optimizer, cut, "mesh") == scale == 32.0
    assert_close(model, plain, rtol=1e-4, atol=1e-6)


def test_a_weight_keeps_its_memory_its_views_and_its_ties():
    model, cut = on("4")
    weight = model[0].weight
    view, alias = weight.detach()[3:9], weight.detach()
    model.again = torch.nn.Linear(12, 32)
    model.again.weight = weight
    memory, version = weight.untyped_storage()._cdata, weight._version
    kept = weight
    optimizer = tm.shard_optimizer(optim.SGD(model.parameters(), lr=0.1))
    backward(model[:5], cut)
    optimizer.step()
    assert model[0].weight is kept and model.again.weight is kept
    assert weight.untyped_storage()._cdata == memory
    assert weight._version > version
    assert torch.equal(alias.cpu(), weight.detach().cpu())
    assert torch.equal(view.cpu(), weight.detach()[3:9].cpu())
    assert tm.layout(view).placements == ("R",)


def test_backward_refuses_a_weight_that_a_step_has_changed():
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.SGD(model.parameters(), lr=0.1))
    loss = model(cut(torch.randn(8, 12))).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


class Breaks(optim.Optimizer):
    """Updates the first weight, and breaks at the second."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for number, weight in enumerate(group["params"]):
                if number:
                    raise ArithmeticError("halfway")
                weight.add_(weight.grad)


def test_cut_weights_are_as_before_where_a_step_raises():
    model, cut = on("4")
    memories = [p.untyped_storage()._cdata for p in model.parameters()]
    before = values(model)
    optimizer = tm.shard_optimizer(Breaks(model.parameters()))
    backward(model, cut)
    with pytest.raises(ArithmeticError, match="halfway"):
        optimizer.step()
    assert [p.untyped_storage()._cdata for p in model.parameters()] == memories
    assert {tm.layout(p).placements for p in model.parameters()} == {("R",)}
    for was, now in zip(before, values(model), strict=True):
        assert torch.equal(was, now)


class Assigns(optim.Optimizer):
    """Writes as old optimizers do, and replaces one weight's memory."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        for group in self.param_groups:
            for number, weight in enumerate(group["params"]):
                if number:
                    weight.data.add_(weight.grad.data, alpha=-0.1)
                else:
                    weight.data = weight.data - 0.1 * weight.grad.data


def test_writes_through_data_are_kept():
    plain = net()
    train(plain, Assigns(plain.parameters()))
    model, cut = on("4")
    memory = model[0].weight.untyped_storage()._cdata
    train(model, tm.shard_optimizer(Assigns(model.parameters())), cut)
    assert_close(model, plain)
    assert model[0].weight.untyped_storage()._cdata == memory


def test_closures_see_whole_weights():
    def run(model, optimizer, cut=lambda x: x):
        seen = []

        def closure():
            optimizer.zero_grad()
            loss = backward(model, cut)
            seen.extend(
                tm.layout(p).placements
                for p in model.parameters()
                if tm.is_global(p)
            )
            return loss

        for _ in range(2):
            loss = optimizer.step(closure=closure)
        return loss.item(), set(seen)

    for make in (
        lambda p: optim.Adam(p, lr=0.1),
        lambda p: optim.LBFGS(p, lr=0.1, max_iter=4),
    ):
        plain = net()
        expected, _ = run(plain, make(plain.parameters()))
        model, cut = on("4")
        optimizer = tm.shard_optimizer(make(model.parameters()))
        loss, seen = run(model, optimizer, cut)
        assert loss == pytest.approx(expected, rel=1e-4)
        assert seen == {("R",)}
        assert_close(model, plain, rtol=1e-3, atol=1e-5)


def test_a_closure_that_raises_leaves_weights_whole():
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.LBFGS(model.parameters(), max_iter=4))
    calls = []

    def closure():
        calls.append(None)
        if len(calls) == 3:
            raise ArithmeticError("third")
        optimizer.zero_grad()
        return backward(model, cut)

    with pytest.raises(ArithmeticError, match="third"):
        optimizer.step(closure)
    assert {tm.layout(p).placements for p in model.parameters()} == {("R",)}


@pytest.mark.parametrize("is_first", [True, False])
def test_schedulers_and_hooks_go_on(is_first):
    def run(model, optimizer, cut=lambda x: x, shard=lambda optimizer: None):
        calls = []
        if not is_first:
            shard(optimizer)
        scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        if is_first:
            shard(optimizer)
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        for _ in range(3):
            train(model, optimizer, cut, steps=1)
            scheduler.step()
        assert calls == ["pre", "post"] * 3
        return scheduler.get_last_lr()

    plain = net()
    expected = run(plain, POINTWISE["adam"](plain.parameters()))
    model, cut = on("4")
    optimizer = POINTWISE["adam"](model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(model, optimizer, cut, tm.shard_optimizer) == expected
    assert_close(model, plain)
    assert {tm.layout(s).placements for s in states(optimizer)} == {
        ("S0",),
        ("S1",),
        ("R",),
    }


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("kind", POINTWISE)
def test_states_go_from_cut_to_plain_to_whole_and_back(kind):
    make = POINTWISE[kind]
    plain = net()
    expected = make(plain.parameters())
    train(plain, expected, steps=2)
    model, cut = on("4")
    optimizer = tm.shard_optimizer(make(model.parameters()))
    train(model, optimizer, cut, steps=2)
    saved = through_a_file(optimizer.state_dict())
    torch.testing.assert_close(
        saved["state"], expected.state_dict()["state"], rtol=1e-4, atol=1e-6
    )

    alone = net()
    alone.load_state_dict(through_a_file(model.state_dict()))
    plainly = make(alone.parameters())
    plainly.load_state_dict(copy.deepcopy(saved))
    train(alone, plainly)

    whole, _ = on("4")
    whole.load_state_dict(model.state_dict())
    wholly = make(whole.parameters())
    wholly.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(whole, wholly, cut)
    assert {tm.layout(s).placements for s in states(wholly)} == {("R",)}

    again, _ = on("4")
    again.load_state_dict(model.state_dict())
    cut_again = tm.shard_optimizer(make(again.parameters()))
    cut_again.load_state_dict(copy.deepcopy(saved))
    assert ("R",) not in {
        tm.layout(s).placements for s in states(cut_again) if s.numel() > 2
    }
    train(again, cut_again, cut)
    train(model, optimizer, cut)
    assert_equal(again, model)
    assert_equal(whole, model)
    assert_close(model, alone, rtol=1e-4, atol=5e-4)


def test_an_optimizer_that_is_not_cut_does_not_keep_cut_states():
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.Adam(model.parameters()))
    train(model, optimizer, cut, steps=1)
    other = optim.Adam(model.parameters())
    other.load_state_dict(optimizer.state_dict())
    train(model, other, cut, steps=1)
    assert {tm.layout(s).placements for s in states(other)} == {("R",)}
    assert {tm.layout(s).placements for s in states(copy.deepcopy(other))} == {
        ("R",)
    }


def test_an_optimizer_may_be_cut_after_its_first_steps():
    whole, cut = on("4")
    train(whole, optim.Adam(whole.parameters()), cut, steps=4)
    model, cut = on("4")
    optimizer = optim.Adam(model.parameters())
    for step in range(4):
        if step == 2:
            tm.shard_optimizer(optimizer)
            tm.shard_optimizer(optimizer)  # once more changes nothing
        optimizer.zero_grad()
        backward(model, cut, seed=step)
        optimizer.step()
    assert_equal(model, whole)
    assert ("S0",) in {tm.layout(s).placements for s in states(optimizer)}


def test_weights_may_come_to_the_mesh_and_to_the_optimizer_later():
    mesh = tm.Mesh({"data": 4})
    plain, model = net(), net()
    optimizers = []
    for module in (plain, model):
        optimizer = optim.Adam(
            [{"params": module[0].parameters(), "lr": 0.01}], lr=0.1
        )
        optimizers.append(optimizer)
    tm.shard_optimizer(optimizers[1])
    tm.parallelize(model, mesh)
    optimizers[0].add_param_group({"params": list(plain[2:].parameters())})
    optimizers[1].add_param_group({"params": list(model[2:].parameters())})
    train(plain, optimizers[0])
    train(
        model, optimizers[1], lambda x: tm.distribute(x, mesh, ("S0",)), steps=3
    )
    assert_close(model, plain, rtol=1e-4, atol=1e-6)
    state = optimizers[1].state[model[2].weight]["exp_avg"]
    assert tm.layout(state).placements == ("S0",)


def test_weights_without_a_gradient_are_left_alone():
    model, cut = on("4")
    model[0].requires_grad_(False)
    optimizer = tm.shard_optimizer(optim.Adam(model.parameters()))
    before = model[0].weight._version
    train(model, optimizer, cut, steps=1)
    assert model[0].weight._version == before
    assert model[0].weight not in optimizer.state


def test_weights_of_one_memory_are_updated_whole():
    def run(mesh):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(8, 4))
        x = torch.randn(8, 4)
        if mesh is not None:
            weight = torch.nn.Parameter(
                tm.distribute(weight.detach(), mesh, ("R",))
            )
            x = tm.distribute(x, mesh, ("S0",))
        other = torch.nn.Parameter(weight.detach())
        optimizer = optim.SGD([weight, other], lr=0.1, momentum=0.9)
        if mesh is not None:
            tm.shard_optimizer(optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            (x * weight * 2 + x * other).sum().backward()
            optimizer.step()
        return tm.full(weight.detach())

    torch.testing.assert_close(run(tm.Mesh({"data": 4})), run(None))


def test_an_optimizer_dies_with_its_last_reference():
    gc.disable()
    try:
        optimizer = tm.shard_optimizer(optim.SGD(net().parameters(), lr=0.1))
        dead = weakref.ref(optimizer)
        del optimizer
        assert dead() is None
    finally:
        gc.enable()


def test_a_copy_is_not_cut():
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.Adam(model.parameters()))
    train(model, optimizer, cut, steps=1)
    both = copy.deepcopy((model, optimizer))
    train(*both, cut, steps=1)
    assert {tm.layout(s).placements for s in states(both[1])} == {("R",)}
    train(model, optimizer, cut, steps=1)
    assert_close(*(model, both[0]))


def test_the_dim_that_divides_is_cut_and_no_other_axis_loses_its_own():
    from torch_mesh.state_layouts import cut_layout

    mesh = tm.Mesh({"data": 4, "model": 2})
    for placements, shape, expected in (
        (("R", "R"), (8, 3), ("S0", "R")),
        (("R", "R"), (6, 8), ("S1", "R")),
        (("R", "R"), (6, 5), ("S0", "R")),
        (("R", "R"), (3, 3), ("R", "R")),
        (("R", "R"), (), ("R", "R")),
        (("R", "S0"), (8, 8), ("S1", "S0")),
        (("R", "S0"), (8,), ("R", "S0")),
        (("S1", "R"), (8, 8), ("S1", "R")),
    ):
        layout = tm.Layout(mesh, placements)
        assert cut_layout(layout, shape, "data").placements == expected


def test_the_axis_is_that_of_the_batch_unless_it_is_named():
    mesh = tm.Mesh({"model": 2, "data": 2})
    for axis, expected in ((None, ("R", "S0")), ("model", ("S0", "R"))):
        model = tm.parallelize(net(), mesh)
        optimizer = optim.Adam(model.parameters())
        tm.shard_optimizer(optimizer, axis=axis)
        backward(model, lambda x: tm.distribute(x, mesh, ("R", "S0")))
        optimizer.step()
        state = optimizer.state[model[0].weight]["exp_avg"]
        assert tm.layout(state).placements == expected


def test_explain_shows_the_parts():
    model, cut = on("4")
    optimizer = tm.shard_optimizer(optim.Adam(model.parameters(), foreach=True))
    backward(model, cut)
    text = str(tm.explain(optimizer.step))
    assert "reduce_scatter@data" in text and "all_gather@data" in text


def test_what_cannot_be_cut_says_why():
    model, _ = on("4")
    with pytest.raises(ValueError, match=r'"batch"[^[]*\[unknown-axis'):
        tm.shard_optimizer(optim.SGD(model.parameters()), axis="batch")
    with pytest.raises(TypeError, match="argument-type"):
        tm.shard_optimizer(model)
    with pytest.raises(ValueError, match="differentiable-optimizer"):
        tm.shard_optimizer(
            optim.SGD(model.parameters(), lr=0.1, differentiable=True)
        )
