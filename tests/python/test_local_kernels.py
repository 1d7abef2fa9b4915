"""Ops that copy their arguments where that is faster: large ones, on the CPU.

Values, sizes and strides are those of plain torch. Sizes are above the bound
from which the copies are made (src/run/local_kernel.cpp).
"""

import pytest
import torch
from placing import mesh_of, name_of, place

ops = torch.ops.aten
LAYOUTS = [("2", ("S0",)), ("2", ("R",)), ("3", ("S1",)), ("2x2", ("S0", "S1"))]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
FORMATS = [torch.contiguous_format, torch.channels_last]
SIZES = (8, 24, 40, 40)  # a shard of 2 x 12 channels still has 38,400 elements

EXACT = {
    "threshold": lambda g, x: ops.threshold_backward(g, x, 0),
    "leaky_relu": lambda g, x: ops.leaky_relu_backward(g, x, 0.1, False),
}
WITH_EXPONENTIALS = {
    "elu": lambda g, x: ops.elu_backward(g, 1.5, 1.0, 1.0, False, x),
    "mish": ops.mish_backward,
    "silu": ops.silu_backward,
    "softplus": lambda g, x: ops.softplus_backward(g, x, 1.0, 20.0),
}


def images(dtype, memory_format, sizes=SIZES, seed=0):
    """Random pixels with ties, zeros, infinities and a nan."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(sizes, generator=draw).mul(4).round().div(4).to(dtype)
    x[0, 0, 0, :3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    return x.contiguous(memory_format=memory_format)


def assert_same(actual, expected, exact=True):
    assert actual.dtype == expected.dtype
    assert actual.stride() == expected.stride()
    actual = actual.cpu()
    assert actual.stride() == expected.stride()
    tolerance = {"rtol": 0, "atol": 0} if exact else {}
    torch.testing.assert_close(actual, expected, equal_nan=True, **tolerance)


@pytest.fixture(params=LAYOUTS, ids=name_of)
def placed(request):
    mesh, placements = request.param
    return lambda x: place(x, mesh_of(mesh), placements)


@pytest.mark.parametrize("x_format", FORMATS, ids=str)
@pytest.mark.parametrize("g_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*EXACT, *WITH_EXPONENTIALS])
def test_gradient_of_an_activation(placed, name, dtype, g_format, x_format):
    f = {**EXACT, **WITH_EXPONENTIALS}[name]
    g = images(dtype, g_format, seed=1)
    x = images(dtype, x_format)
    assert_same(f(placed(g), placed(x)), f(g, x), exact=name in EXACT)


@pytest.mark.parametrize("options", [(2, 2), (3, 2, 1), (3, 1, 1, 2, True)])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_max_pool(placed, dtype, memory_format, options):
    x = images(dtype, memory_format)
    expected = ops.max_pool2d_with_indices(x, *map(pair, options))
    actual = ops.max_pool2d_with_indices(placed(x), *map(pair, options))
    assert_same(actual[0], expected[0])
    assert_same(actual[1], expected[1])


@pytest.mark.parametrize("options", [(2, 2), (3, 2, 1)])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_average_pool(placed, dtype, memory_format, options):
    x = images(dtype, memory_format)
    expected = ops.avg_pool2d(x, *map(pair, options))
    assert_same(ops.avg_pool2d(placed(x), *map(pair, options)), expected)


@pytest.mark.parametrize("g_format", FORMATS, ids=str)
@pytest.mark.parametrize("x_format", FORMATS, ids=str)
def test_gradient_of_max_pool(placed, x_format, g_format):
    x = images(torch.float32, x_format)
    pooled, indices = ops.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])
    g = images(torch.float32, g_format, pooled.shape, seed=1)

    def backward(g, x, indices):
        return ops.max_pool2d_with_indices_backward(
            g, x, [3, 3], [2, 2], [1, 1], [1, 1], False, indices
        )

    expected = backward(g, x, indices)
    assert_same(backward(placed(g), placed(x), placed(indices)), expected)


def pair(option):
    return option if isinstance(option, bool) else [option, option]


def test_an_operand_that_repeats_or_is_a_slice(placed):
    """Neither decides on the order of the dims as a dense one does."""
    x = images(torch.float32, torch.channels_last)
    wide = images(torch.float32, torch.contiguous_format, (8, 24, 40, 80))
    column = wide[..., 4:5].contiguous()
    for change in (lambda w, c: w[..., ::2], lambda w, c: c.expand(SIZES)):
        for f in EXACT.values():
            other, there = change(wide, column), placed(x)
            other_there = change(placed(wide), placed(column))
            assert_same(f(other_there, there), f(other, x))
            assert_same(f(there, other_there), f(x, other))


def test_errors_are_those_of_torch(placed):
    x = images(torch.float32, torch.contiguous_format)
    for options in [([50, 50],), ([2, 2], [0, 0]), ([2, 2], [2, 2], [3, 3])]:
        with pytest.raises(RuntimeError) as expected:
            ops.max_pool2d_with_indices(x, *options)
        with pytest.raises(RuntimeError) as actual:
            ops.max_pool2d_with_indices(placed(x), *options)
        line = str(expected.value).splitlines()[0]
        assert line.split(":")[0] in str(actual.value)
