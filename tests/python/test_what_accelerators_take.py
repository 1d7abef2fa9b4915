"""Dtypes that torch's kernels for accelerators take and those for the CPU
refuse: programs ask for them on every device but "cpu"."""

import pytest
import torch
from torch.nn import functional as F

import torch_mesh as tm

CLASSES = torch.tensor([1, 0, 2, 4, 3, 1])

# Of x [6, 5, 4, 8, 8] and rows [6, 5].
OPS = {
    "bilinear": lambda x, rows: F.interpolate(
        x[:, :, 0], size=(5, 3), mode="bilinear", antialias=True
    ),
    "bicubic": lambda x, rows: F.interpolate(
        x[:, :, 0], size=(5, 3), mode="bicubic", antialias=True
    ),
    "avg_pool3d": lambda x, rows: F.avg_pool3d(x, 2),
    "multi_margin_loss": lambda x, rows: F.multi_margin_loss(
        rows, CLASSES.to(x.device)
    ),
    "multilabel_margin_loss": lambda x, rows: F.multilabel_margin_loss(
        rows, CLASSES[:5].expand(6, 5).contiguous().to(x.device)
    ),
}


@pytest.mark.parametrize("cut", ["R", "S0", "S1"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_a_half_is_computed_in_float32_and_rounded(name, dtype, cut):
    values = torch.randn(6, 5, 4, 8, 8).to(dtype), torch.randn(6, 5).to(dtype)
    wide = [v.float().requires_grad_() for v in values]
    mesh = tm.Mesh({"data": 2})
    halves = [tm.distribute(v, mesh, (cut,)).requires_grad_() for v in values]
    expected = OPS[name](*wide)
    with tm.use(mesh):
        actual = OPS[name](*halves)
    assert actual.dtype == dtype
    gradient = torch.ones_like(expected)
    expected.backward(gradient)
    actual.backward(tm.distribute(gradient.to(dtype), mesh))
    tolerance = 2e-3 if dtype == torch.float16 else 2e-2
    torch.testing.assert_close(
        tm.full(actual).float(), expected, rtol=tolerance, atol=tolerance
    )
    for half, leaf in zip(halves, wide, strict=True):
        assert (half.grad is None) == (leaf.grad is None)
        if leaf.grad is not None:
            torch.testing.assert_close(
                tm.full(half.grad).float(),
                leaf.grad,
                rtol=tolerance,
                atol=tolerance,
            )
