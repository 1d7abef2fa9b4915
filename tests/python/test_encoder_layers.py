"""Encoder layers and attention in eval, where torch takes its fast path."""

import copy

import pytest
import torch
from torch import nn

import torch_mesh as tm

BATCH, LENGTH, WIDTH, HEADS = 4, 5, 8, 2
PADDING = torch.tensor([[False] * 3 + [True] * 2, [False] * 5] * 2)
LATER = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


def on_mesh(module, mesh):
    with tm.use(mesh):
        return copy.deepcopy(module).to("mesh")


def assert_stays_cut(module, args, masks, ragged=True):
    """A sharded batch gives plain torch's values where no row is padding."""
    mesh = tm.Mesh({"data": 2})
    placed = {
        name: tm.distribute(mask, mesh, ("S0" if mask is PADDING else "R",))
        for name, mask in masks.items()
        if isinstance(mask, torch.Tensor)
    }
    there = on_mesh(module, mesh)
    x = tm.distribute(args[0], mesh, ("S0",))
    with torch.no_grad():
        want = module(*args, **masks)
        with tm.counting() as counts:
            got = there(*[x] * len(args), **(masks | placed))
    assert not counts.collectives
    assert counts.replicated_ops == {}
    want, got = (r if isinstance(r, tuple) else (r,) for r in (want, got))
    for w, g in zip(want, got, strict=True):
        if w is None:
            assert g is None
            continue
        assert tm.layout(g).placements == ("S0",)
        w, g = w.clone(), tm.full(g)
        if ragged and w.shape == args[0].shape:
            w[PADDING], g[PADDING] = 0, 0
        torch.testing.assert_close(g, w)


@pytest.fixture
def x():
    return torch.randn(BATCH, LENGTH, WIDTH)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("checks", [True, False])
def test_an_encoder_with_a_padding_mask_stays_cut(x, checks):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=checks)
    assert_stays_cut(encoder.eval(), (x,), {"src_key_padding_mask": PADDING})


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"src_mask": LATER},
        {"src_key_padding_mask": PADDING},
        {"src_mask": LATER, "src_key_padding_mask": PADDING},
    ],
    ids=["none", "of queries", "of padding", "both"],
)
def test_a_layer_in_eval_stays_cut(x, masks, norm_first):
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 16, batch_first=True, norm_first=norm_first
    )
    assert_stays_cut(layer.eval(), (x,), masks)


@pytest.mark.parametrize(
    "weights",
    [
        {"need_weights": False},
        {"need_weights": True},
        {"need_weights": True, "average_attn_weights": False},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": LATER},
        {"key_padding_mask": PADDING},
        {"attn_mask": LATER, "key_padding_mask": PADDING},
    ],
    ids=["none", "of queries", "of padding", "both"],
)
def test_attention_in_eval_stays_cut(x, masks, weights):
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    assert_stays_cut(attention.eval(), (x, x, x), masks | weights, ragged=False)


def test_more_devices_than_rows(x):
    mesh = tm.Mesh({"data": 4})
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    few = x[:3]
    with torch.no_grad():
        want = layer.eval()(few)
        got = on_mesh(layer, mesh)(tm.distribute(few, mesh, ("S0",)))
    torch.testing.assert_close(tm.full(got), want)
