"""What the counters say of bytes is what devices read in other memories.

The counters add up what the plans say; the bytes that move are counted where
one device reads another's memory.
"""

import pytest
import torch
from placing import assert_ran_as_counted

import torch_mesh as tm
from torch_mesh import _C

# Memory of each device of data=2 model=2.
MEMORIES = {
    "one for all": [0, 0, 0, 0],
    "one for two": [0, 0, 1, 1],
    "one for each": [0, 1, 2, 3],
}


def mesh_of(memories, **axes):
    _C.set_memories_for_testing(list(memories))
    mesh = tm.Mesh(axes)
    _C.set_memories_for_testing([])
    return mesh


@pytest.fixture(params=MEMORIES)
def memories(request):
    return MEMORIES[request.param]


@pytest.fixture
def mesh(memories):
    return mesh_of(memories, data=2, model=2)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(10, 6)
        self.up = torch.nn.Linear(6, 12)
        self.norm = torch.nn.BatchNorm1d(12)
        self.down = torch.nn.Linear(12, 3)

    def forward(self, words):
        x = self.words(words).sum(1)
        x = torch.nn.functional.dropout(self.norm(self.up(x)).relu(), 0.2)
        return self.down(x)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW]
)
def test_of_a_training_step_with_clipping(mesh, memories, optimizer, foreach):
    torch.manual_seed(0)
    net = tm.parallelize(
        Net(), mesh, {"up.weight": ("R", "S0"), "down.weight": ("R", "S1")}
    )
    steps = optimizer(net.parameters(), lr=0.01, foreach=foreach)
    words = tm.distribute(torch.randint(10, (8, 5)), mesh, ("S0", "R"))
    wanted = tm.distribute(torch.randn(8, 3), mesh, ("S0", "R"))
    for _ in range(2):
        with tm.counting() as counts:
            loss = (net(words) - wanted).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            steps.step()
            steps.zero_grad()
            loss.item()
        assert_ran_as_counted(counts, mesh)
        assert counts.collectives
        assert bool(counts.moved) == (len(set(memories)) > 1)


UNEVEN = (5, 7)
LAYOUTS = [
    (a, b) for a in ("R", "S0", "S1", "P+") for b in ("R", "S0", "S1", "P+")
]


@pytest.mark.parametrize("to", LAYOUTS, ids=str)
@pytest.mark.parametrize("source", LAYOUTS, ids=str)
def test_of_redistributions_of_uneven_sizes(mesh, source, to):
    x = tm.redistribute(
        tm.distribute(torch.randn(UNEVEN), mesh, ("R", "R")), source
    )
    with tm.counting() as counts:
        tm.redistribute(x, to)
    assert_ran_as_counted(counts, mesh)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum(),
        lambda x: x.sum(0).relu(),
        lambda x: x @ x.t(),
        lambda x: x.softmax(0),
        lambda x: x.cumsum(0),
        lambda x: x[3],
        lambda x: x[:, 2].add_(1),
        lambda x: x[2:4].mul_(2),
        lambda x: x.view(-1).add(1),
        lambda x: x.cpu(),
        lambda x: x.sort(0),
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: repr(x),
        lambda x: torch.cat([x, x.t().reshape(8, 6)]),
    ],
    ids=range(15),
)
def test_of_single_calls(mesh, call):
    x = tm.distribute(torch.randn(8, 6), mesh, ("S0", "S1"))
    with tm.counting() as counts:
        call(x)
    assert_ran_as_counted(counts, mesh)


def test_five_sums_in_four_memories_are_one_flat_reduction():
    mesh = mesh_of([0, 1, 2, 3], data=4)
    sizes = [(3,), (4, 2), (), (5, 1, 2), (1,)]
    values = [torch.randint(9, size).float() for size in sizes]
    sums = [tm.from_shards([v] * 4, mesh, ("P+",)) for v in values]
    with tm.counting() as counts:
        tm.reduce_partials(sums)
    assert counts.collectives == {"all_reduce@data": 1}
    assert_ran_as_counted(counts, mesh)
    # 23 elements in chunks of 6, 6, 6 and 5: 3 of its own, and the others'.
    assert counts.moved["cpu:0"] == 4 * (3 * 6 + 23 - 6)
    for total, value in zip(sums, values, strict=True):
        assert tm.layout(total).placements == ("R",)
        assert torch.equal(total.cpu(), 4 * value)


