"""Families beyond the hot set, forward and backward, against plain torch.

The sizes are such that some device is left without a part: a batch of 1, one
channel, three rows on two by two devices. Kernels of torch that refuse empty
tensors must not meet one.
"""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from placing import (
    SMALL,
    assert_close,
    assert_equal,
    every_layout,
    mesh_of,
    name_of,
    place,
)
from torch.nn import functional as F

import torch_mesh as tm

LAYOUTS = [
    *((m, (p,)) for m in ("2", "3") for p in ("S0", "S1", "S-1", "P+")),
    *(
        ("2x2", pair)
        for pair in (("S0", "S1"), ("S0", "S0"), ("S1", "P+"), ("R", "S0"))
    ),
]


@dataclasses.dataclass
class Op:
    """A function of tensors with these sizes; integers below `below`."""

    f: Callable
    sizes: tuple
    indices: tuple = ()
    below: int = 3
    dtype: torch.dtype = torch.float32

    def arguments(self):
        generator = torch.Generator().manual_seed(3)
        values = [
            torch.randn(sizes, generator=generator).to(self.dtype)
            for sizes in self.sizes
        ]
        numbers = [
            torch.randint(0, self.below, sizes, generator=generator)
            for sizes in self.indices
        ]
        return values, numbers


def op(f, *sizes, **options):
    return Op(f, sizes, **options)


def fitted(placements, value):
    found = []
    for p in placements:
        dim = value.dim() - 1 if p == "S-1" else int(p[1:] if "S" in p else 0)
        found.append(p if p == "P+" else f"S{dim}")
        if p == "R" or (p != "P+" and not 0 <= dim < value.dim()):
            found[-1] = "R"
    return tuple(found)


def tensors_in(result):
    return list(result) if isinstance(result, tuple | list) else [result]


def run(f, values, numbers):
    leaves = [v.requires_grad_() for v in values]
    results = tensors_in(f(*leaves, *numbers))
    outs = [r for r in results if r.requires_grad]
    generator = torch.Generator().manual_seed(5)
    cotangents = [
        torch.randn(r.shape, generator=generator).to(r.dtype) for r in outs
    ]
    cotangents = [c.to(r.device) for c, r in zip(cotangents, outs, strict=True)]
    if not outs:
        return results, []
    return [r.detach() for r in results], torch.autograd.grad(
        outs, leaves, cotangents, allow_unused=True
    )


