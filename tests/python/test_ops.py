"""The ops that training uses, forward and backward, against plain torch."""

import inspect

import pytest
import torch
from placing import assert_close, cases, mesh_of, name_of, place
from torch.nn import functional as F

import torch_mesh as tm

INDEX = torch.tensor([[0, 3, 1, 2, 4], [2, 2, 0, 4, 1], [1, 0, 0, 3, 4]])
MASK = (torch.arange(35).reshape(7, 5) % 3) == 0
CLASSES = torch.tensor([0, 4, 2, 1, 3, 0, 4])
TOKENS = torch.tensor([[1, 6, 0], [3, 3, 5]])

# An op is a function of tensors; the names of its parameters say their sizes.
# Among them: p is positive, q within (0, 1), m a matrix, b and d batches of
# matrices, i images, k kernels, g channels, h heads; r2 is another r.
SIZES = {
    "x": (7, 5),
    "y": (7, 5),
    "p": (7, 5),
    "q": (7, 5),
    "m": (5, 3),
    "r": (5,),
    "c": (7,),
    "s": (3,),
    "b": (6, 7, 5),
    "d": (6, 5, 3),
    "i": (2, 6, 5, 5),
    "k": (3, 6, 3, 3),
    "g": (6,),
    "h": (2, 4, 6, 3),
    "n": (2, 6, 9),
    "k1": (4, 6, 3),
    "kd": (6, 1, 3, 3),
    "kt": (6, 3, 3, 3),
}

