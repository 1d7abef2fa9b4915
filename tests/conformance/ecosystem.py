"""What people do around ops: transforms, hooks, files, compilers, threads.

Each program takes a matrix `x` [7, 6] and a matrix `w` [6, 5]. Those of threads
and of extensions are in extensions.py.
"""

import copy
import functools
import io
import pickle

import torch
from tests.conformance import autocast as autocast_lists
from tests.conformance import extensions  # noqa: F401 (its programs)
from tests.conformance.programs import compare
from tests.conformance.small_model import (
    PROGRAMS,
    gradients,
    model,
    place_model,
    program,
    rounded,
    values,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

f = functools.partial

# ----------------------------------------------------------------- torch.func


@program
def vmap(world, x, w):
    return torch.func.vmap(lambda row: (row @ w).tanh())(x)


@program
def vmap_last(world, x, w):
    return torch.func.vmap(lambda c: c.sin() * 2, in_dims=1, out_dims=1)(x)


@program
def vmap_two(world, x, w):
    inner = torch.func.vmap(lambda a, b: (a * b).sum(), (None, 0))
    return torch.func.vmap(inner, (0, None))(x, w.t())


@program
def vmap_random(world, x, w):
    return torch.func.vmap(lambda r: F.dropout(r, 0.5), randomness="different")(
        x
    ).shape


@program
def grad(world, x, w):
    return torch.func.grad(lambda x: (x @ w).tanh().sum())(x)


@program
def grad_twice(world, x, w):
    loss = lambda x: (x**3 @ w).sum()  # noqa: E731
    return torch.func.grad(lambda x: torch.func.grad(loss)(x).sin().sum())(x)


@program
def vjp(world, x, w):
    y, back = torch.func.vjp(lambda x, w: x @ w, x, w)
    return [y, back(torch.ones_like(y))]


@program
def jvp(world, x, w):
    return torch.func.jvp(
        lambda x: (x @ w).sigmoid(), (x,), (torch.ones_like(x),)
    )


@program
def jacrev(world, x, w):
    return torch.func.jacrev(lambda w: (x[:2] @ w).tanh())(w)


@program
def jacfwd(world, x, w):
    return torch.func.jacfwd(lambda w: (x[:2] @ w).tanh())(w)


@program
def hessian(world, x, w):
    return torch.func.hessian(lambda w: (x[0] @ w).pow(3).sum())(w)


@program
def functional_call(world, x, w):
    made = model(world)
    params = {k: v.detach() for k, v in made.named_parameters()}

    def loss(params, row):
        return torch.func.functional_call(made, params, (row,)).sum()

    one = torch.func.grad(loss)(params, x)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)
    return [one, each]


@program
def functionalize(world, x, w):
    def g(x):
        y = x.clone()
        y[1:3].mul_(2)
        return y

    return torch.func.functionalize(g)(x)


@program
def linearize(world, x, w):
    y, push = torch.func.linearize(lambda x: (x @ w).sin(), x)
    return [y, push(torch.ones_like(x))]


@program
def ensemble(world, x, w):
    models = [model(world) for _ in range(2)]
    params, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def call(p, b, x):
        return torch.func.functional_call(base, (p, b), (x,))

    return torch.func.vmap(call, (0, 0, None))(params, buffers, x)


# ---------------------------------------------------------------------- hooks


@program
def hooks(world, x, w):
    seen = []
    x = x.detach().requires_grad_()
    x.register_hook(lambda g: g * 2)
    y = x @ w
    y.retain_grad()
    y.register_hook(lambda g: seen.append(g.clone()))
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.clone()))
    y.square().sum().backward()
    return [x.grad, y.grad, seen]


@program
def module_hooks(world, x, w):
    seen = []
    made = model(world)
    made[0].register_forward_pre_hook(lambda m, a: (a[0] * 2,))
    made[0].register_forward_hook(lambda m, a, y: y + 1)
    made[2].register_full_backward_hook(lambda m, gi, go: seen.append(gi[0]))
    made[3].register_full_backward_pre_hook(lambda m, go: (go[0] * 3,))
    made(x).square().sum().backward()
    return [seen, gradients(made)]


