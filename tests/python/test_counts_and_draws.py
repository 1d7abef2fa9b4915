"""Histograms, counts, comparisons, draws and losses of sequences: each device
does its part, and nothing is computed on replicas."""

import pytest
import torch
from placing import assert_close, assert_equal, mesh_of, place
from torch.nn import functional as F

import torch_mesh as tm

LAYOUTS = [
    *(("2", (p,)) for p in ("S0", "S1")),
    ("3", ("S0",)),
    *(("2x2", pair) for pair in (("S0", "S1"), ("S0", "S0"), ("R", "S1"))),
]
every_cut = pytest.mark.parametrize("mesh_name, placements", LAYOUTS)
NUMBERS = torch.tensor([5, 0, 2, 2, 1, 5, 3])


def value():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(2))


COUNTS = {
    "histc": lambda x: torch.histc(x, 5, -1, 1),
    "histc of all": lambda x: torch.histc(x, 5),
    "histc of one value": lambda x: torch.histc(x * 0 + 2, 4),
    "equal": lambda x: torch.tensor(torch.equal(x, x + 0)),
    "not equal": lambda x: torch.tensor(torch.equal(x, x + (x > 1))),
    "sizes differ": lambda x: torch.tensor(torch.equal(x, x[1:])),
    "not a number": lambda x: torch.tensor(torch.equal(x / 0 * 0, x / 0 * 0)),
    "randn_like": torch.randn_like,
    "rand_like": lambda x: torch.rand_like(x.t(), dtype=torch.float64),
    "randint_like": lambda x: torch.randint_like(x, -3, 9),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli of a transpose": lambda x: torch.bernoulli(x.sigmoid().t()),
    "bernoulli of doubles": lambda x: torch.bernoulli(x.double().sigmoid()),
    "bernoulli of halves": lambda x: torch.bernoulli(x.sigmoid().bfloat16()),
    "bernoulli of many halves": lambda x: torch.bernoulli(
        x.sigmoid().half().repeat(40, 40)
    ),
    "bernoulli of one p": lambda x: torch.bernoulli(x, 0.3),
    "multinomial": lambda x: torch.multinomial(x.softmax(1), 2),
    "multinomial of one": lambda x: torch.multinomial(x.softmax(1), 1),
}


@every_cut
@pytest.mark.parametrize("name", COUNTS)
def test_a_result_is_that_of_plain_torch(name, mesh_name, placements):
    mesh = mesh_of(mesh_name)
    torch.manual_seed(7)
    expected = COUNTS[name](value())
    after = torch.rand(3)
    x = tm.distribute(value(), mesh, placements)
    torch.manual_seed(7)
    with tm.counting() as counts:
        actual = COUNTS[name](x)
    assert_equal(actual, expected)
    assert_equal(torch.rand(3), after)
    assert actual.stride() == expected.stride()
    assert counts.replicated_ops == {}


@every_cut
def test_a_draw_is_cut_as_what_it_is_like(mesh_name, placements):
    x = tm.distribute(value(), mesh_of(mesh_name), placements)
    with tm.counting() as counts:
        drawn = torch.randn_like(x), torch.bernoulli(x, 0.5)
    assert counts.collectives == {}
    for tensor in drawn:
        assert tm.layout(tensor).placements == placements


@pytest.mark.parametrize("mesh_name", ["2", "3", "2x2"])
@pytest.mark.parametrize(
    "weights", [None, torch.float32, torch.float64, torch.int64]
)
@pytest.mark.parametrize("minlength", [0, 9])
def test_numbers_are_counted_where_they_are(mesh_name, weights, minlength):
    mesh = mesh_of(mesh_name)
    cut = ("S0",) * len(mesh.shape)
    values = weights and torch.arange(1, 8).to(weights)
    expected = torch.bincount(NUMBERS, values, minlength)
    with tm.counting() as counts:
        actual = torch.bincount(
            tm.distribute(NUMBERS, mesh, cut),
            weights and tm.distribute(values, mesh, cut),
            minlength,
        )
    assert counts.replicated_ops == {}
    assert_equal(actual, expected)