def check(case, mesh_name, placements, tolerance=1e-4):
    results, gradients = run(case.f, *case.arguments())
    mesh = mesh_of(mesh_name)
    values, numbers = (
        [place(v, mesh, fitted(placements, v)) for v in some]
        for some in case.arguments()
    )
    with tm.use(mesh):
        actual, actual_gradients = run(case.f, values, numbers)
    for a, e in zip(actual, results, strict=True):
        assert a.dtype == e.dtype
        assert a.stride() == e.stride() or not e.is_contiguous()
        assert_close(a, e, rtol=tolerance, atol=tolerance)
    for a, e in zip(actual_gradients, gradients, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            assert_close(a, e, rtol=tolerance, atol=tolerance)


def stft(x):
    window = torch.ones(8, device=x.device)
    return torch.view_as_real(
        torch.stft(x, 8, 4, window=window, return_complex=True)
    )


def eye(x):
    return torch.eye(x.shape[-1], device=x.device)


def index_reduce(x, y):
    index = torch.tensor([0, 0], device=x.device)
    return x.index_reduce(0, index, y, "amax")


# Batches of 1, single channels.
EMPTY = {
    "conv1d": op(F.conv1d, (1, 2, 7), (3, 2, 3), (3,)),
    "conv2d": op(F.conv2d, (1, 1, 6, 6), (1, 1, 3, 3), (1,)),
    "conv2d_grouped": op(
        lambda x, w: F.conv2d(x, w, groups=2), (1, 2, 6, 6), (4, 1, 3, 3)
    ),
    "conv3d": op(F.conv3d, (1, 1, 4, 4, 4), (2, 1, 3, 3, 3)),
    "conv_transpose1d": op(F.conv_transpose1d, (1, 2, 5), (2, 1, 3)),
    "conv_transpose2d": op(
        lambda x, w: F.conv_transpose2d(x, w, stride=2),
        (1, 1, 4, 4),
        (1, 1, 3, 3),
    ),
    "conv_transpose3d": op(
        F.conv_transpose3d, (1, 1, 3, 3, 3), (1, 2, 2, 2, 2)
    ),
    "max_pool1d": op(lambda x: F.max_pool1d(x, 2), (1, 2, 6)),
    "max_pool2d": op(lambda x: F.max_pool2d(x, 2), (1, 1, 6, 6)),
    "max_pool3d": op(lambda x: F.max_pool3d(x, 2), (1, 1, 4, 4, 4)),
    "avg_pool1d": op(lambda x: F.avg_pool1d(x, 2), (1, 2, 6)),
    "avg_pool2d": op(lambda x: F.avg_pool2d(x, 2), (1, 1, 6, 6)),
    "avg_pool3d": op(lambda x: F.avg_pool3d(x, 2), (1, 1, 4, 4, 4)),
    "adaptive_avg_pool2d": op(
        lambda x: F.adaptive_avg_pool2d(x, 2), (1, 1, 6, 6)
    ),
    "adaptive_avg_pool3d": op(
        lambda x: F.adaptive_avg_pool3d(x, 2), (1, 1, 4, 4, 4)
    ),
    "adaptive_max_pool1d": op(lambda x: F.adaptive_max_pool1d(x, 2), (1, 1, 6)),
    "adaptive_max_pool2d": op(
        lambda x: F.adaptive_max_pool2d(x, 2), (1, 1, 6, 6)
    ),
    "reflection_pad": op(
        lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), (1, 1, 4, 4)
    ),
    "replication_pad": op(
        lambda x: F.pad(x, (1, 1, 1, 1), "replicate"), (1, 1, 4, 4)
    ),
    "circular_pad": op(lambda x: F.pad(x, (1, 1), "circular"), (1, 1, 4)),
    "grid_sample": op(
        lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False),
        (1, 1, 4, 4),
        (1, 3, 3, 2),
    ),
    "upsample_nearest": op(
        lambda x: F.interpolate(x, scale_factor=2), (1, 1, 4, 4)
    ),
    "upsample_bilinear": op(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        (1, 1, 4, 4),
    ),
    "upsample_linear": op(
        lambda x: F.interpolate(x, size=7, mode="linear"), (1, 2, 4)
    ),
    "upsample_bicubic": op(
        lambda x: F.interpolate(x, size=(5, 7), mode="bicubic"), (1, 1, 4, 4)
    ),
    "unfold": op(lambda x: F.unfold(x, 2), (1, 1, 4, 4)),
    "fold": op(lambda x: F.fold(x, (4, 4), 2), (1, 4, 9)),
    "fft": op(lambda x: torch.view_as_real(torch.fft.fft(x)), (1, 6)),
    "rfft": op(lambda x: torch.view_as_real(torch.fft.rfft(x)), (1, 6)),
    "rfft2": op(lambda x: torch.view_as_real(torch.fft.rfft2(x)), (1, 4, 6)),
    "irfft": op(lambda x: torch.fft.irfft(torch.view_as_complex(x)), (1, 4, 2)),
    "stft": op(stft, (1, 32)),
    "index_reduce": op(index_reduce, (3, 1), (2, 1)),
    "group_norm": op(lambda x: F.group_norm(x, 1), (1, 2, 4)),
    "instance_norm": op(F.instance_norm, (1, 1, 4, 4)),
    "batch_norm": op(
        lambda x: F.batch_norm(x, None, None, training=True), (1, 1, 4, 4)
    ),
    "bf16_conv_transpose": op(
        F.conv_transpose2d, (1, 1, 4, 4), (1, 1, 3, 3), dtype=torch.bfloat16
    ),
}