@program
def saved_tensor_hooks(world, x, w):
    x = x.detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.cpu(), lambda t: t.to(world.device)
    ):
        y = (x @ w).tanh()
    y.sum().backward()
    return x.grad


@program
def save_on_cpu(world, x, w):
    x = x.detach().requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        y = (x @ w).tanh().exp()
    y.sum().backward()
    return x.grad


def checkpointed(world, x, w, **how):
    made = model(world)
    x = x.detach().requires_grad_()
    y = checkpoint(made, x, **how)
    y.square().sum().backward()
    return [y, x.grad, gradients(made)]


program(f(checkpointed, use_reentrant=False), "checkpointed")
program(f(checkpointed, use_reentrant=True), "checkpointed_reentrant")


@program
def checkpoint_sequential(world, x, w):
    made = model(world)
    x = x.detach().requires_grad_()
    y = torch.utils.checkpoint.checkpoint_sequential(
        made, 2, x, use_reentrant=False
    )
    y.sum().backward()
    return [y, x.grad]


# ----------------------------------------------------------------- precisions


def autocast(world, x, w, *, dtype):
    """The CPU's own op lists: the mesh stands for CPU devices."""
    made = model(world)
    with torch.autocast(world.device, dtype=dtype):
        y = made(x)
        z = x @ w
        s = z.softmax(-1)
    y.float().square().mean().backward()
    grads = rounded(gradients(made), dtype)
    return [y.dtype, z.dtype, z, s.dtype, y.shape, grads]


def one_layer(world):
    """Its gradients are rounded once."""
    torch.manual_seed(8)
    return place_model(world, nn.Linear(6, 3))


@program
def autocast_of_cpu(world, x, w):
    """A context of the CPU means the mesh too, and can be switched off."""
    made = one_layer(world)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = made(x)
        with torch.autocast("cpu", enabled=False):
            z = x @ w
        u = x @ w
    y.float().sum().backward()
    v = x @ w
    grads = rounded(gradients(made), torch.bfloat16)
    return [y.dtype, z, u.dtype, v.dtype, grads]


@program
def autocast_of_mesh_stays(world, x, w):
    """A context that switches the CPU's off leaves one of the mesh alone."""
    with torch.autocast(world.device, dtype=torch.bfloat16):
        if world.on_mesh:
            with torch.autocast("cpu", enabled=False):
                y = x @ w
        else:
            y = x @ w
    return [y, torch.is_autocast_enabled(world.device)]


@program
def autocast_checkpointed(world, x, w):
    made = one_layer(world)
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = checkpoint(made, x, use_reentrant=False)
    y.float().sum().backward()
    return [y, rounded([x.grad, *gradients(made)], torch.bfloat16)]


@program
def autocast_with_plain(world, x, w):
    with torch.autocast(world.device, dtype=torch.bfloat16):
        return [x @ w.detach().cpu(), torch.cat([x, torch.ones(1, 6)])]


program(f(autocast, dtype=torch.bfloat16), "autocast_bfloat16")
program(f(autocast, dtype=torch.float16), "autocast_float16")


@program
def scaler(world, x, w):
    made = model(world)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    scaler = torch.amp.GradScaler(world.device, init_scale=64.0)
    for step in range(3):
        optimizer.zero_grad()
        loss = made(x).square().mean()
        if step == 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return [list(made.parameters()), scaler.get_scale()]


# ------------------------------------------------------------ copies and files


@program
def deepcopied(world, x, w):
    made = model(world)
    again = copy.deepcopy(made)
    with torch.no_grad():
        again[0].weight.mul_(2)
    t = copy.deepcopy(x)
    t.add_(1)
    v = copy.deepcopy([x, x[1:]])
    v[0].mul_(3)
    return [made(x), again(x), t, x, v]


@program
def pickled(world, x, w):
    y = pickle.loads(pickle.dumps(x.detach()))
    return [y, y.device.type == world.device]


