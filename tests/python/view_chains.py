"""Random views of a tensor and random ops on them, for plain torch and mesh.

A step is a text and a function. The function is chosen by a plain tensor's
sizes alone, so that it means the same on the mesh.
"""

import torch
from torch.nn import functional as F

CHANNELS_LAST = torch.channels_last
MOST_ELEMENTS = 2000


def shape_of(rng, rows):
    """Sizes of a base of `rows` rows, with a dim of one now and then."""
    dims = rng.choice([1, 2, 3, 3, 4, 4, 4, 5])
    sizes = [rng.choice([1, 2, 3, 4, 4, 6, 8]) for _ in range(dims - 1)]
    return [rows, *sizes]


# --- views -------------------------------------------------------------------


def permute(rng, t):
    order = rng.sample(range(t.dim()), t.dim())
    return f"permute{order}", lambda x: x.permute(order)


def transpose(rng, t):
    if t.dim() < 2:
        return None
    a, b = rng.sample(range(t.dim()), 2)
    return f"transpose({a}, {b})", lambda x: x.transpose(a, b)


def slice_(rng, t):
    d = rng.randrange(t.dim())
    n = t.shape[d]
    if n < 2:
        return None
    begin = rng.randrange(n - 1)
    end = rng.randint(begin + 1, n)
    step = rng.choice([1, 1, 2])
    index = (slice(None),) * d + (slice(begin, end, step),)
    return f"slice({d}, {begin}, {end}, {step})", lambda x: x[index]


def select(rng, t):
    if t.dim() < 2:
        return None
    d = rng.randrange(t.dim())
    if t.shape[d] == 0:
        return None
    i = rng.randrange(t.shape[d])
    return f"select({d}, {i})", lambda x: x.select(d, i)


def unsqueeze(rng, t):
    if t.dim() > 4:
        return None
    d = rng.randrange(t.dim() + 1)
    return f"unsqueeze({d})", lambda x: x.unsqueeze(d)


def squeeze(rng, t):
    if t.dim() < 2:
        return None
    d = rng.randrange(t.dim())
    return f"squeeze({d})", lambda x: x.squeeze(d)


def expand(rng, t):
    ones = [d for d in range(t.dim()) if t.shape[d] == 1]
    sizes = list(t.shape)
    if ones:
        sizes[rng.choice(ones)] = rng.choice([2, 3, 4])
    elif t.dim() < 5:
        sizes = [rng.choice([2, 3, 4]), *sizes]
    return f"expand{sizes}", lambda x: x.expand(sizes)


def merge(rng, t):
    if t.dim() < 2:
        return None
    d = rng.randrange(t.dim() - 1)
    return f"flatten({d}, {d + 1})", lambda x: x.flatten(d, d + 1)