FAMILIES = {
    # sharded rows: each device picks what it holds
    "embedding": op(
        lambda w, i: F.embedding(i, w), (7, 4), indices=((2, 3),), below=7
    ),
    "index_select": op(
        lambda x, i: x.index_select(0, i), (7, 4), indices=((5,),), below=7
    ),
    "index_select_1": op(
        lambda x, i: x.index_select(-1, i), (3, 7), indices=((4,),), below=7
    ),
    "gather": op(
        lambda x, i: x.gather(0, i), (7, 4), indices=((5, 4),), below=7
    ),
    "gather_1": op(
        lambda x, i: x.gather(1, i), (4, 7), indices=((3, 5),), below=7
    ),
    "index": op(lambda x, i: x[i - 3], (7, 4), indices=((2, 3),), below=7),
    "index_1": op(lambda x, i: x[:, i], (4, 7, 2), indices=((3,),), below=7),
    "index_two": op(
        lambda x, i, j: x[i, :, j],
        (3, 7, 4),
        indices=((5,), (5,)),
    ),
    "take_along_dim": op(
        lambda x, i: torch.take_along_dim(x, i, 0),
        (7, 4),
        indices=((2, 4),),
        below=7,
    ),
    "triu": op(lambda x: x.triu(1), (5, 7)),
    "tril": op(lambda x: x.tril(-1), (3, 5, 7)),
    "triu_batch": op(lambda x: x.triu(-2), (2, 7, 4)),
    "triu_in_place": op(lambda x: (x * 1).triu_(1), (7, 5)),
    "put": op(
        lambda x, y, i: x.put(i, y, accumulate=True),
        (3, 4),
        (5,),
        indices=((5,),),
        below=12,
    ),
    "take": op(lambda x, i: x.take(i), (3, 4), indices=((5,),), below=12),
    "searchsorted": op(
        lambda x, y: torch.searchsorted(x.sort().values, y), (3, 6), (3, 4)
    ),
    # what a reduction picked, its gradient goes back to
    "max": op(lambda x: x.max(1).values, (5, 4)),
    "median": op(lambda x: x.median(-1).values, (5, 4)),
    "kthvalue": op(lambda x: x.kthvalue(2, 1).values, (5, 4)),
    "sort": op(lambda x: x.sort(1).values, (5, 4)),
    "topk": op(lambda x: x.topk(2, 0).values, (5, 4)),
    "cummax": op(lambda x: x.cummax(1).values, (5, 4)),
    "quantile": op(lambda x: x.quantile(0.3, 1), (5, 4)),
    "diagonal": op(lambda x: x.diagonal(1, 0, 2), (3, 5, 4)),
    "diag_embed": op(torch.diag_embed, (5, 3)),
    "unfold_windows": op(lambda x: x.unfold(1, 3, 2), (5, 7, 2)),
    "narrow_copy": op(lambda x: torch.narrow_copy(x, 1, 1, 2), (5, 4)),
    "one_hot": op(lambda i: F.one_hot(i, 3).float(), indices=((5,),)),
    # Fourier transforms of batches
    "rfft_batch": op(lambda x: torch.view_as_real(torch.fft.rfft(x)), (5, 8)),
    "irfft_batch": op(
        lambda x: torch.fft.irfft(torch.view_as_complex(x)), (5, 4, 2)
    ),
    "stft_batch": op(stft, (5, 32)),
    # batches of matrices
    "inv": op(lambda x: torch.linalg.inv(x + 4 * eye(x)), (5, 3, 3)),
    "det": op(torch.linalg.det, (5, 3, 3)),
    "slogdet": op(lambda x: torch.linalg.slogdet(x)[1], (5, 3, 3)),
    "qr": op(torch.linalg.qr, (5, 4, 3)),
    "svdvals": op(torch.linalg.svdvals, (5, 4, 3)),
    "svd": op(lambda x: torch.linalg.svd(x, full_matrices=False)[1], (5, 4, 3)),
    "eigvalsh": op(lambda x: torch.linalg.eigvalsh(x + x.mT), (5, 3, 3)),
    "cholesky": op(
        lambda x: torch.linalg.cholesky(x @ x.mT + eye(x)), (5, 3, 3)
    ),
    "lu_factor": op(lambda x: torch.linalg.lu_factor(x)[0], (5, 3, 3)),
    "lu": op(lambda x: torch.linalg.lu(x)[1:], (5, 3, 3)),
    "solve": op(
        lambda a, b: torch.linalg.solve(a + 4 * eye(a), b),
        (5, 3, 3),
        (5, 3, 2),
    ),
    "solve_vector": op(
        lambda a, b: torch.linalg.solve(a + 4 * eye(a), b), (5, 3, 3), (5, 3)
    ),
    "solve_one_of_many": op(
        lambda a, b: torch.linalg.solve(a + 4 * eye(a), b), (3, 3), (5, 3, 2)
    ),
    "solve_triangular": op(
        lambda a, b: torch.linalg.solve_triangular(
            a + 4 * eye(a), b, upper=True
        ),
        (5, 3, 3),
        (5, 3, 2),
    ),
    "pinv": op(torch.linalg.pinv, (5, 4, 3)),
    "matrix_exp": op(torch.linalg.matrix_exp, (5, 3, 3)),
    "cross": op(torch.linalg.cross, (5, 3), (5, 3)),
    "cdist": op(torch.cdist, (3, 5, 4), (3, 2, 4)),
    # losses, activations, windows
    "multi_margin": op(
        lambda x, i: F.multi_margin_loss(x, i, reduction="none"),
        (5, 3),
        indices=((5,),),
    ),
    "multi_margin_mean": op(F.multi_margin_loss, (5, 3), indices=((5,),)),
    "multilabel_margin": op(
        lambda x, i: F.multilabel_margin_loss(x, i, reduction="none"),
        (5, 3),
        indices=((5, 3),),
    ),
    "multilabel_margin_sum": op(
        lambda x, i: F.multilabel_margin_loss(x, i, reduction="sum"),
        (5, 3),
        indices=((5, 3),),
    ),
    "logsigmoid": op(F.logsigmoid, (5, 4)),
    "bce_with_logits": op(
        lambda x, y: F.binary_cross_entropy_with_logits(
            x, y.sigmoid(), reduction="none"
        ),
        (5, 4),
        (5, 4),
    ),
    "prelu": op(F.prelu, (5, 3, 2), (3,)),
    "glu": op(F.glu, (5, 6)),
    "fractional_max_pool2d": op(
        lambda x, r: F.fractional_max_pool2d(
            x, 2, output_size=3, _random_samples=r.detach().sigmoid()
        ),
        (5, 2, 6, 6),
        (5, 2, 2),
    ),
    "max_unpool2d": op(
        lambda x: F.max_unpool2d(
            *F.max_pool2d(x, 2, return_indices=True), kernel_size=2
        ),
        (5, 2, 6, 6),
    ),
    "pixel_shuffle": op(lambda x: F.pixel_shuffle(x, 2), (5, 8, 3, 3)),
    "channel_shuffle": op(lambda x: F.channel_shuffle(x, 2), (5, 4, 3, 3)),
    "unfold_batch": op(lambda x: F.unfold(x, 2), (5, 2, 4, 4)),
    "fold_batch": op(lambda x: F.fold(x, (4, 4), 2), (5, 8, 9)),
}