EIGHT_SUMS = [(7, 5), (3,), (), (1,), (0, 4), (16,), (2, 3), (9,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sums_over_two_axes_are_scattered_and_gathered(mesh, memories, dtype):
    values = [torch.randint(9, size).to(dtype) for size in EIGHT_SUMS]
    sums = [tm.from_shards([v] * 4, mesh, ("P+", "P+")) for v in values]
    with tm.counting() as counts:
        tm.reduce_partials(sums)
    assert counts.collectives == {
        "reduce_scatter@data": 1,
        "all_reduce@model": 1,
        "all_gather@data": 1,
    }
    # 71 elements: halves of 36 and 35, and halves of 36 of 18.
    size = values[0].itemsize
    assert counts.bytes == {
        "reduce_scatter@data": 36 * size,
        "all_reduce@model": (18 + 18) * size,
        "all_gather@data": 36 * size,
    }
    assert_ran_as_counted(counts, mesh)
    if len(set(memories)) == 4:
        assert counts.moved["cpu:0"] == (36 + 36 + 35) * size
        assert counts.moved["cpu:3"] == (35 + (17 + 18) + 36) * size
    for total, value in zip(sums, values, strict=True):
        assert tm.layout(total).placements == ("R", "R")
        assert torch.equal(total.cpu(), 4 * value)


def test_a_sum_over_8_x_8_brings_an_eighth_to_the_second_axis():
    mesh = mesh_of(range(64), data=8, model=8)
    x = tm.from_shards([torch.ones(64, 8)] * 64, mesh, ("P+", "P+"))
    with tm.counting() as counts:
        y = tm.redistribute(x, ("R", "R"))
    assert counts.bytes == {
        "reduce_scatter@data": 7 * 64 * 4,
        "all_reduce@model": 14 * 8 * 4,
        "all_gather@data": 7 * 64 * 4,
    }
    assert counts.moved == {
        f"cpu:{i}": 14 * 64 * 4 + 14 * 8 * 4 for i in range(64)
    }
    assert_ran_as_counted(counts, mesh)
    assert torch.equal(y.cpu(), torch.full((64, 8), 64.0))


def test_a_number_is_summed_along_one_axis_after_the_other():
    mesh = mesh_of(range(4), data=2, model=2)
    x = tm.from_shards([torch.ones(())] * 4, mesh, ("P+", "P+"))
    with tm.counting() as counts:
        assert x.item() == 4
    assert counts.bytes == {"all_reduce@data": 4, "all_reduce@model": 4}
    assert_ran_as_counted(counts, mesh)


def test_sums_of_two_dtypes_do_not_travel_together():
    mesh = mesh_of([0, 1], data=2)
    sums = [
        tm.from_shards([torch.ones(3, dtype=dtype)] * 2, mesh, ("P+",))
        for dtype in (torch.float32, torch.float64, torch.float32)
    ]
    with tm.counting() as counts:
        tm.reduce_partials(sums)
    assert counts.collectives == {"all_reduce@data": 2}
    assert all(torch.equal(x.cpu(), torch.full_like(x.cpu(), 2)) for x in sums)


@pytest.mark.parametrize(
    "read", [tm.full, lambda x: tm.redistribute(x, ("R",))]
)
def test_a_sum_that_is_read_whole_is_formed_once(read):
    mesh = mesh_of([0, 1, 2, 3], data=4)
    x = tm.from_shards([torch.ones(8)] * 4, mesh, ("P+",))
    with tm.counting() as counts:
        read(x)
    assert counts.collectives == {"all_reduce@data": 1}
    assert counts.moved == {f"cpu:{i}": 2 * 3 * 2 * 4 for i in range(4)}
    with tm.counting() as again:
        read(x)
    assert again.moved == {}
