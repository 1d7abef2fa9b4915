"""Law 5: every value has one owner."""

import gc

import pytest
import torch
from placing import SMALL, assert_equal, cases, every_layout, mesh_of, place

import torch_mesh as tm


@every_layout(2)
def test_law_05_results_do_not_alias_what_they_came_from(mesh_name, placements):
    mesh = mesh_of(mesh_name)
    value = torch.arange(35.0).reshape(7, 5)
    plain = value.clone()
    x = place(plain, mesh, placements)
    copies = {
        "distribute": tm.distribute(plain, mesh, ("R",) * len(mesh.shape)),
        "cpu": x.cpu(),
        "to": x.to("cpu", torch.float32),
        "full": tm.full(x),
        "clone": x.clone(),
        "contiguous": x.t().contiguous(),
        "again": x.to("mesh", copy=True),
        **{
            f"redistribute{target}": tm.redistribute(x, target)
            for _, target in cases(2, (mesh_name,))
        },
    }
    shards = tm.shards(x)
    held = [shard.clone() for shard in shards]
    before = {name: t.cpu().clone() for name, t in copies.items()}
    x.fill_(-1)
    plain.fill_(-2)
    for shard in shards:
        with pytest.raises(RuntimeError, match=r"\[shards-read-only\]"):
            shard.fill_(-3)
    for shard, own in zip(shards, held, strict=True):
        assert_equal(shard, own)
    for name, copied in copies.items():
        assert_equal(copied, before[name])
    for copied in copies.values():
        copied.fill_(-4)
    assert_equal(x, torch.full((7, 5), -1.0))


@every_layout(2, partial=False)
def test_law_05_a_borrowed_tensor_is_copied_before_it_is_written(
    mesh_name, placements
):
    plain = torch.arange(35.0).reshape(7, 5)
    value = plain.clone()
    x = tm.borrow(plain, mesh_of(mesh_name), placements)
    assert_equal(x, value)
    y = tm.redistribute(x, ("R",) * len(placements))
    x[1:].mul_(2)
    x.t()[0].fill_(3)
    assert_equal(plain, value)
    assert_equal(y, value)
    value[1:] *= 2
    value[:, 0] = 3
    assert_equal(x, value)


def test_law_05_a_write_to_a_window_on_a_borrowed_tensor_stays_there(line):
    plain = torch.ones(6, 2)
    x = tm.borrow(plain, line, ("S0",))
    view = x[2:]
    other = x.detach()
    view.fill_(5)
    assert plain.sum() == 12
    assert_equal(other[2:], torch.full((4, 2), 5.0))


@every_layout(2, SMALL)
def test_law_05_replicas_written_in_place_do_not_reach_their_source(
    mesh_name, placements
):
    mesh = mesh_of(mesh_name)
    x = tm.distribute(torch.ones(7, 5), mesh)
    y = tm.redistribute(x, placements)
    z = tm.redistribute(x, ("R",) * len(mesh.shape))
    y.add_(1)
    z.add_(2)
    assert_equal(x, torch.ones(7, 5))
    assert_equal(y, torch.full((7, 5), 2.0))
    assert_equal(z, torch.full((7, 5), 3.0))


def test_law_05_to_the_mesh_is_a_no_op_for_a_global_tensor(mesh):
    x = tm.distribute(torch.ones(4), mesh, ("S0", "R"))
    assert x.to("mesh") is x


def test_law_05_memory_is_freed_with_its_tensor(mesh):
    import psutil

    process = psutil.Process()
    x = tm.distribute(torch.ones(1024, 1024), mesh, ("S0", "R"))
    for _ in range(3):
        y = (x * 2)[5:]
        y.add_(1)
    gc.collect()
    before = process.memory_info().rss
    for _ in range(40):
        y = (x * 2)[5:]
        y.add_(1)
    gc.collect()
    assert process.memory_info().rss - before < 60e6
