"""Dtypes, shapes and memory formats, crossed with a table of common ops."""

import functools
import itertools

import torch
from tests.conformance.programs import compare
from torch.nn import functional as F

f = functools.partial

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def values(*shape, dtype):
    generator = torch.Generator().manual_seed(13)
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(shape, dtype=wide, generator=generator).to(dtype)
    high = 2 if dtype == torch.bool else 9
    return torch.randint(0, high, shape, generator=generator).to(dtype)


def channels_last(dtype):
    return values(2, 4, 3, 5, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )


# How a tensor may lie in memory. The views are taken on the mesh: a placed
# tensor itself is dense.
SHAPES = {
    "2-d": (lambda d: values(6, 5, dtype=d), None),
    "3-d": (lambda d: values(4, 5, 3, dtype=d), None),
    "0-d": (lambda d: values(dtype=d), None),
    "one": (lambda d: values(1, dtype=d), None),
    "ones": (lambda d: values(1, 1, 1, dtype=d), None),
    "empty": (lambda d: values(0, dtype=d), None),
    "empty 2-d": (lambda d: values(3, 0, dtype=d), None),
    "empty first": (lambda d: values(0, 4, dtype=d), None),
    "fewer than devices": (lambda d: values(2, 1, dtype=d), None),
    "column-major": (lambda d: values(5, 6, dtype=d).t().clone(), None),
    "transposed": (lambda d: values(5, 6, dtype=d), lambda x: x.t()),
    "strided": (lambda d: values(8, 5, dtype=d), lambda x: x[::2, 1:]),
    "expanded": (lambda d: values(6, 1, dtype=d), lambda x: x.expand(6, 4)),
    "expanded new": (lambda d: values(5, dtype=d), lambda x: x.expand(3, 5)),
    "offset": (lambda d: values(7, 4, dtype=d), lambda x: x[3:]),
    "channels_last": (channels_last, None),
    "channels_last_3d": (
        lambda d: values(2, 3, 2, 3, 2, dtype=d).contiguous(
            memory_format=torch.channels_last_3d
        ),
        None,
    ),
    "permuted": (
        lambda d: values(4, 3, 5, dtype=d),
        lambda x: x.permute(2, 0, 1),
    ),
}

