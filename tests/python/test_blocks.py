"""Large tensors are read and written in pieces; bytes are counted."""

import pathlib
import sys

import pytest
import torch

import torch_mesh as tm
from torch_mesh import blocks

MESH = tm.Mesh({"data": 2, "model": 3})

LAYOUTS = [
    ("R", "R"),
    ("S0", "R"),
    ("R", "S1"),
    ("S1", "S0"),
    ("S0", "S0"),
    ("R", "S2"),
]
SIZES = [(7, 5, 3), (4, 1, 6), (1, 9, 4), (3, 0, 4)]


@pytest.fixture(params=[False, True], ids=["one memory", "separate"])
def mesh(request):
    tm._C.separate_cpu_memories(request.param)
    yield tm.Mesh({"data": 2, "model": 3})
    tm._C.separate_cpu_memories(False)


def ranges(numel):
    ends = sorted({0, 1, 2, 5, 16, 17, numel // 2, numel - 1, numel})
    ends = [e for e in ends if 0 <= e <= numel]
    return [(a, b) for a in ends for b in ends if a <= b]


@pytest.mark.parametrize("placements", LAYOUTS, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_block_is_read_in_row_major_order(mesh, placements, sizes):
    plain = torch.randn(sizes)
    x = tm.distribute(plain, mesh, placements)
    for start, end in ranges(plain.numel()):
        block = blocks.read_block(x, start, end - start)
        assert torch.equal(block, plain.reshape(-1)[start:end]), (start, end)


@pytest.mark.parametrize("placements", LAYOUTS, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_block_is_written_to_every_replica(mesh, placements, sizes):
    for start, end in ranges(torch.Size(sizes).numel()):
        plain = torch.randn(sizes)
        x = tm.distribute(plain, mesh, placements)
        values = torch.randn(end - start)
        blocks.write_block(x, start, values)
        plain.reshape(-1)[start:end] = values
        assert torch.equal(tm.full(x), plain), (start, end)
        expected = tm.shards(tm.distribute(plain, mesh, placements))
        for shard, other in zip(tm.shards(x), expected, strict=True):
            assert torch.equal(shard, other)
        assert tm.layout(x).placements == placements


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8, torch.bool])
def test_values_are_cast_to_the_dtype(dtype):
    x = blocks.zeros(tm.Layout(MESH, ("S0", "R")), (6, 4), dtype)
    assert torch.equal(tm.full(x), torch.zeros(6, 4, dtype=dtype))
    blocks.write_block(x, 5, torch.ones(3))
    assert x.dtype == dtype
    assert tm.full(x).sum() == 3


def test_a_scalar_is_one_element():
    x = tm.distribute(torch.tensor(3.0), MESH, ("R", "R"))
    assert blocks.read_block(x, 0, 1).tolist() == [3.0]
    blocks.write_block(x, 0, torch.tensor([4.0]))
    assert x.item() == 4.0


def test_a_pending_sum_is_reduced_before_it_is_read():
    a = tm.distribute(torch.ones(4, 6), MESH, ("S1", "R"))
    b = tm.distribute(torch.ones(6, 2), MESH, ("S0", "R"))
    product = a @ b
    assert tm.layout(product).placements[0] == "P+"
    assert blocks.read_block(product, 2, 3).tolist() == [6.0, 6.0, 6.0]
    product = a @ b
    blocks.write_block(product, 0, torch.zeros(2))
    assert tm.full(product)[:2].tolist() == [[0.0, 0.0], [6.0, 6.0]]


def test_views_read_and_write_their_base():
    plain = torch.arange(24.0).reshape(4, 6)
    for view in (lambda t: t[1:, 2], lambda t: t.t(), lambda t: t[2]):
        expected = plain.clone()
        x = tm.distribute(plain, MESH, ("S0", "S1"))
        part = view(x)
        flat = view(expected).reshape(-1)
        assert torch.equal(blocks.read_block(part, 1, 2), flat[1:3])
        blocks.write_block(part, 1, torch.tensor([-1.0, -2.0]))
        written = view(expected).clone().reshape(-1)
        written[1:3] = torch.tensor([-1.0, -2.0])
        view(expected).copy_(written.reshape(view(expected).shape))
        assert torch.equal(tm.full(x), expected)


def test_a_borrowed_batch_is_copied_before_it_is_written():
    batch = torch.zeros(6, 2)
    x = tm.borrow(batch, MESH, ("S0", "R"))
    blocks.write_block(x, 0, torch.ones(5))
    assert batch.sum() == 0
    assert tm.full(x).sum() == 5


def test_autograd_sees_the_write():
    w = tm.distribute(torch.ones(3, 3), MESH, ("S0", "R")).requires_grad_()
    loss = (w * w).sum()
    with torch.no_grad():
        blocks.write_block(w, 0, torch.zeros(2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_block_outside_is_an_error():
    x = tm.distribute(torch.ones(4), MESH, ("R", "R"))
    with pytest.raises(ValueError, match="block-range"):
        blocks.read_block(x, 3, 2)
    with pytest.raises(ValueError, match="block-range"):
        blocks.write_block(x, -1, torch.ones(1))
    with pytest.raises(ValueError, match="not-global"):
        blocks.read_block(torch.ones(4), 0, 1)


@pytest.mark.parametrize("sizes", [(), (5,), (2, 3, 4), (1, 1, 50), (3, 0)])
@pytest.mark.parametrize("most", [1, 4, 6, 100])
def test_pieces_name_runs_of_elements(sizes, most):
    plain = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
    found = []
    for index, start, count in blocks.pieces(sizes, most):
        part = plain[index].reshape(-1).tolist()
        assert part == list(range(start, start + count))
        assert count <= most or count <= 1
        found += part
    assert found == list(range(plain.numel()))


# Bytes per device


def test_each_device_is_counted_for_what_it_holds():
    with tm.memory() as memory:
        x = tm.distribute(torch.ones(7, 3), MESH, ("S0", "R"))
        assert memory.now == {
            **{f"cpu:{i}": 4 * 3 * 4 for i in (0, 1, 2)},
            **{f"cpu:{i}": 3 * 3 * 4 for i in (3, 4, 5)},
        }
        y = x + 1
        del x
        assert memory.now["cpu:0"] == 48
        assert memory.peak["cpu:0"] == 96
        del y
        assert set(memory.now.values()) == {0}
    assert memory.peak["cpu:5"] == 72
    tm.distribute(torch.ones(100), MESH, ("R", "R"))
    assert memory.peak["cpu:5"] == 72


def test_what_was_there_before_is_not_counted():
    x = tm.distribute(torch.ones(8), MESH, ("R", "R"))
    with tm.memory() as outer:
        y = x * 2
        with tm.memory() as inner:
            del x
            z = y[:4] + 1
        del y
    assert inner.peak["cpu:0"] == 16
    assert outer.now["cpu:0"] == 16
    assert outer.peak["cpu:0"] == 48
    del z


def test_unwritten_memory_weighs_nothing_until_it_is_read():
    with tm.use(MESH), tm.memory() as memory:
        x = torch.empty(6, device="mesh")
        assert memory.now == {}
        x.fill_(1)
        assert memory.now["cpu:3"] == 24


# Plain memory to shards, as load_state_dict copies it


@pytest.mark.parametrize("placements", LAYOUTS[:5], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_plain_memory_is_copied_block_by_block(mesh, placements, dtype):
    torch.manual_seed(0)
    plain = torch.randn(2051, 2063)  # 17 MB: a block and a part of one
    x = tm.distribute(torch.zeros(plain.shape, dtype=dtype), mesh, placements)
    layout, version = tm.layout(x), x._version
    with tm.counting() as counts, tm.memory() as memory:
        assert x.copy_(plain) is x
    assert not counts.replicated_ops
    assert memory.peak == {}  # no copy beside the shards
    assert tm.layout(x) == layout
    assert x._version == version + 1
    expected = tm.shards(tm.distribute(plain.to(dtype), mesh, placements))
    for shard, other in zip(tm.shards(x), expected, strict=True):
        assert torch.equal(shard, other)


def test_a_large_copy_into_a_part_or_of_turned_memory():
    plain = torch.randn(600, 700)
    for make in (
        lambda x: x,
        lambda x: x[:, 1:],
        lambda x: x[1::2],
        lambda x: x.t(),
    ):
        x = tm.distribute(torch.zeros(1300, 1400), MESH, ("S0", "S1"))
        other = torch.zeros(1300, 1400)
        part, expected = make(x), make(other)
        source = torch.randn(expected.shape)
        part.copy_(source)
        expected.copy_(source)
        part.copy_(source.t().contiguous().t())
        assert torch.equal(tm.full(x), other)
    leaf = tm.distribute(plain, MESH, ("S0", "R")).requires_grad_()
    with pytest.raises(RuntimeError, match="leaf"):
        leaf.copy_(plain)
    y = leaf * 2
    given = torch.randn(600, 700, requires_grad=True)
    y.copy_(given)
    y.sum().backward()
    assert torch.equal(given.grad, torch.ones(600, 700))
    assert torch.equal(tm.full(leaf.grad), torch.zeros(600, 700))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its pages")
def test_what_was_copied_from_a_mapped_file_leaves_memory(tmp_path):
    def pages_of_files():
        (line,) = (
            li
            for li in pathlib.Path("/proc/self/status").read_text().splitlines()
            if li.startswith("RssFile")
        )
        return 1024 * int(line.split()[1])

    torch.save({"w": torch.randn(4096, 2048)}, tmp_path / "a.pt")  # 32 MiB
    loaded = torch.load(tmp_path / "a.pt", mmap=True)["w"]
    loaded[5] = 7  # a page of our own, which must not be lost
    expected = loaded.clone()
    before = pages_of_files()
    loaded.sum()
    x = tm.distribute(torch.zeros(4096, 2048), MESH, ("S0", "R"))
    x.copy_(loaded)
    assert pages_of_files() < before + 2**23
    assert torch.equal(loaded, expected)
    assert torch.equal(tm.full(x), expected)
