"""Attention over jagged nested tensors whose values are on the mesh."""

import pytest
import torch
import torch.nn.functional as F

import torch_mesh as tm

pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors"
)

LAYOUTS = [
    ({"data": 4}, ("R",)),
    ({"data": 4}, ("S0",)),
    ({"data": 3}, ("S1",)),
    ({"data": 2, "model": 2}, ("R", "S1")),
    ({"data": 2, "model": 2}, ("S0", "S1")),
]
HEADS, SIZE = 4, 8


@pytest.fixture
def separate_memories():
    tm._C.separate_cpu_memories(True)
    yield
    tm._C.separate_cpu_memories(False)


def attended(
    place, lengths, of_keys=None, dtype=torch.float64, poison=None, **options
):
    """Values of the attention, then the gradients of queries, keys, values."""
    torch.manual_seed(1)
    of_keys = of_keys or lengths
    given, parts = [], []
    offsets = {
        name: place(torch.tensor([0, *counts]).cumsum(0), None)
        for name, counts in (("q", lengths), ("k", of_keys))
    }
    for name, counts in (("q", lengths), ("k", of_keys), ("k", of_keys)):
        x = torch.randn(sum(counts), HEADS * SIZE, dtype=dtype)
        if poison is not None and name == "k":
            x[0] = poison
        given.append(place(x, "values").requires_grad_())
        parts.append(
            torch.nested.nested_tensor_from_jagged(given[-1], offsets[name])
            .unflatten(-1, [HEADS, SIZE])
            .transpose(1, 2)
        )
    y = F.scaled_dot_product_attention(*parts, **options)
    assert y.layout == torch.jagged
    values = y.transpose(1, 2).flatten(-2).values()
    values.nan_to_num().square().sum().backward()
    return [values.detach(), *(x.grad for x in given)]


def plainly(t, what):
    return t


def on(shape, placements):
    def place(t, what):
        layout = placements if what == "values" else None
        return tm.distribute(t, tm.Mesh(shape), layout)

    return place


PADDED, GATHERED = {"lengths": [3, 2, 5, 4]}, {"lengths": [3, 0, 5, 4]}


@pytest.mark.parametrize(
    "shape, placements, case",
    [(*layout, case) for layout in LAYOUTS for case in (PADDED, GATHERED)]
    + [
        (*LAYOUTS[-1], case)
        for case in (
            {"lengths": [4, 4, 4]},
            {"lengths": [7]},
            {**PADDED, "of_keys": [1, 6, 2, 3]},
            {**PADDED, "scale": 0.3},
            {**PADDED, "dropout_p": 0.3},
            {**PADDED, "poison": float("nan")},
            {**PADDED, "dtype": torch.float32},
        )
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_plain_torch(shape, placements, case):
    compare(shape, placements, case)


@pytest.mark.parametrize("shape, placements", LAYOUTS)
@pytest.mark.parametrize("case", [PADDED, GATHERED], ids=str)
def test_so_are_those_of_separate_memories(
    separate_memories, shape, placements, case
):
    compare(shape, placements, case)


def compare(shape, placements, case):
    expected = attended(plainly, **case)
    actual = attended(on(shape, placements), **case)
    for a, e in zip(actual, expected, strict=True):
        assert a.device.type == "mesh"
        torch.testing.assert_close(a.cpu(), e, equal_nan=True)


def test_heads_stay_cut():
    place = on({"data": 2, "model": 2}, ("R", "S1"))
    with tm.counting() as counts:
        values = attended(place, [3, 2, 5, 4])[0]
    assert str(tm.layout(values)) == "(R, S1)"
    assert not counts.collectives
    assert not counts.replicated_ops


@pytest.mark.parametrize("options", [{}, {"dropout_p": 0.2}])
def test_the_result_has_the_offsets_of_its_queries(options):
    mesh = tm.Mesh({"data": 2})
    offsets = tm.distribute(torch.tensor([0, 3, 8]), mesh)
    x = tm.distribute(torch.randn(8, 2, 4), mesh, ("S0",))
    x = torch.nested.nested_tensor_from_jagged(x, offsets).transpose(1, 2)
    y = F.scaled_dot_product_attention(x, x, x, **options)
    assert y.shape == x.shape  # the same ragged size
    assert y.offsets() is offsets
    assert torch.equal((y + x).values().cpu(), (y.values() + x.values()).cpu())


def test_what_plain_torch_refuses_is_refused_with_its_words():
    with pytest.raises(RuntimeError) as plain:
        attended(plainly, [3, 2], is_causal=True)
    with pytest.raises(RuntimeError) as mesh:
        attended(on({"data": 2}, ("R",)), [3, 2], is_causal=True)
    assert str(plain.value).splitlines()[0] in str(mesh.value)


def test_a_ragged_dim_before_the_sequences_is_a_batch_like_others():
    def run(place):
        torch.manual_seed(1)
        x = place(torch.randn(8, 3, 2, 4), "values").requires_grad_()
        offsets = place(torch.tensor([0, 3, 8]), None)
        nested = torch.nested.nested_tensor_from_jagged(x, offsets)
        y = F.scaled_dot_product_attention(nested, nested, nested).values()
        y.square().sum().backward()
        return y.detach().cpu(), x.grad.cpu()

    actual = run(on({"data": 2}, ("S0",)))
    for a, e in zip(actual, run(plainly), strict=True):
        torch.testing.assert_close(a, e)


def test_under_autocast_it_has_the_dtype_of_plain_torch():
    def run(place, device):
        with torch.autocast(device, dtype=torch.bfloat16):
            return attended(place, [3, 2, 5, 4], dtype=torch.float32)

    expected = run(plainly, "cpu")
    actual = run(on({"data": 2}, ("R",)), "mesh")
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.cpu(), e, rtol=5e-2, atol=5e-2)


def test_plain_nested_tensors_take_the_road_of_torch():
    values = attended(plainly, [3, 2, 5, 4])[0]
    assert values.device.type == "cpu"
