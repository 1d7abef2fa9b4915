"""Layouts of parameters and states stay, whoever moves them."""

import copy
import io
import warnings

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C, moves

SPLIT = ("R", "S0")


def placements(x):
    return tm.layout(x).placements


def net():
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    )


def split_net(mesh):
    return tm.parallelize(net(), mesh, {"0": "colwise", "2": "rowwise"})


def train(model, optimizer, steps=2):
    """A few steps on one batch; the last loss."""
    torch.manual_seed(5)
    x, y = torch.randn(6, 6), torch.randn(6, 3)
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def assert_same(model, plain):
    for ours, theirs in zip(
        model.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach())


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("in_force", ["own", "none", "other"])
def test_reloaded_states_stand_as_their_parameters(mesh, line, kind, in_force):
    make = OPTIMIZERS[kind]
    model, plain = split_net(mesh), net()
    plain.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
    ours, theirs = make(model.parameters()), make(plain.parameters())
    train(model, ours), train(plain, theirs)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    used = {"own": mesh, "none": None, "other": line}[in_force]
    with tm.use(used):
        again = make(model.parameters())
        again.load_state_dict(torch.load(file))
    for parameter, states in again.state.items():
        for state in states.values():
            if tm.is_global(state):
                if state.shape == parameter.shape:
                    assert tm.layout(state) == tm.layout(parameter)
                assert tm.layout(state).mesh == mesh
    with tm.counting() as counts:
        again.step()
    theirs.step()
    if kind != "adafactor":
        assert counts.collectives == {}
    assert_same(model, plain)
    train(model, again), train(plain, theirs)
    assert_same(model, plain)


def test_states_of_a_live_optimizer_are_taken_as_they_are(mesh):
    model = split_net(mesh)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer)
    again = OPTIMIZERS["adamw"](model.parameters())
    with tm.counting() as counts:
        again.load_state_dict(optimizer.state_dict())
    assert counts.collectives == {}
    weight = model[0].weight
    assert placements(again.state[weight]["exp_avg"]) == SPLIT


def test_layouts_of_other_parameters_do_not_leak(mesh):
    model = split_net(mesh)
    saved = {}
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    twin = tm.parallelize(net(), mesh, {})
    again = OPTIMIZERS["adamw"](twin.parameters())
    again.load_state_dict(saved)
    for states in again.state.values():
        assert placements(states["exp_avg"]) == ("R", "R")


@pytest.mark.parametrize("in_force", ["own", "none"])
def test_a_module_comes_back_as_it_stood(mesh, in_force):
    model = split_net(mesh)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer)
    before = {n: tm.layout(p) for n, p in model.named_parameters()}
    ids = [id(p) for p in model.parameters()]
    value = model[0].weight.detach().cpu()
    model.cpu()
    assert not any(tm.is_global(p) for p in model.parameters())
    with tm.use(mesh if in_force == "own" else None):
        model.double().to("mesh")
    assert {n: tm.layout(p) for n, p in model.named_parameters()} == before
    assert placements(model[0].weight.grad) == SPLIT
    assert ids == [id(p) for p in model.parameters()]
    assert torch.equal(model[0].weight.cpu(), value.double())


def test_a_module_that_comes_to_another_mesh_is_replicated(mesh, line):
    model = split_net(mesh).cpu()
    with tm.use(line):
        model.to("mesh")
    assert tm.layout(model[0].weight) == tm.Layout(line, ("R",))
    with tm.use(line):
        tm.redistribute_(model[0].weight, ("S0",))
        model.cpu().to("mesh")
    assert tm.layout(model[0].weight) == tm.Layout(line, ("S0",))


def test_new_modules_take_no_layout_of_old_ones(mesh):
    split_net(mesh).cpu()
    with tm.use(mesh):
        model = net().to("mesh")
    assert placements(model[0].weight) == ("R", "R")


@pytest.mark.parametrize("assign", [False, True])
def test_loading_keeps_layouts(mesh, assign):
    model, plain = split_net(mesh), net()
    model.load_state_dict(plain.state_dict(), assign=assign)
    assert placements(model[0].weight) == SPLIT
    assert placements(model[2].weight) == ("R", "S1")
    assert_same(model, plain)
    model[0].weight.data.zero_()
    assert plain[0].weight.abs().sum() > 0
    state = {"0.weight": tm.distribute(torch.ones(8, 6), mesh, ("S1", "R"))}
    model.load_state_dict(state, assign=assign, strict=False)
    wanted = ("S1", "R") if assign else SPLIT
    assert placements(model[0].weight) == wanted


def test_copies_and_swaps_keep_layouts(mesh):
    model = split_net(mesh)
    twin = copy.deepcopy(model)
    assert placements(twin[0].weight) == SPLIT
    assert_same(twin, copy.deepcopy(model).cpu())
    a, b = model[0].weight, torch.nn.Parameter(torch.ones(2, 2))
    torch.utils.swap_tensors(a, b)
    assert placements(b) == SPLIT and not tm.is_global(a)


