"""Inference mode: views take after their base, as in plain torch."""

import copy

import pytest
import torch
from placing import assert_close, assert_equal
from torch import nn

import torch_mesh as tm

VIEWS = {
    "select": lambda x: x[0],
    "slice": lambda x: x[:, :2],
    "view": lambda x: x.view(-1),
    "t": lambda x: x.t(),
    "expand": lambda x: x[None].expand(3, -1, -1),
    "as_strided": lambda x: x.as_strided((2,), (1,)),
    "detach": lambda x: x.detach(),
    "split": lambda x: x.split(2, 1)[1],
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("placement", ["R", "S0", "S1", "P+"])
def test_a_view_is_what_its_base_is(name, placement):
    mesh = tm.Mesh({"data": 3})
    value = torch.arange(20.0).view(4, 5)
    outside = tm.distribute(value, mesh, (placement,))
    with torch.inference_mode():
        view = VIEWS[name](outside)
        assert not view.is_inference()
        inside = outside * 2
        assert VIEWS[name](inside).is_inference()
    assert_equal(view, VIEWS[name](value))
    view = VIEWS[name](inside)
    assert view.is_inference()
    if name not in ("detach", "expand"):
        with pytest.raises(RuntimeError, match="inference tensor"):
            view.add_(1)
    with pytest.raises(RuntimeError, match="Inference tensors cannot"):
        (tm.distribute(torch.ones(1), mesh).requires_grad_() * view).sum()


def test_a_write_through_a_view_reaches_a_base_from_outside():
    x = tm.distribute(torch.zeros(4, 6), tm.Mesh({"data": 2}), ("S1",))
    with torch.inference_mode():
        x[:, 1:4].add_(1)
    assert_equal(x[0], torch.tensor([0.0, 1, 1, 1, 0, 0]))
    x.requires_grad_()
    (x * 2).sum().backward()
    assert_equal(x.grad, torch.full((4, 6), 2.0))


@pytest.mark.parametrize(
    "module, sizes",
    [
        (nn.Linear(4, 3), (2, 4)),
        (nn.LSTM(4, 3), (5, 2, 4)),
        (nn.MaxPool1d(2), (2, 3, 8)),
        (nn.InstanceNorm1d(3), (2, 3, 8)),
        (nn.MultiheadAttention(4, 2, batch_first=True), (2, 5, 4)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_modules_from_outside_run(module, sizes):
    mesh = tm.Mesh({"data": 2})
    plain = copy.deepcopy(module)
    with tm.use(mesh):
        module = copy.deepcopy(module).to("mesh")
    value = torch.randn(sizes)
    x = tm.distribute(value, mesh, ("S0",))
    args = (3 if isinstance(module, nn.MultiheadAttention) else 1) * [x]
    plain_args = len(args) * [value]
    with torch.inference_mode():
        result, expected = module(*args), plain(*plain_args)
        assert "layout" in repr(x)
    if isinstance(result, tuple):
        result, expected = result[0], expected[0]
    assert_close(result, expected)