CASES = {**EMPTY, **FAMILIES}


@pytest.mark.parametrize("mesh_name, placements", LAYOUTS, ids=name_of)
@pytest.mark.parametrize("name", CASES)
def test_an_op_is_plain_torchs(name, mesh_name, placements):
    case = CASES[name]
    rough = case.dtype == torch.bfloat16
    check(case, mesh_name, placements, 3e-2 if rough else 1e-4)


def test_zeros_that_nobody_has_read_take_the_layout_of_what_is_written():
    mesh = tm.Mesh({"data": 2})
    rows = tm.distribute(torch.arange(12.0).reshape(4, 3), mesh, ("S0",))
    index = tm.distribute(torch.tensor([[2], [0], [1], [1]]), mesh, ("S0",))
    with tm.use(mesh), tm.counting() as counts:
        picked = torch.zeros(4, 3, device="mesh").scatter_(
            1, index, rows[:, :1]
        )
    assert str(tm.layout(picked)) == "(S0)"
    assert counts.collectives == {}
    expected = torch.zeros(4, 3).scatter_(
        1, tm.full(index), tm.full(rows)[:, :1]
    )
    assert_equal(picked, expected)
    with tm.use(mesh):
        # What follows another's layout, and what has been read, keeps it.
        like = torch.zeros_like(tm.distribute(torch.ones(4, 3), mesh))
        like.add_(rows)
        read = torch.zeros(4, 3, device="mesh")
        assert read.sum().item() == 0
        read.add_(rows)
    for kept in (like, read):
        assert str(tm.layout(kept)) == "(R)"
        assert_equal(kept, tm.full(rows))