# name: (function, exact). What plain torch refuses, the mesh refuses too.
EXACT = {
    "add": lambda x: x + x,
    "add number": lambda x: x + 2,
    "add float": lambda x: x + 1.5,
    "mul": lambda x: x * x,
    "sub": lambda x: x - 1,
    "neg": lambda x: -x,
    "abs": lambda x: x.abs(),
    "compare": lambda x: x == x.flatten()[:1],
    "less": lambda x: x < 3,
    "not": lambda x: ~x,
    "and": lambda x: x & x,
    "floor_divide": lambda x: x // 2,
    "remainder": lambda x: x % 3,
    "shift": lambda x: x << 1,
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "to float": lambda x: x.float(),
    "to half": lambda x: x.half(),
    "to bfloat16": lambda x: x.bfloat16(),
    "to int": lambda x: x.to(torch.int32),
    "to bool": lambda x: x.bool(),
    "to complex": lambda x: x.to(torch.complex64),
    "promote": lambda x: x + torch.ones((), dtype=torch.float64),
    "zeros_like": torch.zeros_like,
    "ones_like double": lambda x: torch.ones_like(x, dtype=torch.float64),
    "full_like": lambda x: torch.full_like(x, 1),
    "new_zeros": lambda x: x.new_zeros(3, 2),
    "t": lambda x: x.mT,
    "flip": lambda x: x.flip(0),
    "cat": lambda x: torch.cat([x, x]),
    "cat last": lambda x: torch.cat([x, x], -1),
    "stack": lambda x: torch.stack([x, x], 1),
    "reshape": lambda x: x.reshape(-1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "squeeze": lambda x: x.squeeze(),
    "chunk": lambda x: x.chunk(3),
    "repeat": lambda x: x.repeat(*([2] * max(x.dim(), 1))),
    "roll": lambda x: x.roll(1, 0),
    "where": lambda x: torch.where(x == x, x, x + x),
    "masked_fill": lambda x: x.masked_fill(x == x, 1),
    "masked_select": lambda x: x.masked_select(x != 0),
    "nonzero": lambda x: x.nonzero(),
    "sort": lambda x: x.sort(-1, stable=True),
    "sort first": lambda x: x.sort(0, stable=True),
    "topk": lambda x: x.topk(min(1, x.shape[-1] if x.dim() else 1)).values,
    "max": lambda x: x.max(),
    "max dim": lambda x: x.max(0),
    "amin": lambda x: x.amin(-1),
    "argmax": lambda x: x.argmax(),
    "argmax dim": lambda x: x.argmax(0),
    "any": lambda x: x.any(),
    "all dim": lambda x: x.all(0),
    "unique": lambda x: x.unique(),
    "isnan": lambda x: x.isnan(),
    "sign": lambda x: x.sign(),
    "clamp": lambda x: x.clamp(0, 3),
    "in place": lambda x: x.clone().add_(1),
    "triu": lambda x: x.triu(),
    "view_as_real": torch.view_as_real,
    "conj": lambda x: x.conj(),
    "real": lambda x: x.real,
    "index": lambda x: x[[0]],
    "item": lambda x: x.flatten()[:1].tolist(),
    "tolist": lambda x: x.tolist(),
    "numel": lambda x: [x.numel(), len(x), x.dim(), x.element_size()],
    "is_same_size": lambda x: torch.equal(x, x.clone()),
}
SUMS = {
    "sum": lambda x: x.sum(),
    "sum dim": lambda x: x.sum(0),
    "sum last": lambda x: x.sum(-1, keepdim=True),
    "sum double": lambda x: x.sum(dtype=torch.float64),
    "mean": lambda x: x.mean(),
    "mean dim": lambda x: x.mean(0),
    "prod": lambda x: x.prod(),
    "var": lambda x: x.var(0),
    "std": lambda x: x.std(),
    "cumsum": lambda x: x.cumsum(0),
    "norm": lambda x: x.norm(),
    "logsumexp": lambda x: x.logsumexp(0),
    "softmax": lambda x: x.softmax(-1),
    "softmax first": lambda x: x.softmax(0),
    "matmul": lambda x: x @ x.mT,
    "matmul t": lambda x: x.mT @ x,
    "div": lambda x: x / 3,
    "exp": lambda x: x.exp(),
    "sigmoid": lambda x: x.sigmoid(),
    "gelu": F.gelu,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "einsum": lambda x: torch.einsum("...i,...i->...", x, x),
    "count_nonzero": lambda x: x.count_nonzero(),
    "pool": lambda x: F.avg_pool2d(x, 2),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "pad": lambda x: F.pad(x, (1, 1)),
}


SUMMANDS = 256


def units(options):
    return [
        str(d).removeprefix("torch.") for d in (*FLOATS, *COMPLEX, *INTEGERS)
    ]


def run(unit, options, record):
    dtype = getattr(torch, unit)
    ops = [*((n, g, True) for n, g in EXACT.items())]
    ops += [(n, g, False) for n, g in SUMS.items()]
    common = dtype in (torch.float32, torch.int64) and not options.quick
    full = options.full or common
    share = 9 if options.quick else 3
    for (name, op, exact), (shape, (make, view)) in itertools.product(
        ops, SHAPES.items()
    ):
        if not full and hash_of(name, shape, unit) % share:
            continue
        compare(
            record,
            options,
            f"{name} of {shape}",
            f(program, op, view),
            [make(dtype)],
            exact=is_exact(name, exact, dtype),
            size=1 if exact else SUMMANDS,
            quick=True,
        )


def is_exact(name, exact, dtype):
    """Whether the mesh gives plain torch's bits.

    Sums of integers are exact, unless they are made of floats as logsumexp's.
    Not of a complex product: torch's vector loops round it otherwise than the
    scalar loops for what is left, so its bits depend on the place in memory.
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        return exact or name != "logsumexp"
    return exact and not (dtype.is_complex and name == "mul")


def hash_of(*words):
    """The same in every process."""
    return sum(ord(c) * (i + 1) for i, c in enumerate("".join(words)))


def program(op, view, world, x):
    return op(view(x) if view else x)