@pytest.mark.parametrize(
    "flag",
    [
        torch.__future__.set_overwrite_module_params_on_conversion,
        torch.__future__.set_swap_module_params_on_conversion,
    ],
)
def test_layouts_stay_under_torchs_flags(mesh, flag):
    model, plain = split_net(mesh), net().double()
    flag(True)
    try:
        model.cpu().to("mesh")
        model.double()
        model.load_state_dict(plain.state_dict())
        assert placements(model[0].weight) == SPLIT
        model.load_state_dict(plain.state_dict(), assign=True)
    finally:
        flag(False)
    assert placements(model[0].weight) == SPLIT
    assert model[0].weight.dtype == torch.float64
    assert_same(model, plain)


def test_redistribute_in_place_keeps_the_parameter(mesh):
    model = net()
    plain = copy.deepcopy(model)
    with tm.use(mesh):
        model.to("mesh")
    ours, theirs = (OPTIMIZERS["adamw"](m.parameters()) for m in (model, plain))
    train(model, ours), train(plain, theirs)
    weight = model[0].weight
    assert tm.redistribute_(weight, {"model": "S-2"}) is weight
    tm.redistribute_(model[0].bias, SPLIT)
    tm.redistribute_(model[2].weight, ("R", "S1"))
    assert model[0].weight is weight and weight.requires_grad
    assert placements(weight) == placements(weight.grad) == SPLIT
    ours.step(), theirs.step()
    assert placements(ours.state[weight]["exp_avg"]) == SPLIT
    assert placements(ours.state[weight]["exp_avg_sq"]) == SPLIT
    train(model, ours), train(plain, theirs)
    assert_same(model, plain)
    with tm.counting() as counts:
        ours.step()
    assert counts.collectives == {}


def test_redistribute_in_place_takes_another_mesh(mesh, line):
    x = tm.distribute(torch.arange(7.0), mesh, ("S0", "R"))
    tm.redistribute_(x, tm.Layout(line, ("S0",)))
    assert tm.layout(x) == tm.Layout(line, ("S0",))
    assert torch.equal(x.cpu(), torch.arange(7.0))


def test_redistribute_in_place_refuses_views_and_plain_tensors(mesh):
    x = tm.distribute(torch.ones(4, 2), mesh)
    with pytest.raises(ValueError, match="view-layout"):
        tm.redistribute_(x[1:], ("S0", "R"))
    with pytest.raises(ValueError, match="not-global"):
        tm.redistribute_(torch.ones(4), ("S0", "R"))
    with pytest.raises(ValueError, match="layout-dim"):
        tm.redistribute_(x, ("S5", "R"))
    assert placements(x) == ("R", "R")


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_redistributed_parameter_can_be_assigned(mesh, is_recorded):
    model = net()
    with tm.use(mesh):
        model.to("mesh")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer)
    weight = model[0].weight
    with torch.set_grad_enabled(is_recorded):
        model[0].weight = tm.redistribute(model[0].weight, SPLIT)
    assert model[0].weight is weight
    assert weight.is_leaf and weight.requires_grad
    assert placements(weight) == placements(weight.grad) == SPLIT
    train(model, optimizer)
    assert placements(optimizer.state[weight]["exp_avg"]) == SPLIT


def test_redistribute_of_a_parameter_is_differentiable(mesh):
    weight = torch.nn.Parameter(tm.distribute(torch.ones(4, 2), mesh))
    moved = tm.redistribute(weight, SPLIT)
    (moved * 3).sum().backward()
    assert torch.equal(weight.grad.cpu(), torch.full((4, 2), 3.0))


def test_other_tensors_are_no_parameters_and_the_error_says_what_to_do(mesh):
    model = net()
    with tm.use(mesh):
        model.to("mesh")
    tm.redistribute(model[0].weight, SPLIT)
    with pytest.raises(TypeError, match=r"redistribute_.*\[not-a-parameter\]"):
        model[0].weight = tm.redistribute(model[0].weight * 2, SPLIT)
    with pytest.raises(TypeError, match="not-a-parameter"):
        model[2].weight = tm.redistribute(model[0].weight, SPLIT)
    with pytest.raises(TypeError) as error:
        model[0].weight = torch.ones(2)
    assert "not-a-parameter" not in str(error.value)