OPS = {
    # pointwise
    "add": lambda x, y: x + y,
    "add_alpha": lambda x, y: torch.add(x, y, alpha=3),
    "add_number": lambda x: x + 2,
    "add_row": lambda x, r: x + r,
    "sub": lambda x, y: x - y,
    "rsub": lambda x: 1 - x,
    "mul": lambda x, y: x * y,
    "mul_number": lambda x: x * 3,
    "mul_row": lambda x, r: x * r,
    "mul_column": lambda x, c: x * c[:, None],
    "div": lambda x, p: x / p,
    "div_number": lambda x: x / 3,
    "reciprocal": lambda p: 1 / p,
    "neg": lambda x: -x,
    "pow": lambda x: x**3,
    "pow_tensor": lambda p, x: p**x,
    "sqrt": lambda p: p.sqrt(),
    "rsqrt": lambda p: p.rsqrt(),
    "exp": lambda x: x.exp(),
    "log": lambda p: p.log(),
    "log1p": lambda p: p.log1p(),
    "expm1": lambda x: x.expm1(),
    "abs": lambda x: x.abs(),
    "sin": lambda x: x.sin() + x.cos(),
    "tanh": lambda x: x.tanh(),
    "erf": lambda x: x.erf(),
    "sigmoid": lambda x: x.sigmoid(),
    "relu": lambda x: x.relu(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x),
    "selu": lambda x: F.selu(x),
    "gelu": lambda x: F.gelu(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x),
    "mish": lambda x: F.mish(x),
    "softplus": lambda x: F.softplus(x),
    "hardtanh": lambda x: F.hardtanh(x),
    "hardswish": lambda x: F.hardswish(x),
    "logsigmoid": lambda x: F.logsigmoid(x),
    "prelu": lambda x, r: F.prelu(x, r),
    "glu": lambda n: F.glu(n, 1),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "maximum": lambda x, y: torch.maximum(x, y),
    "where": lambda x, y: torch.where(MASK, x, y),
    "masked_fill": lambda x: x.masked_fill(MASK, -3.0),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y, p: torch.addcmul(x, y, p, value=0.5),
    "addcdiv": lambda x, y, p: torch.addcdiv(x, y, p, value=0.5),
    "to_double": lambda x: x.double() * 2,
    "to_bfloat16": lambda x: (x.bfloat16().float() - x).detach() + x,
    "floor": lambda x: x.floor() + x,
    "sign": lambda x: x.sign() * x,
    "nan_to_num": lambda x: (x / 1.0).nan_to_num(),
    "hypot": lambda x, p: torch.hypot(x, p),
    "atan2": lambda x, p: torch.atan2(x, p),
    # reductions
    "sum": lambda x: x.sum(),
    "sum_0": lambda x: x.sum(0),
    "sum_1_keep": lambda x: x.sum(1, keepdim=True),
    "sum_dims": lambda b: b.sum((0, 2)),
    "mean": lambda x: x.mean(),
    "mean_0": lambda x: x.mean(0),
    "mean_1": lambda b: b.mean(-1, keepdim=True),
    "var": lambda x: x.var(),
    "var_0": lambda x: x.var(0, unbiased=False),
    "std_1": lambda x: x.std(1),
    "var_mean": lambda x: torch.var_mean(x, 0),
    "amax": lambda x: x.amax(1),
    "amin_0": lambda x: x.amin(0),
    "max": lambda x: x.max(),
    "max_0": lambda x: x.max(0).values,
    "min_1": lambda x: x.min(1).values,
    "prod": lambda p: p.prod(1),
    "norm": lambda x: x.norm(),
    "norm_1": lambda x: torch.linalg.vector_norm(x, dim=1),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, float("inf")),
    "logsumexp": lambda x: x.logsumexp(1),
    "logsumexp_0": lambda x: x.logsumexp(0),
    "cumsum_0": lambda x: x.cumsum(0),
    "cumsum_1": lambda x: x.cumsum(1),
    "cumprod": lambda p: p.cumprod(1),
    # products
    "mm": lambda x, m: x @ m,
    "mm_transposed": lambda x, y: x.t() @ y,
    "mv": lambda x, r: x @ r,
    "dot": lambda r: r.dot(r * 2),
    "outer": lambda c, r: torch.outer(c, r),
    "addmm": lambda x, m, s: torch.addmm(s, x, m, beta=0.5, alpha=2),
    "bmm": lambda b, d: torch.bmm(b, d),
    "baddbmm": lambda b, d, s: torch.baddbmm(s, b, d),
    "matmul_3d_2d": lambda b, m: b @ m,
    "linear": lambda b, m, s: F.linear(b, m.t(), s),
    "linear_no_bias": lambda x, m: F.linear(x, m.t()),
    "einsum": lambda b, d: torch.einsum("bij,bjk->ki", b, d),
    # views and movement
    "view": lambda x: x.view(35),
    "view_split": lambda b: b.view(2, 3, 7, 5),
    "view_merge": lambda b: b.view(42, 5),
    "reshape": lambda x: x.reshape(5, 7),
    "flatten": lambda i: i.flatten(1),
    "t": lambda x: x.t(),
    "permute": lambda b: b.permute(2, 0, 1),
    "transpose": lambda b: b.transpose(0, 2) * 2,
    "contiguous": lambda b: b.transpose(0, 1).contiguous(),
    "expand": lambda x: x.expand(3, 7, 5) * 2,
    "squeeze": lambda x: x[:, None].squeeze(1),
    "select": lambda x: x[2] * x[:, 3].sum(),
    "slice": lambda x: x[1:6, ::2],
    "narrow": lambda x: x.narrow(0, 2, 3),
    "chunk": lambda x: x.chunk(2, 1)[0] * 2,
    "split": lambda x: x.split([2, 5])[1] * 2,
    "unbind": lambda x: x.unbind(0)[3] * x.unbind(1)[1].sum(),
    "cat_0": lambda x, y: torch.cat([x, y]),
    "cat_1": lambda x, p: torch.cat([x, p, x], 1),
    "stack": lambda x, y: torch.stack([x, y], 1),
    "repeat": lambda x: x.repeat(2, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 1),
    "tril": lambda x: x.tril(),
    "triu": lambda b: b.triu(1),
    "diagonal": lambda x: x.diagonal() * 2,
    "diag_embed": lambda x: torch.diag_embed(x),
    "pad": lambda x: F.pad(x, (1, 2)),
    "pad_both": lambda i: F.pad(i, (1, 1, 2, 0), value=0.5),
    "unfold": lambda x: x.unfold(1, 3, 1),
    "clone": lambda x: x.clone(),
    # picking
    "gather": lambda x: x.gather(0, INDEX),
    "gather_1": lambda x: x.gather(1, INDEX),
    "take_along": lambda x: x.take_along_dim(INDEX[:1].to(x.device), 0),
    "scatter": lambda x, y: x.scatter(1, INDEX.argsort(1), y[:3]),
    "scatter_add": lambda x, y: x.scatter_add(1, INDEX, y[:3]),
    "index_select": lambda x: x.index_select(0, TOKENS[0]),
    "index": lambda x: x[TOKENS],
    "index_two": lambda x: x[CLASSES, CLASSES],
    "index_mask": lambda x: x[MASK],
    "index_put": lambda x, r: x.index_put((TOKENS[0],), r),
    "index_add": lambda x, y: x.index_add(0, TOKENS[1], y[:3]),
    "embedding": lambda x: F.embedding(TOKENS, x),
    "embedding_padded": lambda x: F.embedding(TOKENS, x, padding_idx=3),
    "sort": lambda x: x.sort(1).values,
    "sort_0": lambda x: x.sort(0, descending=True).values,
    "topk": lambda x: x.topk(2, 1).values,
    "one_hot_mm": lambda x: F.one_hot(CLASSES, 7).float() @ x,
    # softmax and norms
    "softmax": lambda x: x.softmax(1),
    "softmax_0": lambda x: x.softmax(0),
    "log_softmax": lambda x: x.log_softmax(1),
    "log_softmax_0": lambda b: b.log_softmax(0),
    "layer_norm": lambda b, r, r2: F.layer_norm(b, (5,), r, r2),
    "layer_norm_plain": lambda x: F.layer_norm(x, (7, 5)),
    "rms_norm": lambda b, r: F.rms_norm(b, (5,), r),
    "group_norm": lambda i, g, g2: F.group_norm(i, 3, g, g2),
    "batch_norm": lambda i, g, g2: F.batch_norm(
        i, None, None, g, g2, training=True
    ),
    "batch_norm_1d": lambda x, r: F.batch_norm(
        x, None, None, r, None, training=True
    ),
    "batch_norm_eval": lambda i, g, g2: F.batch_norm(
        i, torch.ones(6), torch.full((6,), 2.0), g, g2
    ),
    "instance_norm": lambda i: F.instance_norm(i),
    "normalize": lambda x: F.normalize(x, dim=1),
    # convolution and pooling
    "conv2d": lambda i, k, s: F.conv2d(i, k, s, padding=1),
    "conv2d_stride": lambda i, k: F.conv2d(i, k, stride=2, dilation=2),
    "conv2d_depthwise": lambda i, kd: F.conv2d(i, kd, groups=6),
    "conv1d": lambda n, k1: F.conv1d(n, k1),
    "conv_transpose2d": lambda i, kt: F.conv_transpose2d(i, kt, stride=2),
    "max_pool2d": lambda i: F.max_pool2d(i, 2),
    "avg_pool2d": lambda i: F.avg_pool2d(i, 2, padding=1),
    "adaptive_avg_pool2d": lambda i: F.adaptive_avg_pool2d(i, 1),
    "max_pool1d": lambda n: F.max_pool1d(n, 3),
    "interpolate": lambda i: F.interpolate(i, scale_factor=2),
    # attention
    "attention": lambda h, h2, h3: F.scaled_dot_product_attention(h, h2, h3),
    "attention_causal": lambda h, h2, h3: F.scaled_dot_product_attention(
        h, h2, h3, is_causal=True
    ),
    "attention_mask": lambda h, h2, h3: F.scaled_dot_product_attention(
        h, h2, h3, attn_mask=torch.ones(6, 6).tril().bool()
    ),
    # losses
    "mse": lambda x, y: F.mse_loss(x, y),
    "l1": lambda x, y: F.l1_loss(x, y, reduction="sum"),
    "huber": lambda x, y: F.huber_loss(x, y),
    "bce": lambda q, p: F.binary_cross_entropy(q, p.detach().clamp(max=1)),
    "bce_logits": lambda x: F.binary_cross_entropy_with_logits(x, MASK.float()),
    "cross_entropy": lambda x: F.cross_entropy(x, CLASSES),
    "cross_entropy_sum": lambda x: F.cross_entropy(x, CLASSES, reduction="sum"),
    "cross_entropy_none": lambda x: F.cross_entropy(
        x, CLASSES, reduction="none"
    ),
    "cross_entropy_smooth": lambda x: F.cross_entropy(
        x, CLASSES, label_smoothing=0.1
    ),
    "cross_entropy_ignored": lambda x: F.cross_entropy(
        x, CLASSES, ignore_index=4
    ),
    "cross_entropy_weight": lambda x, p: F.cross_entropy(
        x, CLASSES, weight=p.detach()[0]
    ),
    "cross_entropy_soft": lambda x, q: F.cross_entropy(x, q),
    "nll": lambda x: F.nll_loss(x.log_softmax(1), CLASSES),
    "kl_div": lambda x, q: F.kl_div(x, q, reduction="batchmean"),
    "cosine": lambda x, y: F.cosine_similarity(x, y),
}


