"""Every optimizer of torch's `optim_db`, with all flags, for three steps."""

import copy
import functools

import torch
from tests.conformance.compare import assert_same
from tests.conformance.exactness import Draws
from tests.conformance.layouts import mesh_of, place
from tests.conformance.programs import compare, is_clear
from tests.conformance.record import Wrong, describe
from torch.testing._internal.common_optimizers import optim_db

import torch_mesh as tm

STEPS = 3

SIZE = 1000  # summands of a re-ordered sum

# Placements of the two matrices and the two vectors, on one axis and on two.
LAYOUTS = {
    1: {
        "replicated": [("R",)] * 4,
        "sharded": [("S0",), ("S1",), ("S0",), ("S0",)],
        "mixed": [("S1",), ("R",), ("R",), ("S0",)],
    },
    2: {
        "replicated": [("R", "R")] * 4,
        "sharded": [("S0", "S1"), ("S1", "S0"), ("S0", "R"), ("R", "S0")],
        "mixed": [("R", "S1"), ("S0", "S0"), ("R", "R"), ("S0", "R")],
    },
}


@functools.cache
def optimizers():
    return {info.optim_cls.__name__: info for info in optim_db}


def units(options):
    return [*optimizers(), *RECIPES]


def run(unit, options, record):
    if unit in RECIPES:
        values = [matrix(7, 5), matrix(5, 7, 1), matrix(6), matrix(7)]
        compare(
            record,
            options,
            unit,
            RECIPES[unit],
            [v.requires_grad_() for v in values],
            exact=False,
        )
        return
    info = optimizers()[unit]
    inputs = info.optim_inputs_func(device="cpu")
    if options.quick:
        inputs = inputs[:1] + inputs[-1:]
    for given in inputs:
        for way in ways_of(info):
            kwargs = {**given.kwargs, **way}
            label = f"{given.desc} {','.join(way) or 'single'}"
            run_flags(info, kwargs, label, options, record)
        if "differentiable" in info.supported_impls:
            leaves = [p.detach() for p in parameters(info)]
            compare(
                record,
                options,
                f"{given.desc} differentiable",
                functools.partial(through_steps, info, given.kwargs),
                [t.requires_grad_() for t in leaves],
                exact=False,
                size=SIZE,
                quick=True,
            )


def ways_of(info):
    """single-tensor, foreach, fused; the other flags come from `optim_db`."""
    known = {"foreach": False} if "foreach" in info.supported_impls else {}
    ways = [known]
    if "foreach" in info.supported_impls:
        ways.append({"foreach": True})
    if "fused" in info.supported_impls and "cpu" in info.supports_fused_on:
        ways.append({"fused": True})
    return ways


def run_flags(info, kwargs, label, options, record):
    try:
        expected = trained(info, kwargs, parameters(info))
    except Exception as error:
        record.skip(label, f"plain: {describe(error)}")
        return
    # Muon computes its updates in bfloat16: there plain torch itself differs.
    draws = Draws(lambda: trained(info, kwargs, parameters(info)))
    for mesh_name in options.meshes:
        mesh = mesh_of(mesh_name)
        for name, layouts in LAYOUTS[len(mesh.shape)].items():
            record.case(
                mesh_name,
                f"{label} {name}",
                functools.partial(
                    check,
                    info,
                    kwargs,
                    expected,
                    draws,
                    mesh,
                    layouts,
                    options.plant,
                ),
            )


def matrix(*shape, seed=0):
    generator = torch.Generator().manual_seed(11 + seed + len(shape))
    return torch.randn(*shape, generator=generator)


def parameters(info):
    shapes = [(7, 5), (5, 6), (6,), (7,)]
    if info.optim_cls.__name__ == "Muon":
        shapes = [(7, 5), (5, 6), (6, 5), (5, 7)]  # takes matrices only
    return [
        torch.nn.Parameter(matrix(*shape, seed=i))
        for i, shape in enumerate(shapes)
    ]


def trained(info, kwargs, params):
    """Parameters and optimizer after a few steps."""
    kwargs = dict(kwargs)
    if "lr" in kwargs and isinstance(kwargs["lr"], torch.Tensor):
        kwargs["lr"] = kwargs["lr"].clone()
    sparse = info.only_supports_sparse_grads
    optimizer = info.optim_cls(params, **kwargs)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = sum(
            (p * (i + 1) - 0.3).square().mean() for i, p in enumerate(params)
        )
        loss.backward()
        if sparse:
            for p in params:
                p.grad = p.grad.to_sparse()
        return loss

    for _ in range(STEPS):
        losses.append(optimizer.step(closure))
    return params, optimizer, [loss.detach() for loss in losses]


def check(info, kwargs, expected, draws, mesh, layouts, plant):
    with tm.use(mesh):
        params = [
            torch.nn.Parameter(place(p, mesh, placements))
            for p, placements in zip(parameters(info), layouts, strict=True)
        ]
        train = lose_writes if plant == "lost_write" else trained
        try:
            params, optimizer, losses = train(info, kwargs, params)
        except NotImplementedError as error:
            if info.only_supports_sparse_grads and is_clear(error):
                return
            raise
    right, right_optimizer, right_losses = expected

    def drawn(pick):
        return functools.partial(draws.tensors, pick)

    for i, (a, e) in enumerate(zip(losses, right_losses, strict=True)):
        pick = drawn(lambda made, i=i: made[2][i])
        assert_same(a, e, f"loss {i}", size=SIZE, draws=pick)
    for i, (a, e) in enumerate(zip(params, right, strict=True)):
        pick = drawn(lambda made, i=i: made[0][i])
        assert_same(a, e, f"parameter {i}", size=SIZE, draws=pick)
        if tm.layout(a).placements != tuple(layouts[i]):
            raise Wrong(f"parameter {i} now in {tm.layout(a)}")
        state, right_state = optimizer.state[a], right_optimizer.state[e]
        if set(state) != set(right_state):
            raise Wrong(f"state {sorted(state)}, not {sorted(right_state)}")
        for key, value in right_state.items():
            what = f"state {key} of parameter {i}"
            check_state(
                state[key],
                value,
                what,
                lambda made, i=i, key=key: made[1].state[made[0][i]][key],
                drawn,
            )
            if (
                isinstance(value, torch.Tensor)
                and value.shape == e.shape
                and tm.is_global(state[key])
            ):
                follows = tm.layout(state[key]).placements
                if follows != tm.layout(a).placements:
                    raise Wrong(f"{what} in {follows}, not {layouts[i]}")


