"""Random numbers: plain torch's own bits, on every mesh, in every layout."""

import functools

import torch
from tests.conformance.programs import compare
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

f = functools.partial


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def weighted(y):
    """A loss whose gradient does not vanish, as that of a norm's square."""
    weights = torch.linspace(0.5, 1.5, y.numel()).view(y.shape)
    return (y * weights.to(y.device)).sum()


def after(world, result):
    """The result, and what the generator gives next, on either side."""
    return [result, torch.rand(3), torch.randn(5, device=world.device)]


IN_PLACE = {
    "normal_": lambda x: x.normal_(1, 2),
    "uniform_": lambda x: x.uniform_(-1, 3),
    "exponential_": lambda x: x.exponential_(2),
    "cauchy_": lambda x: x.cauchy_(),
    "log_normal_": lambda x: x.log_normal_(),
    "geometric_": lambda x: x.geometric_(0.3),
    "bernoulli_": lambda x: x.bernoulli_(0.3),
    "bernoulli_ tensor": lambda x: x.bernoulli_(x.sigmoid()),
    "random_": lambda x: x.random_(),
    "random_ to": lambda x: x.random_(100),
    "random_ from to": lambda x: x.random_(5, 50),
    "rand_like": lambda x: torch.rand_like(x),
    "randn_like": lambda x: torch.randn_like(x),
    "randint_like": lambda x: torch.randint_like(x, 50),
    "bernoulli": lambda x: x.sigmoid().bernoulli(),
    "normal of tensors": lambda x: torch.normal(x, x.abs()),
    "poisson": lambda x: torch.poisson(x.abs() * 3),
    "binomial": lambda x: torch.binomial(x.abs().ceil() + 3, x.sigmoid()),
    "multinomial": lambda x: x.flatten(1).softmax(1).multinomial(2),
    "multinomial replaced": lambda x: (
        x.flatten(1).softmax(1).multinomial(9, replacement=True)
    ),
    "dropout": lambda x: F.dropout(x, 0.4),
    "dropout1d": lambda x: F.dropout1d(x, 0.4),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.4, training=True),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(
        x, 0.4, training=True
    ),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, hard=True),
    "kaiming": lambda x: torch.nn.init.kaiming_uniform_(x),
    "xavier": lambda x: torch.nn.init.xavier_normal_(x),
    "trunc_normal": lambda x: torch.nn.init.trunc_normal_(x),
    "fractional_max_pool": lambda x: F.fractional_max_pool2d(
        x[:, None], 2, output_size=2
    ),
    "slice of it": lambda x: x[1:3].normal_(),
    "transposed": lambda x: x.transpose(0, 2).normal_(),
    "strided": lambda x: x[:, ::2].uniform_(),
}
SHAPES = {"small": (4, 5, 3), "large": (6, 40, 7), "first": (23, 2, 3)}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

FACTORIES = {
    "rand": lambda d: torch.rand(7, 5, device=d),
    "randn": lambda d: torch.randn(7, 5, device=d),
    "randn large": lambda d: torch.randn(37, 23, device=d),
    "randn double": lambda d: torch.randn(9, dtype=torch.float64, device=d),
    "randn complex": lambda d: torch.randn(
        9, 2, dtype=torch.complex64, device=d
    ),
    "randint": lambda d: torch.randint(3, 90, (6, 5), device=d),
    "randperm": lambda d: torch.randperm(31, device=d),
    "normal": lambda d: torch.normal(1.0, 2.0, (5, 6), device=d),
    "linear": lambda d: list(torch.nn.Linear(7, 5, device=d).parameters()),
    "lstm": lambda d: list(torch.nn.LSTM(4, 3, device=d).parameters()),
    "embedding": lambda d: torch.nn.Embedding(9, 4, device=d).weight,
}


SUMMANDS = 1000  # in a program: some ten sums, one of the other


def units(options):
    return [*IN_PLACE, *FACTORIES, *PROGRAMS]


def run(unit, options, record):
    if unit in IN_PLACE:
        for name, shape in SHAPES.items():
            x = values(*shape)
            compare(
                record, options, name, f(drawn, IN_PLACE[unit], None), [x],
            )  # fmt: skip
        for dtype in DTYPES[1:]:
            program = f(drawn, IN_PLACE[unit], None)
            label = str(dtype).removeprefix("torch.")
            x = values(4, 5, 3).to(dtype)
            compare(record, options, label, program, [x])
    elif unit in FACTORIES:
        compare(record, options, "made", f(made, FACTORIES[unit]))
    else:
        program, *shapes = PROGRAMS[unit]
        inputs = [values(*s).requires_grad_() for s in shapes]
        compare(
            record, options, "program", program, inputs,
            exact=False, size=SUMMANDS,
        )  # fmt: skip