def attention_of_both(h, h2, h3):
    mask = torch.ones(6, 6).triu(-2).bool()
    return F.scaled_dot_product_attention(
        h, h2, h3, attn_mask=mask, is_causal=True
    )


# Later releases of torch refuse the two.
TAKES_BOTH = int(torch.__version__.split(".")[1]) < 14
if TAKES_BOTH:
    OPS["attention_mask_causal"] = attention_of_both


@pytest.mark.skipif(TAKES_BOTH, reason="this torch takes a mask and is_causal")
def test_attention_refuses_what_plain_attention_refuses():
    h = torch.randn(2, 2, 6, 4)
    g = tm.distribute(h, tm.Mesh({"data": 2}), ("S0",))
    with pytest.raises(RuntimeError, match="is_causal") as plain:
        attention_of_both(h, h, h)
    with pytest.raises(RuntimeError, match="is_causal") as mesh:
        attention_of_both(g, g, g)
    assert str(plain.value).splitlines()[0] in str(mesh.value)


def arguments(names):
    """Values for the parameters of an op; the same at each call."""
    generator = torch.Generator().manual_seed(11)
    values = []
    for name in names:
        sizes = SIZES.get(name) or SIZES[name[0]]
        value = torch.randn(sizes, generator=generator)
        if name == "p":
            value = value.abs() + 0.5
        elif name == "q":
            value = value.sigmoid()
        values.append(value)
    return values


