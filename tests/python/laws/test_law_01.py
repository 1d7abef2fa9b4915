"""Law 1: any aten op works under any layout."""

import pytest
import torch
from placing import SMALL, assert_close, every_layout, mesh_of, place

import torch_mesh as tm

UNUSUAL_OPS = {
    "svd": lambda x: torch.linalg.svdvals(x),
    "unique": lambda x: torch.unique(x),
    "nonzero": lambda x: (x > 0).nonzero(),
    "fft": lambda x: torch.fft.rfft(x).abs(),
    "median": lambda x: x.median(0),
    "kthvalue": lambda x: x.kthvalue(2, 1),
    "histc": lambda x: torch.histc(x, 5),
    "roll": lambda x: x.roll(2, 0),
    "flip": lambda x: x.flip(0),
    "cdist": lambda x: torch.cdist(x, x),
    "cov": lambda x: torch.cov(x),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
    "searchsorted": lambda x: torch.searchsorted(
        torch.tensor([-1.0, 0.0, 1.0]), x
    ),
    "lu_solve": lambda x: torch.linalg.solve(x @ x.T + 5 * torch.eye(5), x),
    "as_complex": lambda x: torch.view_as_complex(x.reshape(-1, 2)).abs(),
}


@pytest.mark.parametrize("name", UNUSUAL_OPS)
@every_layout(2, SMALL)
def test_law_01_an_op_without_a_rule_is_right(name, mesh_name, placements):
    value = torch.randn(5, 4)
    expected = UNUSUAL_OPS[name](value)
    actual = UNUSUAL_OPS[name](place(value, mesh_of(mesh_name), placements))
    if not isinstance(expected, tuple):
        actual, expected = (actual,), (expected,)
    for a, e in zip(actual, expected, strict=True):
        assert tm.is_global(a)
        assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_law_01_an_op_without_a_rule_is_counted(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R"))
    with tm.counting() as counts:
        x.nonzero()
    assert counts.replicated_ops == {"aten::nonzero": 1}