@program
def pickled_model(world, x, w):
    made = pickle.loads(pickle.dumps(model(world)))
    made(x).square().sum().backward()
    return [made(x), gradients(made)]


@program
def saved_optimizer(world, x, w):
    made = model(world)
    optimizer = torch.optim.Adam(made.parameters(), 0.1)
    made(x).square().sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save([made.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    again = model(world)
    other = torch.optim.Adam(again.parameters(), 0.5)
    again.load_state_dict(weights)
    other.load_state_dict(state)
    again(x).square().sum().backward()
    other.step()
    return [list(again.parameters()), other.param_groups[0]["lr"]]


@program
def saved(world, x, w):
    file = io.BytesIO()
    made = model(world)
    torch.save({"x": x, "row": x[1], "model": made.state_dict()}, file)
    file.seek(0)
    found = torch.load(file, weights_only=True)
    found["x"].add_(1)
    return [found["x"].cpu(), found["row"].cpu(), list(found["model"])]


@program
def state_dict_to_plain(world, x, w):
    made = model(world)
    plain = nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)
    )
    keys = plain.load_state_dict(made.state_dict())
    again = plain.to(world.device)
    return [again(x), str(keys)]


@program
def state_dict_from_plain(world, x, w):
    torch.manual_seed(5)
    plain = nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)
    )
    made = model(world)
    made.load_state_dict(plain.state_dict())
    return made(x)


@program
def load_assigned(world, x, w):
    made = model(world)
    other = model(world)
    with torch.device("meta"):
        empty = nn.Sequential(
            nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)
        )
    empty.load_state_dict(other.state_dict(), assign=True)
    return [made(x), empty(x)]


@program
def there_and_back(world, x, w):
    made = model(world)
    first = made(x)
    made = made.to("cpu").to(world.device)
    return [first, made(x), made.double()(x.double())]


# ------------------------------------------------------------ parametrizations


@program
def weight_norm(world, x, w):
    made = nn.utils.parametrizations.weight_norm(model(world)[0])
    made(x).square().sum().backward()
    return [made.weight, gradients(made)]


@program
def spectral_norm(world, x, w):
    made = nn.utils.parametrizations.spectral_norm(model(world)[0])
    y = made(x)
    y.square().sum().backward()
    return [y, gradients(made)]


@program
def orthogonal(world, x, w):
    made = nn.utils.parametrizations.orthogonal(model(world)[0])
    return made(x)


@program
def parametrized(world, x, w):
    class Symmetric(nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).t()

    made = place_model(world, nn.Linear(6, 6))
    nn.utils.parametrize.register_parametrization(made, "weight", Symmetric())
    made(x).square().sum().backward()
    nn.utils.parametrize.remove_parametrizations(made, "weight")
    return [made.weight, made(x)]


@program
def pruned(world, x, w):
    made = model(world)
    nn.utils.prune.l1_unstructured(made[0], "weight", amount=0.5)
    return [made(x), made[0].weight_mask]


@program
def vectors(world, x, w):
    made = model(world)
    flat = nn.utils.parameters_to_vector(made.parameters())
    nn.utils.vector_to_parameters(flat * 2, made.parameters())
    return [flat, made(x)]


# ------------------------------------------------------------------ compilers


@program
def traced_fx(world, x, w):
    made = model(world)
    graph = torch.fx.symbolic_trace(made)
    return [graph(x), len(list(graph.graph.nodes))]


@program
def make_fx(world, x, w):
    from torch.fx.experimental.proxy_tensor import make_fx as trace

    return trace(lambda x, w: (x @ w).relu() + 1)(x, w)(x, w)


def compiled(world, x, w, *, backend):
    torch._dynamo.reset()
    made = model(world)

    def step(x):
        y = made(x)
        return y.sin() + x.sum(1, keepdim=True), y[1:].t() * 2

    x = x.detach().requires_grad_()
    a, b = torch.compile(step, backend=backend)(x)
    (a.sum() + b.square().sum()).backward()
    return [a, b, x.grad, gradients(made)]