def tensors_in(result):
    return result if isinstance(result, tuple) else (result,)


def run(f, values):
    """Results, and gradients of all arguments for one fixed cotangent."""
    leaves = [value.requires_grad_() for value in values]
    results = tensors_in(f(*leaves))
    generator = torch.Generator().manual_seed(5)
    cotangents = [
        torch.randn(r.shape, generator=generator).to(r.dtype) for r in results
    ]
    if tm.is_global(results[0]):
        mesh = tm.layout(results[0]).mesh
        cotangents = [tm.distribute(c, mesh) for c in cotangents]
    gradients = torch.autograd.grad(
        results, leaves, cotangents, allow_unused=True
    )
    return [r.detach() for r in results], gradients


_expected = {}


def expected_of(name):
    if name not in _expected:
        f = OPS[name]
        names = list(inspect.signature(f).parameters)
        _expected[name] = names, *run(f, arguments(names))
    return _expected[name]


def check(name, mesh_name, layouts_of):
    names, results, gradients = expected_of(name)
    mesh = mesh_of(mesh_name)
    values = [
        place(value, mesh, layouts_of(value)) for value in arguments(names)
    ]
    actual, actual_gradients = run(OPS[name], values)
    for a, e in zip(actual, results, strict=True):
        assert a.stride() == e.stride() or not e.is_contiguous()
        assert_close(a, e, rtol=1e-4, atol=1e-5)
    for parameter, a, e in zip(names, actual_gradients, gradients, strict=True):
        assert (a is None) == (e is None), parameter
        if e is not None:
            assert_close(a, e, rtol=1e-4, atol=1e-5)


def fitted(placements, value):
    """The placements, `R` where the value has no such dim; S-1 is the last."""
    result = []
    for p in placements:
        if p == "S-1":
            p = f"S{value.dim() - 1}"
        if p.startswith("S") and int(p[1:]) >= value.dim():
            p = "R"
        result.append(p)
    return tuple(result)


LAYOUTS = [
    *((m, (p,)) for m in ("2", "3") for p in ("R", "S0", "S-1", "P+")),
    *(
        ("2x2", pair)
        for pair in (
            ("S0", "R"),
            ("S0", "S1"),
            ("S-1", "P+"),
            ("P+", "S0"),
            ("S0", "S0"),
        )
    ),
]