def test_a_module_without_a_mesh_says_so_once(mesh, monkeypatch):
    monkeypatch.setattr(moves, "_has_warned_of_no_mesh", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net().to("mesh")
        net().to("mesh")
    (warning,) = caught
    assert "[no-mesh]" in str(warning.message)
    assert warning.filename == __file__
    monkeypatch.setattr(moves, "_has_warned_of_no_mesh", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tm.use(mesh):
            net().to("mesh")


class TestPlacements:
    """DTensor's placements, None and negative dims, wherever they go."""

    def test_are_taken(self, mesh):
        dtensor = pytest.importorskip("torch.distributed.tensor")
        shard, whole = dtensor.Shard, dtensor.Replicate()
        x = torch.randn(4, 6)
        for given, wanted in (
            ([shard(0), whole], ("S0", "R")),
            ([shard(-1), None], ("S1", "R")),
            ((None, "S-2"), ("R", "S0")),
            ("(S-1, R)", ("S1", "R")),
            ({"model": shard(1)}, ("R", "S1")),
            ({"model": None, "data": "S-1"}, ("S1", "R")),
            ([dtensor.Partial(), whole], ("P+", "R")),
        ):
            assert placements(tm.distribute(x, mesh, given)) == wanted
            y = tm.distribute(x, mesh)
            assert placements(tm.redistribute(y, given)) == wanted
            assert placements(tm.redistribute_(y, given)) == wanted
            assert torch.equal(y.cpu(), x)
            if "P+" not in wanted:
                assert placements(tm.borrow(x, mesh, given)) == wanted
                parts = tm.shards(tm.distribute(x, mesh, given))
                z = tm.from_shards(parts, mesh, given)
                assert placements(z) == wanted
                assert torch.equal(z.cpu(), x)
                out = tm.map_shards(lambda t: t + 1, z, out=given)
                assert placements(out) == wanted
                model = torch.nn.Linear(6, 4)
                tm.parallelize(model, mesh, {"weight": given})
                assert placements(model.weight) == wanted

    def test_that_mean_no_sum_are_refused(self, mesh):
        dtensor = pytest.importorskip("torch.distributed.tensor")
        with pytest.raises(ValueError, match="placement-text"):
            tm.Layout(mesh, [dtensor.Partial("max"), None])
        with pytest.raises(ValueError, match="placement-text"):
            tm.Layout(mesh, ["S-1", None])
        with pytest.raises(ValueError, match="placement-text"):
            tm.distribute(torch.ones(3), mesh, ["S-2", None])


def test_unwritten_memory_of_a_parameter_is_not_allocated(mesh):
    with tm.memory() as memory:
        made = moves.unwritten_like(
            torch.empty(1 << 12, 1 << 12, device="meta"),
            tm.Layout(mesh, SPLIT),
        )
        assert _C.is_unwritten(made)
    assert sum(memory.peak.values()) == 0


def test_what_shares_out_among_processes_says_it_is_not_needed(mesh):
    parallel = pytest.importorskip("torch.distributed.tensor.parallel")
    model = split_net(mesh)
    plan = {"0": parallel.ColwiseParallel()}
    with pytest.raises(AttributeError, match="not-needed"):
        parallel.parallelize_module(model, mesh, plan)
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    with pytest.raises(AttributeError, match="not-needed"):
        fsdp.fully_shard(model, mesh=mesh)
    with pytest.raises(ValueError, match=r"\[not-needed\]"):
        torch.nn.parallel.DistributedDataParallel(model)
    assert not hasattr(mesh, "colour")
    with pytest.raises(AttributeError) as error:
        _ = mesh.colour
    assert "not-needed" not in str(error.value)


@pytest.mark.parametrize("axes", [{"data": 2}, {"data": 2, "model": 2}])
@pytest.mark.parametrize(
    "before, after",
    [("RR", ("S0", "R")), (("S0", "R"), "RR"), (("S0", "R"), ("R", "S1"))],
)
def test_all_who_share_the_memory_see_a_new_layout(axes, before, after):
    """Also each write of any of them, as the flat buffers of optimizers do."""
    mesh = tm.Mesh(axes)
    before, after = (tuple(p)[: len(axes)] for p in (before, after))

    def views(x):
        return [
            x,
            x.detach(),
            x[1:3],
            x.t(),
            x.view(-1)[3:9].detach(),
            x[:, :1].expand(6, 4),
            torch.nn.Parameter(x[2:].detach()),
        ]

    right = views(torch.arange(24.0).reshape(6, 4))
    x = tm.distribute(torch.arange(24.0).reshape(6, 4), mesh, before)
    mine = views(x)
    tm.redistribute_(x, after)
    assert tm.layout(x).placements == after
    assert tm.layout(mine[1]).placements == after
    for i, write in enumerate(
        (
            lambda v: v[0].add_(1),
            lambda v: v[1].neg_(),
            lambda v: v[2].mul_(2),
            lambda v: v[3][0].zero_(),
            lambda v: v[4].sub_(3),
            lambda v: v[6].data.add_(5),
            lambda v: v[0].t_(),
        )
    ):
        write(mine)
        write(right)
        for a, b in zip(mine, right, strict=True):
            assert torch.equal(tm.full(a.detach()), b.detach()), i
    part = mine[6]
    other = "S0" if tm.layout(part).placements[0] == "S1" else "S1"
    with pytest.raises(ValueError, match="view-layout"):
        tm.redistribute_(part, (other,) + ("R",) * (len(axes) - 1))


def test_memory_that_nobody_has_written_takes_a_new_layout():
    mesh = tm.Mesh({"data": 2})
    with tm.use(mesh):
        x = torch.empty(4, 4, device="mesh")
        other = x.detach()
        tm.redistribute_(x, ("S0",))
        x.fill_(2)
    assert tm.layout(x).placements == ("S0",)
    assert tm.full(other).sum() == 32
    whole = torch.nn.Parameter(tm.distribute(torch.ones(12), mesh).view(3, 4))
    assert tm.layout(tm.redistribute_(whole, ("S1",))).placements == ("S1",)