program(f(compiled, backend="eager"), "compiled_eager")
program(f(compiled, backend="aot_eager"), "compiled_aot_eager")


@program
def compiled_mutation(world, x, w):
    torch._dynamo.reset()

    def step(x):
        x[1:3].mul_(2)
        return x + 1

    x = x.detach().clone()
    y = torch.compile(step, backend="aot_eager")(x)
    return [x, y]


@program
def scripted(world, x, w):
    made = torch.jit.trace(model(world), x)
    return made(x)


# ---------------------------------------------------------- profiler, anomaly


@program
def profiled(world, x, w):
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        y = x @ w
    names = {e.key for e in profile.key_averages()}
    return [y, "aten::mm" in names or "aten::matmul" in names]


@program
def anomaly(world, x, w):
    x = x.detach().requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        y = (x @ w).tanh()
        y.sum().backward()
    return x.grad


@program
def anomaly_found(world, x, w):
    x = torch.zeros_like(x).requires_grad_()
    with torch.autograd.detect_anomaly():
        (x.sqrt() * 0).sum().backward()
    return x.grad


# ---------------------------------------------------------------------- misc


@program
def printed(world, x, w):
    body = str(x.detach().cpu())
    return [body, len(repr(x)) > 20, x.shape, bool((x == x).all())]


@program
def numpy_and_list(world, x, w):
    return [x.detach().cpu().numpy().sum().item(), x.tolist(), len(x)]


@program
def iterated(world, x, w):
    return [row.sum() for row in x]


@program
def data_loader(world, x, w):
    data = torch.utils.data.TensorDataset(values(8, 6), torch.arange(8))
    loader = torch.utils.data.DataLoader(data, batch_size=3)
    return [a.to(world.device).sum(1) + b.to(world.device) for a, b in loader]


@program
def mixed_with_plain(world, x, w):
    return [x + torch.ones(6), torch.ones(6) * x, x @ w.detach().cpu()]


@program
def default_device(world, x, w):
    with torch.device(world.device):
        y = torch.arange(6.0)
        made = nn.Linear(6, 2)
    return [y + x, made.weight.device.type == world.device]


@program
def inference_mode(world, x, w):
    with torch.inference_mode():
        y = x @ w
        y[1:].add_(1)
    return [y, y.is_inference()]


@program
def gradcheck(world, x, w):
    double = x[:2, :3].detach().double().requires_grad_()
    return torch.autograd.gradcheck(lambda t: (t**2).tanh(), double)


@program
def retain_graph(world, x, w):
    x = x.detach().requires_grad_()
    y = (x @ w).tanh().sum()
    y.backward(retain_graph=True)
    y.backward()
    return x.grad


@program
def jacobian(world, x, w):
    return torch.autograd.functional.jacobian(lambda t: (t @ w).sin(), x[0])


@program
def strategies(world, x, w):
    return [torch.vander(x[0]), torch.cov(x), torch.cdist(x, x)]


# The mesh does these or says clearly that it does not.
RIGHT_OR_CLEAR = {
    "nested",
    "nested_strided",
    "sparse",
    "sparse_made",
    "sparse_csr",
    "sparse_embedding",
    "quantized",
    "named",
    "scripted",
    "vmap_random",
}


# Their threads or children communicate in an order of their own, which a mesh
# over several processes refuses (docs/processes.md).
OF_ONE_PROCESS = {"threads", "forked_child"}


def units(options):
    programs = [
        name
        for name in PROGRAMS
        if options.processes == 1 or name not in OF_ONE_PROCESS
    ]
    return [*programs, *autocast_lists.units()]


def run(unit, options, record):
    if unit.startswith(autocast_lists.PREFIX):
        autocast_lists.run(unit, options, record)
        return
    inputs = [values(7, 6), values(6, 5)]
    compare(
        record,
        options,
        "program",
        PROGRAMS[unit],
        inputs,
        exact=False,
        strides=False,
        size=256,
        clear_error=unit in RIGHT_OR_CLEAR,
        quick=True,
    )