@pytest.mark.parametrize("mesh_name, placements", LAYOUTS, ids=name_of)
@pytest.mark.parametrize("name", OPS)
def test_an_op_of_tensors_in_one_layout_is_plain_torchs(
    name, mesh_name, placements
):
    check(name, mesh_name, lambda value: fitted(placements, value))


MIXED = {
    "batch": (("S0", "R"), ("R", "R"), ("R", "R")),
    "rows and columns": (("S0", "R"), ("R", "S-1"), ("R", "S0")),
    "contracted": (("R", "S-1"), ("R", "S0"), ("R", "R")),
    "crossed": (("S0", "S1"), ("S1", "S0"), ("S0", "P+")),
    "partial and sharded": (("P+", "R"), ("S0", "R"), ("R", "P+")),
}


@pytest.mark.parametrize("mixture", MIXED)
@pytest.mark.parametrize(
    "name", [n for n, f in OPS.items() if f.__code__.co_argcount > 1]
)
def test_an_op_of_tensors_in_different_layouts_is_plain_torchs(name, mixture):
    layouts = iter(MIXED[mixture] * 2)
    check(name, "2x2", lambda value: fitted(next(layouts), value))


@pytest.mark.parametrize("name", ["mm", "addmm", "softmax_0", "batch_norm"])
@pytest.mark.parametrize(
    "mesh_name, placements", cases(1, ("2", "3", "2x2")), ids=name_of
)
def test_an_op_on_devices_with_memories_of_their_own_is_plain_torchs(
    separate_memories, name, mesh_name, placements
):
    check(name, mesh_name, lambda value: fitted(placements, value))


# What a training step calls must not gather where mathematics allows it.
FREE_OF_GATHERS = {
    "add": ("S0", "S1"),
    "relu": ("S0", "S1"),
    "gelu": ("S0", "S1"),
    "mul_row": ("S0", "R"),
    "sum": ("S0", "S1"),
    "sum_0": ("S0", "S1"),
    "mean_0": ("S0", "S1"),
    "mm": ("S0", "R"),
    "addmm": ("S0", "R"),
    "bmm": ("S0", "R"),
    "linear": ("S0", "R"),
    "t": ("S0", "S1"),
    "permute": ("S0", "S1"),
    "view_split": ("S0", "R"),
    "flatten": ("S0", "R"),
    "softmax": ("S0", "R"),
    "log_softmax": ("S0", "R"),
    "layer_norm": ("S0", "R"),
    "group_norm": ("S0", "R"),
    "batch_norm": ("S0", "R"),
    "conv2d": ("S0", "R"),
    "max_pool2d": ("S0", "R"),
    "avg_pool2d": ("S0", "R"),
    "adaptive_avg_pool2d": ("S0", "R"),
    "attention": ("S0", "S1"),
    "cat_1": ("S0", "R"),
    "stack": ("S0", "R"),
    "chunk": ("S0", "R"),
    "mse": ("S0", "R"),
    "cross_entropy_soft": ("S0", "R"),
    "where": ("S0", "S1"),
    "cumsum_1": ("S0", "R"),
    "norm_1": ("S0", "R"),
}


@pytest.mark.parametrize("name", FREE_OF_GATHERS)
def test_an_op_of_the_hot_set_gathers_nothing(name):
    names = list(inspect.signature(OPS[name]).parameters)
    mesh = tm.Mesh({"data": 2, "model": 2})
    # Weights are replicated, the rest is sharded.
    weights = {"m", "r", "r2", "s", "k", "g", "g2"}
    values = [
        tm.distribute(
            value,
            mesh,
            ("R", "R")
            if parameter in weights
            else fitted(FREE_OF_GATHERS[name], value),
        )
        for parameter, value in zip(names, arguments(names), strict=True)
    ]
    values = [value.requires_grad_() for value in values]
    with tm.counting() as counts:
        results = tensors_in(OPS[name](*values))
        # The cotangent stands as the result does, sums formed.
        cotangents = []
        for r in results:
            whole = tuple(
                "R" if p == "P+" else p for p in tm.layout(r).placements
            )
            cotangents.append(tm.distribute(torch.ones(r.shape), mesh, whole))
        torch.autograd.grad(results, values, cotangents)
    assert counts.replicated_ops == {}
    assert not any("gather" in kind for kind in counts.collectives)
