"""Modules, optimizers and transforms on the mesh, against plain torch."""

import copy

import pytest
import torch
from placing import assert_close, assert_equal
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import torch_mesh as tm


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.rnn = cell(5, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0].mean(1)


class Words(nn.Module):
    """Embedding, LayerNorm and a head that is tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.norm(self.embedding(tokens)).mean(1))


def mlp():
    return nn.Sequential(
        nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 8), nn.Tanh(),
        nn.Linear(8, 3),
    )  # fmt: skip


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def encoder():
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, norm_first=True
    )
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 3))


MODELS = {
    "mlp": (mlp, lambda: torch.randn(7, 6)),
    "cnn": (cnn, lambda: torch.randn(7, 3, 8, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: torch.randn(7, 4, 5)),
    "gru": (lambda: Recurrent(nn.GRU), lambda: torch.randn(7, 4, 5)),
    "encoder": (encoder, lambda: torch.randn(7, 4, 8)),
    "attention": (Attention, lambda: torch.randn(7, 4, 8)),
    "words": (Words, lambda: torch.randint(0, 12, (7, 5))),
}

# A large eps: Adam makes the rounding of a gradient that is zero into a step.
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "sgd_loop": lambda p: torch.optim.SGD(p, lr=0.1, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(
        p, lr=0.01, eps=1e-3, weight_decay=0.1, amsgrad=True, foreach=True
    ),
    "adamw_fused": lambda p: torch.optim.AdamW(
        p, lr=0.01, eps=1e-3, fused=True
    ),
    "adamw_loop": lambda p: torch.optim.AdamW(
        p, lr=0.01, eps=1e-3, foreach=False
    ),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=True),
}

# How parameters are laid out on data=2 model=2.
PARAMETERS = {
    "replicated": lambda number, value: ("R", "R"),
    "columns": lambda number, value: ("R", "S0"),
    "rows": lambda number, value: ("R", f"S{value.dim() - 1}"),
    "both": lambda number, value: ("S0", f"S{value.dim() - 1}"),
    "mixed": lambda number, value: [
        ("R", "S0"), ("R", "R"), ("S0", "R"), ("R", f"S{value.dim() - 1}"),
    ][number % 4],
}  # fmt: skip


def put_on_mesh(model, mesh, layout_of):
    """Parameters by `layout_of`, buffers replicated."""
    model.to("mesh")
    number = 0
    with torch.no_grad():
        for parameter in model.parameters():
            layout = tm.Layout(mesh, layout_of(number, parameter))
            parameter.data = tm.redistribute(parameter.data, layout)
            number += 1
    return model


def train(model, optimizer, batches, placements=None, mesh=None, clip=None):
    """Losses of a few steps."""
    losses = []
    for inputs, targets in batches:
        if mesh is not None:
            inputs = tm.distribute(inputs, mesh, placements)
            targets = tm.distribute(targets, mesh, placements)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def compare(name, make_optimizer, layout_of, mesh, placements, clip=None):
    make_model, make_inputs = MODELS[name]
    model = make_model()
    batches = [(make_inputs(), torch.randint(0, 3, (7,))) for _ in range(3)]
    twin = copy.deepcopy(model)
    expected = train(
        model, make_optimizer(model.parameters()), batches, clip=clip
    )
    with tm.use(mesh):
        put_on_mesh(twin, mesh, layout_of)
        placed = [tm.layout(p).placements for p in twin.parameters()]
        actual = train(
            twin,
            make_optimizer(twin.parameters()),
            batches,
            placements,
            mesh,
            clip,
        )
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert placed == [tm.layout(p).placements for p in twin.parameters()]
    state = model.state_dict()
    for key, value in twin.state_dict().items():
        assert_close(value, state[key], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("placements", [("S0", "R"), ("S0", "S0")], ids=str)
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("name", MODELS)
def test_training_gives_the_weights_of_plain_torch(
    name, parameters, placements, mesh
):
    compare(name, OPTIMIZERS["adam"], PARAMETERS[parameters], mesh, placements)


@pytest.mark.parametrize("parameters", ["replicated", "mixed"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_gives_the_weights_of_plain_torch(
    optimizer, parameters, mesh
):
    compare(
        "mlp",
        OPTIMIZERS[optimizer],
        PARAMETERS[parameters],
        mesh,
        ("S0", "R"),
        clip=0.5,
    )


@pytest.mark.parametrize("name", ["mlp", "cnn", "encoder"])
def test_training_over_separate_memories_gives_the_same_weights(
    name, separate_memories
):
    mesh = tm.Mesh({"data": 3, "model": 2})
    compare(
        name,
        OPTIMIZERS["sgd"],
        PARAMETERS["mixed"],
        mesh,
        ("S0", "R"),
        clip=1.0,
    )


def test_a_data_parallel_step_has_one_all_reduce_and_no_gather(
    separate_memories,
):
    mesh = tm.Mesh({"data": 4})
    model = mlp()
    with tm.use(mesh):
        model.to("mesh")
    optimizer = OPTIMIZERS["adam"](model.parameters())
    batch = [(torch.randn(8, 6), torch.randint(0, 3, (8,)))]
    train(model, optimizer, batch, ("S0",), mesh)
    with tm.counting() as counts:
        inputs = tm.distribute(batch[0][0], mesh, ("S0",))
        targets = tm.distribute(batch[0][1], mesh, ("S0",))
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert counts.replicated_ops == {}
    assert not any("gather" in kind for kind in counts.collectives)
    # One bucket for the gradients; the mean of the loss may take another.
    assert 1 <= counts["all_reduce@data"] <= 3


def test_dropout_drops_what_plain_torch_drops(mesh):
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.4), nn.Linear(8, 3))
    twin = copy.deepcopy(model)
    inputs = torch.randn(7, 6)
    torch.manual_seed(3)
    expected = model(inputs)
    expected.sum().backward()
    with tm.use(mesh):
        put_on_mesh(twin, mesh, PARAMETERS["mixed"])
        torch.manual_seed(3)
        actual = twin(tm.distribute(inputs, mesh, ("S0", "R")))
        actual.sum().backward()
    assert_close(actual.detach(), expected.detach())
    for a, e in zip(twin.parameters(), model.parameters(), strict=True):
        assert_close(a.grad, e.grad)


def test_initialisation_on_the_mesh_gives_the_plain_weights(mesh):
    torch.manual_seed(5)
    plain = mlp()
    with tm.use(mesh), torch.device("mesh"):
        torch.manual_seed(5)
        model = mlp()
    for a, e in zip(model.parameters(), plain.parameters(), strict=True):
        assert tm.layout(a).mesh == mesh
        assert_equal(a.detach(), e.detach())


def test_to_the_mesh_keeps_parameters_ties_and_optimizers(mesh):
    model = Words()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    twin = copy.deepcopy(model)
    other = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    with tm.use(mesh):
        assert model.to("mesh") is model
    assert model.head.weight is model.embedding.weight
    for before, after in zip(parameters, model.parameters(), strict=True):
        assert before is after
        assert isinstance(after, nn.Parameter)
        assert tm.is_global(after)
    tokens, targets = torch.randint(0, 12, (4, 5)), torch.randint(0, 12, (4,))
    for _ in range(3):
        for m, o in ((model, optimizer), (twin, other)):
            o.zero_grad()
            F.cross_entropy(m(tokens), targets).backward()
            o.step()
    for a, e in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(a.detach(), e.detach())
    model.to("cpu")
    assert model.head.weight is model.embedding.weight
    for before, after in zip(parameters, model.parameters(), strict=True):
        assert before is after
        assert after.device.type == "cpu"
    assert_close(model(tokens), twin(tokens))


def test_to_a_dtype_keeps_layouts(mesh):
    model = put_on_mesh(mlp(), mesh, PARAMETERS["columns"])
    before = [tm.layout(p).placements for p in model.parameters()]
    model.to(torch.float64)
    assert [tm.layout(p).placements for p in model.parameters()] == before
    assert all(p.dtype == torch.float64 for p in model.parameters())


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("foreach", [True, False])
def test_clipping_gives_the_plain_norm_and_gradients(mesh, norm_type, foreach):
    layouts = [("S0", "R"), ("R", "S1"), ("S0", "S1"), ("P+", "R"), ("R", "R")]
    gradients = [torch.randn(7, 5) * 3 for _ in layouts]
    plain = [nn.Parameter(torch.zeros(7, 5)) for _ in layouts]
    mine = []
    for p, gradient, placements in zip(plain, gradients, layouts, strict=True):
        p.grad = gradient.clone()
        parameter = nn.Parameter(tm.distribute(torch.zeros(7, 5), mesh))
        parameter.grad = tm.distribute(gradient, mesh, placements)
        mine.append(parameter)
    expected = nn.utils.clip_grad_norm_(plain, 1.0, norm_type, foreach=foreach)
    actual = nn.utils.clip_grad_norm_(mine, 1.0, norm_type, foreach=foreach)
    assert_close(actual, expected)
    for a, e in zip(mine, plain, strict=True):
        assert_close(a.grad, e.grad)


def test_gradients_accumulate_over_backward_passes(mesh):
    value = torch.randn(7, 5)
    results = []
    for x in (value.clone(), tm.distribute(value, mesh, ("S0", "S1"))):
        x.requires_grad_()
        for factor in (1.0, 2.0):
            (x * factor).square().sum().backward()
        (gradient,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
        gradient.square().mean().backward()
        results.append(x.grad)
    assert_close(results[1], results[0])


@pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyOptions"), reason="torch has no chunks"
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_cross_entropy_in_chunks_takes_the_dtypes_of_plain_torch(
    mesh, reduction, dtype
):
    x, weight = torch.randn(9, 6, dtype=dtype), torch.randn(11, 6, dtype=dtype)
    target = torch.randint(0, 11, (9,))
    results = []
    for place in (torch.Tensor.clone, lambda t: tm.distribute(t, mesh)):
        tensors = [place(t).requires_grad_() for t in (x, weight)]
        loss = nn.functional.linear_cross_entropy(
            *tensors,
            place(target),
            reduction=reduction,
            options=nn.LinearCrossEntropyOptions(),
        )
        loss.float().sum().backward()
        results.append([loss, *(t.grad for t in tensors)])
    for mine, plain in zip(results[1], results[0], strict=True):
        assert torch.equal(tm.full(mine), plain)


def test_hooks_see_global_gradients(mesh):
    x = tm.distribute(torch.ones(4, 4), mesh, ("S0", "R")).requires_grad_()
    seen = []
    x.register_hook(lambda grad: seen.append(grad) or grad * 2)
    (x * 3).sum().backward()
    assert tm.is_global(seen[0])
    assert_equal(x.grad, torch.full((4, 4), 6.0))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_recomputes_the_same(mesh, reentrant):
    value = torch.randn(7, 6)
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh())
    twin = copy.deepcopy(model)
    with tm.use(mesh):
        put_on_mesh(twin, mesh, PARAMETERS["columns"])
        results = []
        for m, x in (
            (model, value.clone()),
            (twin, tm.distribute(value, mesh, ("S0", "R"))),
        ):
            x.requires_grad_()
            torch.manual_seed(9)
            y = checkpoint(m, x, use_reentrant=reentrant)
            y.square().sum().backward()
            results.append((y.detach(), x.grad, m[0].weight.grad))
    for a, e in zip(results[1], results[0], strict=True):
        assert_close(a, e)


def test_torch_func_works_on_the_mesh(mesh):
    model = mlp()
    inputs, targets = torch.randn(6, 6), torch.randint(0, 3, (6,))

    def loss(parameters, x, y):
        output = torch.func.functional_call(model, parameters, (x[None],))
        return F.cross_entropy(output, y[None])

    def answers(parameters, x, y):
        per_sample = torch.func.vmap(
            torch.func.grad(loss), in_dims=(None, 0, 0)
        )(parameters, x, y)
        _, tangent = torch.func.jvp(lambda t: t.tanh().sum(1), (x,), (x,))
        jacobian = torch.func.jacrev(lambda t: t.sin().sum(1))(x[:2])
        return [*per_sample.values(), tangent, jacobian]

    plain = {k: v.detach() for k, v in model.named_parameters()}
    expected = answers(plain, inputs, targets)
    with tm.use(mesh):
        spread = {
            k: tm.distribute(v, mesh, ("R", "S0")) for k, v in plain.items()
        }
        actual = answers(
            spread,
            tm.distribute(inputs, mesh, ("S0", "R")),
            tm.distribute(targets, mesh, ("S0", "R")),
        )
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_trains_as_the_eager_one(mesh, backend):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    twin = copy.deepcopy(model)
    batches = [(torch.randn(6, 6), torch.randint(0, 3, (6,))) for _ in range(2)]
    expected = train(model, OPTIMIZERS["sgd"](model.parameters()), batches)
    with tm.use(mesh):
        put_on_mesh(twin, mesh, PARAMETERS["columns"])
        compiled = torch.compile(twin, backend=backend)
        actual = train(
            compiled,
            OPTIMIZERS["sgd"](twin.parameters()),
            batches,
            ("S0", "R"),
            mesh,
        )
    assert actual == pytest.approx(expected, rel=1e-4)
    for a, e in zip(twin.parameters(), model.parameters(), strict=True):
        assert_close(a.detach(), e.detach())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_function_that_writes_to_views_keeps_the_writes(
    mesh, backend
):
    torch._dynamo.reset()

    def f(x):
        y = x * 2
        y[2:].mul_(3)
        x[0].add_(1)
        return y.t()

    value = torch.randn(6, 4)
    x = tm.distribute(value, mesh, ("S0", "S1"))
    expected, plain = f(value), value
    actual = torch.compile(f, backend=backend)(x)
    assert_close(actual, expected)
    assert_close(x, plain)


def test_scaled_gradients_step_as_in_plain_torch(mesh):
    values = [torch.randn(5, 4), torch.randn(4)]
    results = []
    for parameters in (
        [nn.Parameter(v.clone()) for v in values],
        [nn.Parameter(tm.distribute(v, mesh, ("S0", "R"))) for v in values],
    ):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for p in parameters:
            p.grad = p.detach() * 8
        grads = [p.grad for p in parameters]
        scale = torch.tensor(0.125)
        torch._foreach_mul_(grads, scale)
        optimizer.step()
        results.append([p.detach() for p in parameters])
    for a, e in zip(results[1], results[0], strict=True):
        assert_close(a, e)