def check_state(actual, expected, what, pick, drawn):
    """A number, a tensor, or a list of tensors, as L-BFGS has.

    Args:
        pick: finds it in what `trained` gives.
        drawn: makes of that what `assert_same` asks plain torch.
    """
    if isinstance(expected, list):
        if len(actual) != len(expected):
            raise Wrong(f"{what}: {len(actual)} values, not {len(expected)}")
        for n, (a, e) in enumerate(zip(actual, expected, strict=True)):
            check_state(a, e, what, lambda made, n=n: pick(made)[n], drawn)
    elif isinstance(expected, float) and isinstance(actual, float):
        # Of a loss in float32.
        assert_same(
            torch.tensor(actual),
            torch.tensor(expected),
            what,
            draws=drawn(lambda made: torch.tensor(pick(made))),
        )
    else:
        assert_same(actual, expected, what, size=SIZE, draws=drawn(pick))


def through_steps(info, kwargs, world, *leaves):
    """Parameters after some steps, and gradients through these steps."""
    params = [leaf.clone() for leaf in leaves]
    kwargs = {**kwargs, "differentiable": True}
    if "foreach" in info.supported_impls:
        kwargs["foreach"] = False
    optimizer = info.optim_cls(params, **kwargs)
    for _ in range(2):
        for i, (p, leaf) in enumerate(zip(params, leaves, strict=True)):
            p.grad = (leaf * (i + 1)).sin()
        optimizer.step()
    total = sum(p.square().sum() for p in params)
    return [*params, *torch.autograd.grad(total, leaves)]


def lose_writes(info, kwargs, params):
    """Training of which the last step's write to one parameter is lost."""
    before = params[0].detach().clone()
    result = trained(info, kwargs, params)
    with torch.no_grad():
        params[0].copy_(before)
    return result


# ------------------------------------------------------------------- recipes


def loss_of(params):
    return sum(
        (p * (i + 1) - 0.3).square().mean() for i, p in enumerate(params)
    )


def clip_by_norm(world, *params, **how):
    loss_of(params).backward()
    total = torch.nn.utils.clip_grad_norm_(params, 0.1, **how)
    return [total, *(p.grad for p in params)]


def clip_by_value(world, *params, **how):
    loss_of(params).backward()
    torch.nn.utils.clip_grad_value_(params, 0.05, **how)
    return [p.grad for p in params]


def accumulate(world, *params):
    optimizer = torch.optim.Adam(params, 0.1)
    for _ in range(2):
        for k in range(3):
            (loss_of(params) * (k + 1)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return [*params, *(p.grad for p in params)]


def tied(world, *params):
    """One weight in two places, and a module that shares it."""
    weight = torch.nn.Parameter(params[0].detach().clone())
    first = torch.nn.Linear(5, 7, bias=False, device=world.device)
    second = torch.nn.Linear(5, 7, bias=False, device=world.device)
    first.weight = weight
    second.weight = weight
    model = torch.nn.ModuleList([first, second])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x = params[1].detach()
    for _ in range(2):
        optimizer.zero_grad()
        y = first(x.t().matmul(x)[:, :5]) + second(x.t()[:7, :5])
        y.square().mean().backward()
        optimizer.step()
    return [weight, first.weight is second.weight, len(optimizer.state)]


def state_dict(world, *params):
    optimizer = torch.optim.AdamW(params, 0.1)
    loss_of(params).backward()
    optimizer.step()
    again = torch.optim.AdamW(params, 0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    loss_of(params).backward()
    again.step()
    return [*params, *(again.state[p]["exp_avg"] for p in params)]


def scheduled(world, *params):
    optimizer = torch.optim.SGD(params, 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 10)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(params).backward()
        optimizer.step()
        schedule.step()
    return list(params)


def averaged(world, *params):
    """Stochastic weight averaging."""
    model = torch.nn.ParameterList(params)
    swa = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        for p in params:
            p.add_(1)
    swa.update_parameters(model)
    with torch.no_grad():
        for p in params:
            p.mul_(2)
    swa.update_parameters(model)
    return list(swa.module.parameters())


RECIPES = {
    "clip by norm": clip_by_norm,
    "clip by norm foreach": functools.partial(clip_by_norm, foreach=True),
    "clip by norm single": functools.partial(clip_by_norm, foreach=False),
    "clip by norm inf": functools.partial(clip_by_norm, norm_type=float("inf")),
    "clip by norm 1": functools.partial(clip_by_norm, norm_type=1.0),
    "clip by value": clip_by_value,
    "clip by value single": functools.partial(clip_by_value, foreach=False),
    "gradient accumulation": accumulate,
    "tied weights": tied,
    "state dict": state_dict,
    "schedule": scheduled,
    "averaged model": averaged,
}