MISTAKES = {
    "negative numbers": lambda x: torch.bincount(x.long() - 9),
    "histc to infinity": lambda x: torch.histc(x / 0),
    "histc backwards": lambda x: torch.histc(x, 4, 2, 1),
    "no chance": lambda x: torch.bernoulli(x + 9),
    "no chances": lambda x: torch.multinomial(x * 0, 1),
    "negative chances": lambda x: torch.multinomial(-x.abs() - 1, 1),
    "too many": lambda x: torch.multinomial(x.abs() + 1, 9),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_plain_torchs_error(name):
    mistake = MISTAKES[name]
    x = value()[:, 0].contiguous()
    with pytest.raises(RuntimeError) as expected:
        mistake(x)
    with pytest.raises(type(expected.value)) as raised:
        mistake(tm.distribute(x, tm.Mesh({"data": 2}), ("S0",)))
    first = str(expected.value).splitlines()[0].replace("-nan", "nan")
    assert first in str(raised.value).replace("-nan", "nan")


@pytest.mark.parametrize("cut", ["R", "S0"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_histograms_of_integers_are_those_of_accelerators(cut, dtype):
    # torch's kernel for the CPU takes floats only, so programs hand it those.
    numbers = torch.arange(40) * 7 % 16
    x = tm.distribute(numbers.to(dtype), tm.Mesh({"data": 4}), (cut,))
    for bins, low, high in ((16, 0, 15), (5, 0, 16), (7, 3, 12), (4, 0, 0)):
        expected = torch.histc(numbers.double(), bins, low, high)
        actual = torch.histc(x, bins, low, high)
        assert_equal(actual, expected.to(dtype))
        assert_equal(actual.cumsum(0), expected.to(dtype).cumsum(0))


LENGTHS = [7, 6, 7, 5, 7], [3, 2, 1, 3, 4]


@pytest.mark.parametrize(
    "placements", [("S1", "R"), ("S1", "S1"), ("S0", "S2")]
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", ["lists", "tensors", "concatenated"])
def test_a_loss_of_sequences_is_that_of_plain_torch(
    kind, reduction, placements
):
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(7, 5, 6, generator=generator)
    targets = torch.randint(1, 6, (5, 4), generator=generator)
    lengths = LENGTHS if kind == "lists" else list(map(torch.tensor, LENGTHS))
    if kind == "concatenated":
        pairs = zip(targets, LENGTHS[1], strict=True)
        targets = torch.cat([row[:length] for row, length in pairs])

    def loss(x, targets):
        return F.ctc_loss(
            x.log_softmax(2), targets, *lengths, reduction=reduction
        )

    mesh = mesh_of("2x2")
    x = values.clone().requires_grad_()
    y = tm.distribute(values, mesh, placements).requires_grad_()
    target_cut = ("S0", "R") if kind != "concatenated" else ("R", "R")
    expected = loss(x, targets)
    with tm.counting() as counts:
        actual = loss(y, tm.distribute(targets, mesh, target_cut))
        (actual**2).sum().backward()
    (expected**2).sum().backward()
    assert counts.replicated_ops == {}
    assert_close(actual, expected.detach())
    assert_close(y.grad, x.grad)


@every_cut
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16]
)
def test_weight_norm_is_that_of_plain_torch(dim, dtype, mesh_name, placements):
    v = value().to(dtype)
    g = torch.rand((6, 1) if dim == 0 else (1, 4)).to(dtype)
    mesh = mesh_of(mesh_name)
    leaves = [
        (v.clone(), g.clone()),
        (
            tm.distribute(v, mesh, placements),
            tm.distribute(g, mesh, ("R",) * len(mesh.shape)),
        ),
    ]
    results = []
    with tm.counting() as counts:
        for pair in leaves:
            for leaf in pair:
                leaf.requires_grad_()
            w = torch._weight_norm(*pair, dim)
            (w.float() ** 3).sum().backward()
            results.append([w.detach(), pair[0].grad, pair[1].grad])
    assert counts.replicated_ops == {}
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for a, e in zip(results[1], results[0], strict=True):
        assert_close(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "first, second",
    [("R", "S1"), ("R", "S2"), ("S1", "R"), ("S0", "R"), ("R", "S0")],
)
def test_groups_of_rows_meet_their_matrices(first, second):
    x = torch.randn(9, 8)
    w = torch.randn(4, 8, 12)
    ends = torch.tensor([2, 2, 7, 9], dtype=torch.int32)
    mesh = tm.Mesh({"data": 2, "model": 2})
    results = []
    with tm.use(mesh), tm.counting() as counts:
        for a, b in (
            (x.clone(), w.clone()),
            (
                tm.distribute(x, mesh, (first, "R")),
                tm.distribute(w, mesh, ("R", second)),
            ),
        ):
            a.requires_grad_()
            b.requires_grad_()
            y = F.grouped_mm(a, b, offs=ends.to(a.device))
            (y**2).sum().backward()
            results.append([y.detach(), a.grad, b.grad])
    assert counts.replicated_ops == {}
    for a, e in zip(results[1], results[0], strict=True):
        assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_a_sum_of_pending_counts_is_reduced_once():
    x = place(torch.arange(8.0), tm.Mesh({"data": 2}), ("S0",))
    counts = torch.histc(x, 4, 0, 8)
    assert str(tm.layout(counts)) == "(P+)"
    assert_equal(counts * 2, torch.full((4,), 4.0))
