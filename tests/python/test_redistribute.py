"""Redistribution changes where numbers are, not which numbers they are."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placing import assert_equal, place

import torch_mesh as tm
from torch_mesh import _C

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def meshes(draw):
    sizes = draw(
        st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(
            lambda sizes: torch.Size(sizes).numel() <= 12
        )
    )
    return tm.Mesh(dict(zip("abc", sizes, strict=False)))


@st.composite
def moves(draw, num_layouts=2):
    """A mesh, sizes (0 and uneven ones among them) and layouts."""
    mesh = draw(meshes())
    sizes = tuple(draw(st.lists(st.integers(0, 7), min_size=0, max_size=3)))
    choices = ["R", "P+", *(f"S{d}" for d in range(len(sizes)))]
    placement = st.sampled_from(choices)
    placements = st.tuples(*([placement] * len(mesh.shape)))
    layouts = draw(st.tuples(*([placements] * num_layouts)))
    return mesh, sizes, layouts


def numbers(sizes, dtype=torch.float32):
    count = torch.Size(sizes).numel()
    return (torch.arange(count, dtype=dtype) + 1).reshape(sizes)


@pytest.fixture(params=[False, True], ids=["one-memory", "separate-memories"])
def memories(request):
    _C.separate_cpu_memories(request.param)
    yield request.param
    _C.separate_cpu_memories(False)


@SETTINGS
@given(move=moves())
def test_any_layout_to_any_other_gives_back_the_value(memories, move):
    mesh, sizes, (source, target) = move
    value = numbers(sizes)
    x = place(value, mesh, source)
    y = tm.redistribute(x, target)
    assert tm.layout(y).placements == target
    assert_equal(y, value)
    assert_equal(x, value)


@SETTINGS
@given(move=moves(num_layouts=3))
def test_a_detour_gives_back_the_value(memories, move):
    mesh, sizes, (first, second, third) = move
    value = numbers(sizes, torch.int64)
    x = place(value, mesh, first)
    y = tm.redistribute(tm.redistribute(x, second), third)
    assert_equal(y, value)


@SETTINGS
@given(move=moves(num_layouts=1))
def test_shards_have_the_shapes_of_the_layout_and_add_up(memories, move):
    mesh, sizes, (placements,) = move
    layout = tm.Layout(mesh, placements)
    x = tm.distribute(numbers(sizes), layout)
    parts = tm.shards(x)
    assert len(parts) == mesh.size
    for number, part in enumerate(parts):
        assert tuple(part.shape) == layout.shard_shape(sizes, number)
    coordinates = list(itertools.product(*(range(n) for n in mesh.shape)))
    # Devices at coordinate 0 of all axes but the sharded ones hold each
    # element once.
    held = sum(
        part.numel()
        for part, coordinate in zip(parts, coordinates, strict=True)
        if all(
            c == 0 or p.startswith("S")
            for c, p in zip(coordinate, placements, strict=True)
        )
    )
    assert held == torch.Size(sizes).numel()


@SETTINGS
@given(move=moves(num_layouts=1))
def test_from_shards_undoes_shards(memories, move):
    mesh, sizes, (placements,) = move
    value = numbers(sizes)
    x = place(value, mesh, placements)
    y = tm.from_shards(tm.shards(x), mesh, placements)
    assert_equal(y, value)


@SETTINGS
@given(move=moves())
def test_the_gradient_of_a_redistribution_is_the_cotangent(memories, move):
    mesh, sizes, (source, target) = move
    x = place(numbers(sizes), mesh, source).requires_grad_()
    cotangent = numbers(sizes) * 3
    tm.redistribute(x, target).backward(tm.distribute(cotangent, mesh))
    assert_equal(x.grad, cotangent)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shards_are_the_chunks_of_torch(count):
    mesh = tm.Mesh({"data": count})
    value = torch.randn(7, 2)
    parts = tm.shards(tm.distribute(value, mesh, ("S0",)))
    chunks = torch.chunk(value, count)
    for part, chunk in itertools.zip_longest(parts, chunks):
        assert_equal(part, value[:0] if chunk is None else chunk)


def test_the_earlier_axis_is_the_major_one(mesh):
    value = torch.arange(8.0)
    parts = tm.shards(tm.distribute(value, mesh, ("S0", "S0")))
    assert [p.tolist() for p in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_partial_sum_over_separate_memories_takes_a_real_all_reduce(
    separate_memories,
):
    mesh = tm.Mesh({"data": 4})
    parts = [torch.full((3,), float(10**i)) for i in range(4)]
    x = tm.from_shards(parts, mesh, ("P+",))
    assert [s[0].item() for s in tm.shards(x)] == [1, 10, 100, 1000]
    with tm.counting() as counts:
        y = tm.redistribute(x, ("R",))
    assert counts["all_reduce@data"] == 1
    assert_equal(y, torch.full((3,), 1111.0))


def test_bytes_of_an_all_gather_are_those_that_each_device_lacks():
    mesh = tm.Mesh({"data": 4})
    x = tm.distribute(torch.randn(8, 4), mesh, ("S0",))
    with tm.counting() as counts:
        tm.redistribute(x, ("R",))
    assert counts.collectives == {"all_gather@data": 1}
    assert counts.bytes == {"all_gather@data": 6 * 4 * 4}


def test_cutting_a_replica_moves_nothing(mesh):
    x = tm.distribute(torch.randn(8, 4), mesh)
    with tm.counting() as counts:
        tm.redistribute(x, ("S0", "S1"))
    assert counts.bytes_per_axis() in ({}, {"data": 0, "model": 0})


def test_several_partials_are_reduced_in_one_bucket(line, separate_memories):
    values = [torch.randn(n) for n in (3, 5, 7)]
    tensors = [place(v, line, ("P+",)) for v in values]
    with tm.counting() as counts:
        tm.reduce_partials([*tensors, torch.ones(2)])
    assert counts.collectives == {"all_reduce@data": 1}
    for tensor, value in zip(tensors, values, strict=True):
        assert tm.layout(tensor).placements == ("R",)
        assert_equal(tensor, value)


def test_a_layout_that_does_not_fit_is_refused(line):
    x = tm.distribute(torch.randn(4), line)
    with pytest.raises(ValueError, match="layout-dim"):
        tm.redistribute(x, ("S1",))
    with pytest.raises(ValueError):
        tm.Layout(line, ("S0", "R"))
    with pytest.raises(ValueError, match="not-global"):
        tm.redistribute(torch.ones(2), tm.Layout(line, ("R",)))


def test_a_tensor_moves_to_another_mesh(line, mesh):
    value = torch.randn(5, 4)
    x = tm.distribute(value, line, ("S0",))
    y = tm.redistribute(x, tm.Layout(mesh, ("S1", "S0")))
    assert tm.layout(y).mesh == mesh
    assert_equal(y, value)


def test_arguments_of_another_kind_are_named(mesh):
    x = tm.distribute(torch.ones(4), mesh)
    for wrong in (lambda: tm.redistribute(x, None), lambda: tm.Layout(mesh, 3)):
        with pytest.raises(TypeError, match="argument-type"):
            wrong()
    with pytest.raises(TypeError, match=r"from_shards.*NoneType"):
        tm.from_shards(None, mesh)
    for placements in (("R", "R"), tm.layout(x)):
        with pytest.raises(ValueError, match="redistribute: the tensor is on"):
            tm.redistribute(torch.ones(4), placements)
    with pytest.raises(ValueError, match="op-name"):
        tm.register_rule("f", "x -> x")
    halves = tm.map_shards(lambda t: t / 2, x, out=tm.layout(x))
    assert halves.tolist() == [0.5] * 4