def drawn(draw, generator, world, x):
    return after(world, draw(x))


def made(factory, world):
    return after(world, factory(world.device))


# ------------------------------------------------------------------ programs


def own_generator(world, x):
    """A generator of one's own is used, advances, and leaves torch's alone."""
    g = torch.Generator(world.device).manual_seed(9)
    a = torch.randn(4, 3, generator=g, device=world.device)
    b = x.detach().clone().normal_(generator=g)
    state = g.get_state()
    c = torch.rand(5, generator=g, device=world.device)
    g.set_state(state)
    d = torch.rand(5, generator=g, device=world.device)
    return after(world, [a, b, c, d, g.initial_seed()])


def plain_generator(world, x):
    """A CPU generator draws for a tensor on the mesh."""
    g = torch.Generator().manual_seed(9)
    return [x.detach().clone().normal_(generator=g), g.get_state()]


def state_of_torch(world, x):
    state = torch.get_rng_state()
    a = torch.randn(4, device=world.device)
    torch.set_rng_state(state)
    b = torch.randn(4, device=world.device)
    torch.manual_seed(77)
    return [a, b, torch.randn(4, device=world.device), torch.initial_seed()]


def interleaved(world, x):
    a = torch.rand(3)
    b = torch.rand(5, device=world.device)
    c = torch.randperm(7)
    d = F.dropout(x, 0.5)
    return after(world, [a, b, c, d])


def forked(world, x):
    before = torch.randn(2, device=world.device)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        inside = F.dropout(x, 0.5)
    return after(world, [before, inside])


def dropped(world, x, w):
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Dropout(0.5), torch.nn.GELU()
    ).to(world.device)
    y = model(x) @ w
    weighted(y).backward()
    return after(world, [y, x.grad, w.grad, model[0].weight.grad])


def attention(world, q, k, v, **how):
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3, **how)
    weighted(y).backward()
    return after(world, [y, q.grad, k.grad, v.grad])


def multi_head(world, x):
    m = torch.nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)
    m = m.to(world.device)
    y, w = m(x, x, x)
    weighted(y).backward()
    return after(world, [y, w, x.grad, m.in_proj_weight.grad])


def lstm(world, x):
    m = torch.nn.LSTM(6, 5, 2, dropout=0.5, batch_first=True).to(world.device)
    y, _ = m(x)
    weighted(y).backward()
    return after(world, [y, x.grad])


def transformer(world, x):
    m = torch.nn.TransformerEncoderLayer(6, 2, 8, 0.3, batch_first=True)
    m = m.to(world.device)
    y = m(x)
    weighted(y).backward()
    return after(world, [y, x.grad])


def checkpointed(world, x, w, **how):
    def block(x):
        return F.dropout(torch.tanh(x @ w), 0.4) * torch.rand_like(x @ w)

    y = checkpoint(block, x, **how)
    weighted(y).backward()
    return after(world, [y, x.grad, w.grad])


PROGRAMS = {
    "own generator": (own_generator, (4, 6)),
    "plain generator": (plain_generator, (4, 6)),
    "state": (state_of_torch, (4, 6)),
    "interleaved": (interleaved, (4, 6)),
    "fork_rng": (forked, (5, 6)),
    "dropout in a model": (dropped, (7, 6), (8, 5)),
    "attention": (attention, (2, 4, 5, 6), (2, 4, 7, 6), (2, 4, 7, 3)),
    "attention causal": (
        f(attention, is_causal=True),
        (2, 4, 5, 6),
        (2, 4, 5, 6),
        (2, 4, 5, 6),
    ),
    "multi-head": (multi_head, (4, 5, 6)),
    "lstm": (lstm, (4, 5, 6)),
    "transformer": (transformer, (4, 5, 6)),
    "checkpoint": (f(checkpointed, use_reentrant=False), (7, 6), (6, 5)),
    "checkpoint reentrant": (
        f(checkpointed, use_reentrant=True),
        (7, 6),
        (6, 5),
    ),
    "checkpoint unpreserved": (
        f(checkpointed, use_reentrant=False, preserve_rng_state=False,
          determinism_check="none"),
        (7, 6),
        (6, 5),
    ),
}  # fmt: skip