def split_dim(rng, t):
    if t.dim() > 4:
        return None
    able = [d for d in range(t.dim()) if t.shape[d] in (4, 6, 8)]
    if not able:
        return None
    d = rng.choice(able)
    parts = rng.choice([(2, t.shape[d] // 2), (t.shape[d] // 2, 2)])
    return f"unflatten({d}, {parts})", lambda x: x.unflatten(d, parts)


def reshape_all(rng, t):
    sizes = rng.choice([[-1], [*t.shape[::-1]]])
    if t.numel() == 0:
        return None
    return f"reshape{sizes}", lambda x: x.reshape(sizes)


def channels_last(rng, t):
    if t.dim() != 4:
        return None
    return "channels_last", lambda x: x.to(memory_format=CHANNELS_LAST)


def contiguous(rng, t):
    return "contiguous", lambda x: x.contiguous()


def flip(rng, t):
    d = rng.randrange(t.dim())
    return f"flip({d})", lambda x: x.flip(d)


def as_strided(rng, t):
    if t.numel() == 0 or t.dim() > 3:
        return None
    room = t.untyped_storage().nbytes() // t.itemsize
    sizes = [rng.choice([1, 2, 3]) for _ in range(rng.choice([2, 3]))]
    strides = [rng.choice([1, 2, 3, 4]) for _ in sizes]
    last = sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if last >= room:
        return None
    offset = rng.randrange(room - last)
    return (
        f"as_strided({sizes}, {strides}, {offset})",
        lambda x: x.as_strided(sizes, strides, offset),
    )


def diagonal(rng, t):
    if t.dim() < 2:
        return None
    a, b = rng.sample(range(t.dim()), 2)
    return f"diagonal(0, {a}, {b})", lambda x: x.diagonal(0, a, b)


def as_image(rng, t):
    """Rows of pixels with their channels last, taken for channels first."""
    if t.dim() != 3 or t.shape[1] not in (4, 6, 8):
        return None
    sizes = [t.shape[0], t.shape[2], 2, t.shape[1] // 2]
    return f"permute(0, 2, 1).reshape{sizes}", lambda x: x.permute(
        0, 2, 1
    ).reshape(sizes)


def unfold(rng, t):
    if t.dim() > 3:
        return None
    d = rng.randrange(t.dim())
    if t.shape[d] < 2:
        return None
    return f"unfold({d}, 2, 1)", lambda x: x.unfold(d, 2, 1)


def chunk(rng, t):
    d = rng.randrange(t.dim())
    if t.shape[d] < 2:
        return None
    i = rng.randrange(2)
    return f"chunk(2, {d})[{i}]", lambda x: x.chunk(2, d)[i]


VIEWS = [
    permute,
    permute,
    transpose,
    transpose,
    slice_,
    select,
    unsqueeze,
    squeeze,
    expand,
    merge,
    as_image,
    as_image,
    split_dim,
    reshape_all,
    channels_last,
    channels_last,
    contiguous,
    flip,
    as_strided,
    diagonal,
    unfold,
    chunk,
]


def chain_of(rng, t, length):
    """Steps of a chain of views of `t`, and the view that plain torch gives."""
    steps = []
    while len(steps) < length:
        step = rng.choice(VIEWS)(rng, t) if t.dim() else None
        if step is None:
            if rng.random() < 0.1:
                break
            continue
        viewed = step[1](t)
        if viewed.numel() > MOST_ELEMENTS or viewed.dim() > 5:
            continue
        t = viewed
        steps.append(step)
    return steps, t


# --- ops ---------------------------------------------------------------------


def values(rng, sizes):
    generator = torch.Generator().manual_seed(rng.randrange(1000))
    return torch.randn(sizes, generator=generator)


def unary(rng, t):
    name = rng.choice(
        ["exp", "relu", "neg", "sigmoid", "abs", "gelu", "double", "sign"]
    )
    functions = {
        "relu": F.relu,
        "gelu": F.gelu,
        "double": lambda x: x.double(),
    }
    return name, functions.get(name) or (lambda x: getattr(x, name)())


def binary(rng, t):
    kind = rng.choice(["scalar", "self", "row", "transposed", "flipped", "one"])
    sizes = list(t.shape)
    if kind == "scalar":
        return "x + 2", lambda x: x + 2
    if kind == "self":
        return "x * x", lambda x: x * x
    if kind == "row":
        other = values(rng, sizes[rng.randint(0, t.dim()) :])
        return f"x + plain{list(other.shape)}", lambda x: x + other.to(x)
    if kind == "transposed" and t.dim() > 1:
        other = values(rng, sizes[::-1]).permute(*range(t.dim())[::-1])
        return "x * plain.T", lambda x: x * other.to(x.device)
    if kind == "one" and t.dim():
        d = rng.randrange(t.dim())
        sizes[d] = 1
        other = values(rng, sizes)
        return f"plain{sizes} - x", lambda x: other.to(x) - x
    return "x - x.flip(0)", lambda x: x - x.flip(0) if x.dim() else x - x


def ternary(rng, t):
    kind = rng.randrange(4)
    if kind == 0:
        return "where(x > 0, x, 1)", lambda x: torch.where(x > 0, x, 1.0)
    if kind == 1:
        return "addcmul", lambda x: torch.addcmul(x.exp(), x, x)
    if kind == 2:
        return "lerp", lambda x: torch.lerp(x, x * 2, 0.3)
    return "clamp", lambda x: x.clamp(-1, 1)


def join(rng, t):
    kind = rng.randrange(7)
    d = rng.randrange(max(t.dim(), 1))
    if t.dim() == 0:
        return "stack", lambda x: torch.stack([x, x])
    return [
        (f"cat({d})", lambda x: torch.cat([x, x], d)),
        (f"cat({d}) of other", lambda x: torch.cat([x.contiguous(), x], d)),
        (f"stack({d})", lambda x: torch.stack([x, x + 1], d)),
        ("hstack", lambda x: torch.hstack([x, x])),
        ("vstack", lambda x: torch.vstack([x, x])),
        (f"repeat_interleave({d})", lambda x: x.repeat_interleave(2, d)),
        ("tile", lambda x: x.tile(2)),
    ][kind]


def norm(rng, t):
    if t.dim() < 2 or t.numel() == 0:
        return None
    channels = t.shape[1]
    weight = values(rng, [channels])
    kind = rng.randrange(6)
    if kind == 0:
        return "layer_norm", lambda x: F.layer_norm(x, x.shape[-1:])
    if kind == 1:
        return "group_norm", lambda x: F.group_norm(
            x, 2 if channels % 2 == 0 else 1
        )
    if kind == 2 and t.shape[0] * t.numel() > channels and t.numel() > channels:
        return "batch_norm", lambda x: F.batch_norm(
            x, None, None, weight.to(x), weight.to(x), training=True
        )
    if kind == 3:
        return "batch_norm eval", lambda x: F.batch_norm(
            x, weight.to(x), weight.exp().to(x), weight.to(x)
        )
    if kind == 4 and t.dim() > 2 and t.shape[2:].numel() > 1:
        return "instance_norm", lambda x: F.instance_norm(x)
    return "rms_norm", lambda x: F.rms_norm(x, x.shape[-1:])


def window(rng, t):
    if t.dim() != 4 or t.numel() == 0:
        return None
    channels, height, width = t.shape[1:]
    kind = rng.randrange(8)
    if kind == 0:
        w = values(rng, [5, channels, 1, 1])
        return "conv2d(1x1)", lambda x: F.conv2d(x, w.to(x))
    if kind == 1:
        w = values(rng, [4, channels, 3, 3])
        return "conv2d(3x3)", lambda x: F.conv2d(x, w.to(x), padding=1)
    if kind == 2 and height > 1 and width > 1:
        return "max_pool2d", lambda x: F.max_pool2d(x, 2)
    if kind == 3 and height > 1 and width > 1:
        return "avg_pool2d", lambda x: F.avg_pool2d(x, 2)
    if kind == 4:
        return "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 2)
    if kind == 5:
        mode = rng.choice(["nearest", "bilinear", "bicubic"])
        return f"interpolate({mode})", lambda x: F.interpolate(
            x, scale_factor=2, mode=mode
        )
    if kind == 6:
        return "pad", lambda x: F.pad(x, (1, 1, 0, 1))
    if channels % 2 == 0:
        return "channel_shuffle", lambda x: F.channel_shuffle(x, 2)
    return "pixel_unshuffle" if height % 2 == width % 2 == 0 else "relu", (
        (lambda x: F.pixel_unshuffle(x, 2))
        if height % 2 == width % 2 == 0
        else F.relu
    )


def reduce(rng, t):
    if t.dim() == 0 or t.numel() == 0:
        return None
    d = rng.randrange(t.dim())
    keep = rng.random() < 0.5
    return rng.choice(
        [
            (f"sum({d}, {keep})", lambda x: x.sum(d, keepdim=keep)),
            (f"mean({d}, {keep})", lambda x: x.mean(d, keepdim=keep)),
            (f"amax({d}, {keep})", lambda x: x.amax(d, keepdim=keep)),
            (f"max({d}, {keep})", lambda x: x.max(d, keepdim=keep)),
            (f"argmax({d}, {keep})", lambda x: x.argmax(d, keepdim=keep)),
            (f"var({d}, {keep})", lambda x: x.var(d, 0, keepdim=keep)),
            (f"norm({d}, {keep})", lambda x: x.norm(dim=d, keepdim=keep)),
            (f"any({d}, {keep})", lambda x: (x > 0).any(d, keepdim=keep)),
        ]
    )


def along(rng, t):
    if t.dim() == 0 or t.numel() == 0:
        return None
    d = rng.randrange(t.dim())
    return rng.choice(
        [
            (f"softmax({d})", lambda x: x.softmax(d)),
            (f"log_softmax({d})", lambda x: x.log_softmax(d)),
            (f"cumsum({d})", lambda x: x.cumsum(d)),
            (f"sort({d})", lambda x: x.sort(d, stable=True)),
            (f"topk({d})", lambda x: x.topk(1, d)),
            (f"roll({d})", lambda x: x.roll(1, d)),
            (f"flip({d})", lambda x: x.flip(d)),
            (f"cummax({d})", lambda x: x.cummax(d)),
            (f"logcumsumexp({d})", lambda x: x.logcumsumexp(d)),
            (f"glu({d})", lambda x: F.glu(torch.cat([x, x], d), d)),
        ]
    )


def product(rng, t):
    if t.dim() < 1 or t.numel() == 0:
        return None
    w = values(rng, [t.shape[-1], 3])
    return rng.choice(
        [
            ("x @ w", lambda x: x @ w.to(x)),
            ("linear", lambda x: F.linear(x, w.to(x).T)),
            ("x @ x.mT", lambda x: x @ x.mT if x.dim() > 1 else x @ x),
            ("w.T @ x", lambda x: w.to(x).T @ x.unsqueeze(-1)),
            (
                "bmm",
                lambda x: torch.bmm(x, x.mT) if x.dim() == 3 else x @ w.to(x),
            ),
        ]
    )


def index(rng, t):
    if t.dim() == 0 or t.numel() == 0:
        return None
    d = rng.randrange(t.dim())
    i = torch.tensor([rng.randrange(t.shape[d]) for _ in range(3)])
    before = (slice(None),) * d
    whole = torch.randint(0, t.shape[d], t.shape)
    part = t.narrow(d, 0, 1)
    return rng.choice(
        [
            (f"x[{':, ' * d}i]", lambda x: x[(*before, i.to(x.device))]),
            (f"x[{':, ' * d}plain i]", lambda x: x[(*before, i)]),
            (
                f"x[{':, ' * d}i, i]",
                lambda x: (
                    x[(*before, i.to(x.device) * 0, i.to(x.device) * 0)]
                    if d + 1 < x.dim()
                    else x[(*before, i.to(x.device))]
                ),
            ),
            (f"index_select({d})", lambda x: x.index_select(d, i.to(x.device))),
            (f"gather({d})", lambda x: x.gather(d, whole.to(x.device))),
            (
                f"take_along_dim({d})",
                lambda x: x.take_along_dim(x.argsort(d), d),
            ),
            (
                f"index_add({d})",
                lambda x: x.index_add(
                    d, i[:1].to(x.device), part.clone().to(x.device)
                ),
            ),
            (
                f"index_fill({d})",
                lambda x: x.index_fill(d, i.to(x.device), 2.0),
            ),
            (
                f"scatter({d})",
                lambda x: x.scatter(d, whole.to(x.device), 3.0),
            ),
            (
                f"scatter_add({d})",
                lambda x: x.scatter_add(d, whole.to(x.device), x),
            ),
            (
                f"select_scatter({d})",
                lambda x: x.select_scatter(x.select(d, 0) * 2, d, 0),
            ),
            (
                f"slice_scatter({d})",
                lambda x: x.slice_scatter(x.narrow(d, 0, 1) * 2, d, 0, 1),
            ),
            (
                "index_put",
                lambda x: x.index_put((i.to(x.device) * 0,), x.new_ones(())),
            ),
            ("masked_fill", lambda x: x.masked_fill(x > 0, 1.0)),
            (
                "diagonal_scatter",
                lambda x: (
                    x.diagonal_scatter(x.diagonal() * 2) if x.dim() > 1 else +x
                ),
            ),
        ]
    )


def copy(rng, t):
    return rng.choice(
        [
            ("clone", lambda x: x.clone()),
            (
                "clone(contiguous)",
                lambda x: x.clone(memory_format=torch.contiguous_format),
            ),
            ("contiguous", lambda x: x.contiguous()),
            ("to(double)", lambda x: x.to(torch.float64)),
            ("to(bfloat16)", lambda x: x.to(torch.bfloat16)),
            (
                "to(copy=True)",
                lambda x: x.to(x.dtype, copy=True),
            ),
            ("zeros_like", torch.zeros_like),
            ("ones_like", torch.ones_like),
            ("full_like", lambda x: torch.full_like(x, 3.0)),
            ("rand_like", torch.rand_like),
            ("randn_like", torch.randn_like),
            ("new_zeros", lambda x: x.new_zeros(x.shape)),
            ("detach", lambda x: x.detach()),
            ("reshape", lambda x: x.reshape(-1)),
            (
                "contiguous(channels_last)",
                lambda x: (
                    x.contiguous(memory_format=CHANNELS_LAST)
                    if x.dim() == 4
                    else x.contiguous()
                ),
            ),
            ("empty_like().copy_", lambda x: torch.empty_like(x).copy_(x)),
            (
                "new_empty_strided",
                lambda x: x.new_empty_strided(
                    x.shape, x.contiguous().stride()
                ).copy_(x),
            ),
            ("foreach", lambda x: torch._foreach_add([x, x * 2], 1.0)),
            ("foreach mul", lambda x: torch._foreach_mul([x, x], [x, x])),
            ("out=", lambda x: torch.add(x, 1, out=x.new_empty(0))),
            ("mul out=", lambda x: torch.mul(x, x, out=x.new_empty(0))),
        ]
    )


def other(rng, t):
    if t.numel() == 0 or t.dim() < 1:
        return None
    return rng.choice(
        [
            ("dropout", lambda x: F.dropout(x, 0.5)),
            ("bernoulli", lambda x: torch.bernoulli(x.sigmoid())),
            ("tril", lambda x: x.tril() if x.dim() > 1 else +x),
            ("rot90", lambda x: x.rot90() if x.dim() > 1 else +x),
            (
                "einsum",
                lambda x: torch.einsum("...i->i...", x),
            ),
            (
                "sdpa",
                lambda x: (
                    F.scaled_dot_product_attention(x, x, x)
                    if x.dim() == 4
                    else x + 1
                ),
            ),
            ("mse_loss none", lambda x: F.mse_loss(x, x * 2, reduction="none")),
            ("where", lambda x: torch.where(x.contiguous() > 0, x, x * 2)),
            ("cdist", lambda x: torch.cdist(x, x) if x.dim() > 1 else +x),
            ("unbind", lambda x: x.unbind(0)),
            (
                "dropout2d",
                lambda x: F.dropout2d(x, 0.5) if x.dim() == 4 else +x,
            ),
            (
                "embedding",
                lambda x: F.embedding((x > 0).long(), x.new_ones(2, 3)),
            ),
            ("one_hot", lambda x: F.one_hot((x > 0).long(), 2)),
            ("prelu", lambda x: F.prelu(x, x.new_tensor([0.2]))),
            ("fft", lambda x: torch.fft.fft(x)),
            ("nan_to_num", lambda x: x.nan_to_num()),
            ("x.T @ view", lambda x: x.reshape(x.shape[0], -1).T.exp()),
            (
                "softmax of a view",
                lambda x: x.reshape(x.shape[0], -1).softmax(0),
            ),
        ]
    )


OPS = [
    unary,
    binary,
    binary,
    ternary,
    join,
    join,
    norm,
    norm,
    window,
    window,
    window,
    reduce,
    along,
    along,
    product,
    index,
    index,
    index,
    copy,
    copy,
    other,
    other,
]


def op_of(rng, t):
    """An op for a tensor of these sizes."""
    for _ in range(50):
        op = rng.choice(OPS)(rng, t)
        if op is not None:
            return op
    return "neg", lambda x: -x