@pytest.mark.parametrize("mesh_name", ["2", "3", "2x2"])
@pytest.mark.parametrize("batch", [1, 2, 4, 5])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_running_statistics_are_those_of_the_whole_batch(
    norm, batch, mesh_name
):
    mesh = mesh_of(mesh_name)
    value = torch.randn(batch, 3, 4, generator=torch.Generator().manual_seed(1))

    def statistics(x, mean, var):
        if norm == "batch":
            F.batch_norm(x, mean, var, training=True)
        else:
            F.instance_norm(x, mean, var, use_input_stats=True)
        return mean, var

    expected = statistics(value, torch.zeros(3), torch.ones(3))
    for placement in ("S0", "S1", "S2", "P+"):
        x = place(value, mesh, (placement,) + ("R",) * (len(mesh.shape) - 1))
        for kept in ("R", "S0"):
            where = (kept,) + ("R",) * (len(mesh.shape) - 1)
            actual = statistics(
                x,
                tm.distribute(torch.zeros(3), mesh, where),
                tm.distribute(torch.ones(3), mesh, where),
            )
            for a, e in zip(actual, expected, strict=True):
                assert_close(a, e)


def test_a_lookup_in_sharded_rows_gathers_no_rows():
    mesh = tm.Mesh({"data": 2, "model": 2})
    table = tm.distribute(torch.randn(8, 4), mesh, ("R", "S0"))
    tokens = tm.distribute(torch.randint(0, 8, (4, 3)), mesh, ("S0", "R"))
    with tm.counting() as counts:
        found = F.embedding(tokens, table)
    assert str(tm.layout(found)) == "(S0, P+)"
    assert counts.collectives == {}
    assert_equal(found, F.embedding(tm.full(tokens), tm.full(table)))


@pytest.mark.parametrize(
    "pick, index",
    [
        (lambda x, i: F.embedding(i, x), 8),
        (lambda x, i: x.index_select(0, i), -1),
        (lambda x, i: x.gather(0, i[:, None]), 8),
        (lambda x, i: x[i], 8),
    ],
)
def test_an_index_that_no_device_holds_is_plain_torchs_error(pick, index):
    mesh = tm.Mesh({"data": 2})
    table, indices = torch.randn(8, 4), torch.tensor([1, index])
    with pytest.raises((IndexError, RuntimeError)) as expected:
        pick(table, indices)
    placed = tm.distribute(table, mesh, ("S0",))
    with pytest.raises(expected.type):
        pick(placed, tm.distribute(indices, mesh))


@pytest.mark.parametrize("places", [[1, 4], 3])
@pytest.mark.parametrize("on_mesh", [True, False])
def test_a_tensor_says_where_to_split(places, on_mesh):
    mesh = mesh_of("2")
    value = torch.arange(12.0).view(6, 2)
    where = torch.tensor(places)
    x = tm.distribute(value, mesh, ("S0",)).requires_grad_()
    at = tm.distribute(where, mesh, ("R",)) if on_mesh else where
    parts = torch.tensor_split(x, at)
    for part, expected in zip(
        parts, torch.tensor_split(value, where), strict=True
    ):
        assert_equal(part, expected)
    parts[0].sum().backward()
    assert tm.full(x.grad).sum() == parts[0].numel()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("placement", ["S0", "S1", "S2", "S3"])
def test_attention_runs_the_kernel_of_plain_torch(placement, is_causal):
    mesh = mesh_of("3")  # the last of three devices has none of four heads
    values = [torch.randn(4, 4, n, 8) for n in (3, 6, 6)]
    found = []
    for place_one in (
        torch.clone,
        lambda t: tm.distribute(t, mesh, (placement,)),
    ):
        tensors = [place_one(v).requires_grad_() for v in values]
        out = F.scaled_dot_product_attention(*tensors, is_causal=is_causal)
        gradients = torch.autograd.grad(out.square().sum(), tensors)
        found.append((out, *gradients))
    for plain, placed in zip(*found, strict=True):
        assert placed.stride() == plain.stride()
        assert_close(placed, plain)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32], ids=str)
@pytest.mark.parametrize("sizes", [(5, 4, 3), (1, 0, 3)], ids=str)
@every_layout(3, SMALL, partial=False)
def test_pointwise_ops_take_unsigned_numbers(
    mesh_name, placements, sizes, dtype
):
    value = torch.arange(math.prod(sizes)).reshape(sizes).to(dtype)
    x = tm.distribute(value, mesh_of(mesh_name), placements)
    for op in (torch.special.bessel_j0, torch.sin):
        assert_equal(op(x), op(value))
