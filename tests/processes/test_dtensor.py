"""DTensors in and out, in one process: a group of one, and a fake one."""

import itertools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.testing._internal.distributed.fake_pg import FakeStore

import torch_mesh as tm
from torch_mesh import _C
from torch_mesh.keras import distribution_lib as lib


@pytest.fixture
def one():
    """A process group of one."""
    dist.init_process_group(
        "gloo", store=dist.HashStore(), rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.fixture
def group_of(request):
    """A function that makes a fake group and is process `rank` of it."""

    def make(rank, size):
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group(
            "fake", store=FakeStore(), rank=rank, world_size=size
        )

    yield make
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def mesh():
    return tm.Mesh({"data": 2, "model": 2})


LAYOUTS = [("R", "R"), ("S0", "R"), ("R", "S1"), ("S0", "S1"), ("S0", "S0")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_group_of_one_keeps_value_and_layout(one, mesh, layout):
    whole = torch.arange(35.0).reshape(5, 7)
    x = tm.distribute(whole, mesh, layout)
    d = tm.to_dtensor(x)
    assert isinstance(d, DTensor)
    assert d.device_mesh.mesh_dim_names == ("data", "model")
    assert torch.equal(d.full_tensor(), whole)
    assert torch.equal((d * 2).full_tensor(), whole * 2)
    with tm.use(mesh):
        back = tm.from_dtensor(d)
    assert tm.layout(back) == tm.layout(x)
    assert torch.equal(tm.full(back), whole)


def test_memory_is_shared_where_the_shards_allow(one, mesh):
    x = tm.distribute(torch.zeros(4, 4), mesh)
    d = tm.to_dtensor(x)
    d.to_local()[0, 0] = 5
    assert x[0, 0].item() == 5
    x[1, 1] = 6
    assert d.to_local()[1, 1] == 6
    copy = tm.to_dtensor(x.clone())
    copy.to_local().zero_()
    assert x[0, 0].item() == 5
    # Cut in pieces, the whole is another piece of memory.
    cut = tm.distribute(torch.zeros(4, 4), mesh, ("S0", "R"))
    tm.to_dtensor(cut).to_local()[0, 0] = 5
    assert cut[0, 0].item() == 0
    # The other way it is borrowed: read, and copied at the first write.
    local = d.to_local()
    y = tm.from_dtensor(d, tm.Layout(mesh, ("S0", "R")))
    held = local.untyped_storage().data_ptr()
    from torch_mesh import dtensor

    assert [t.untyped_storage().data_ptr() for t in dtensor._held(y)] == [
        held,
        held,
    ]
    y.add_(1)
    assert local[0, 0] == 5
    assert y[0, 0].item() == 6


def test_a_pending_sum_is_formed(one, mesh):
    x = tm.distribute(torch.ones(4, 4), mesh, ("S0", "R")).sum(0)
    assert tm.layout(x).placements == ("P+", "R")
    d = tm.to_dtensor(x)
    assert d.placements == (Replicate(), Replicate())
    assert d.to_local().tolist() == [4.0] * 4
    device_mesh = init_device_mesh("cpu", (1,))
    partial = DTensor.from_local(torch.ones(3), device_mesh, [Partial()])
    assert tm.full(tm.from_dtensor(partial)).tolist() == [1.0] * 3


def test_both_ways_are_differentiable(one, mesh):
    x = tm.distribute(torch.arange(6.0), mesh, ("S0", "R")).requires_grad_()
    y = tm.from_dtensor(tm.to_dtensor(x * 3) ** 2, mesh, ("R", "S0"))
    assert tm.layout(y).placements == ("R", "S0")
    y.sum().backward()
    assert torch.equal(tm.full(x.grad), 18 * torch.arange(6.0))
    device_mesh = init_device_mesh("cpu", (1,))
    d = distribute_tensor(torch.arange(4.0), device_mesh, [Shard(0)])
    d = d.requires_grad_()
    (tm.from_dtensor(d) ** 2).sum().backward()
    assert d.grad.placements == (Shard(0),)
    assert torch.equal(d.grad.full_tensor(), 2 * torch.arange(4.0))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_process_has_the_shard_that_dtensor_gives_it(
    group_of, mesh, layout, apart
):
    _C.separate_cpu_memories(apart)
    try:
        for rank, shape in itertools.product(
            range(4), [(5, 7), (1, 2), (4, 4)]
        ):
            group_of(rank, 4)
            whole = torch.randn(shape)
            x = tm.distribute(whole, mesh, layout)
            d = tm.to_dtensor(x)
            assert tuple(d.device_mesh.shape) == (2, 2)
            expected = whole
            for axis, place in enumerate(d.placements):
                if place.is_shard():
                    chunks = [*expected.chunk(2, place.dim)]
                    chunks += [expected.narrow(place.dim, 0, 0)] * 2
                    expected = chunks[d.device_mesh.get_coordinate()[axis]]
            assert torch.equal(d.to_local(), expected)
            assert torch.equal(d.to_local(), tm.shards(x)[rank])
    finally:
        _C.separate_cpu_memories(False)


def test_a_shard_that_is_one_memory_is_not_copied(group_of, mesh):
    group_of(2, 4)  # data=1 model=0
    x = tm.distribute(torch.zeros(4, 4), mesh, ("S0", "R"))
    tm.to_dtensor(x).to_local().fill_(1)
    assert tm.full(x).sum(1).tolist() == [0.0, 0.0, 4.0, 4.0]


def test_large_shards_are_found_too(group_of, mesh):
    """Their lanes are computed by teams of threads."""
    group_of(3, 4)
    whole = torch.randn(2048, 1024)
    x = tm.distribute(whole, mesh, ("S0", "S1"))
    assert torch.equal(tm.to_dtensor(x).to_local(), whole[1024:, 512:])


def test_blocks_have_no_counterpart(group_of, mesh):
    group_of(1, 4)
    x = tm.distribute(torch.arange(8.0), mesh, ("S0/2", "R"))
    d = tm.to_dtensor(x)
    assert d.placements == (Replicate(), Replicate())
    assert torch.equal(d.to_local(), torch.arange(8.0))


def test_a_fake_group_is_no_job(group_of, mesh):
    group_of(1, 4)
    assert lib.num_processes() == 1
    x = torch.ones(2)
    assert lib.all_reduce(x) is x
    d = tm.to_dtensor(tm.distribute(torch.ones(4, 4), mesh, ("S0", "R")))
    with pytest.raises(ValueError, match="cannot gather"):
        tm.from_dtensor(d)
    whole = tm.to_dtensor(tm.distribute(torch.ones(4, 4), mesh))
    assert torch.equal(tm.full(tm.from_dtensor(whole)), torch.ones(4, 4))


def test_meshes_that_do_not_fit_say_so(group_of, mesh):
    group_of(0, 3)
    x = tm.distribute(torch.ones(4), mesh)
    with pytest.raises(ValueError, match="dtensor-mesh") as error:
        tm.to_dtensor(x)
    assert "sizes (2, 2) does not fit 3 processes" in str(error.value)
    with pytest.raises(ValueError, match="dtensor-mesh"):
        tm.to_dtensor(x, init_device_mesh("cpu", (3,)))
    with pytest.raises(ValueError, match="not-global"):
        tm.to_dtensor(torch.ones(4))


def test_keras_variables_and_layouts(one, devices=("cpu:0", "cpu:1")):
    import keras
    from keras.distribution import DataParallel, TensorLayout

    distribution = DataParallel(devices=list(devices))
    with distribution.scope():
        v = keras.Variable(torch.arange(4.0))
        d = lib.to_dtensor(v)
        layout = TensorLayout(["batch"], distribution.device_mesh)
        x = lib.from_dtensor(d, layout)
        assert tm.layout(x).placements == ("S0",)
        assert torch.equal(tm.full(x), torch.arange(4.0))
        placed = lib.distribute_tensor(d, layout)
        assert tm.layout(placed).placements == ("S0",)
