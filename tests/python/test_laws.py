"""The laws of ARCHITECTURE.md. Each has tests named after its number."""

import copy
import gc
import io
import subprocess
import sys
import threading

import pytest
import torch
from placing import (
    MESHES,
    assert_close,
    assert_equal,
    cases,
    mesh_of,
    name_of,
    place,
)
from torch import nn

import torch_mesh as tm

SMALL = ("2", "3", "2x2")


def every_layout(num_dims, meshes=tuple(MESHES), partial=True):
    return pytest.mark.parametrize(
        "mesh_name, placements",
        cases(num_dims, meshes, partial),
        ids=name_of,
    )


def run_program(program, **env):
    """Runs a program in a new process; its output, or an AssertionError."""
    import os

    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- law 1: any aten op works under any layout --------------------------------

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
        torch.histc(x)
    assert counts.replicated_ops == {"aten::histc": 1}


# --- law 2: values do not depend on the layout --------------------------------


def random_program(x):
    """Draws of all kinds, with shuffles in between."""
    device = x.device
    return [
        torch.randn(x.shape, device=device),
        torch.randperm(11, device=device),
        torch.rand_like(x),
        nn.functional.dropout(x, 0.3, training=True),
        torch.randperm(7),
        torch.empty_like(x).uniform_(-2, 3),
        torch.empty_like(x).normal_(1, 2),
        torch.randint(0, 9, (3, 5), device=device),
        torch.bernoulli(torch.full_like(x, 0.4)),
        torch.rand(5, 7, device=device),
        torch.empty_like(x).exponential_(),
        torch.multinomial(x.detach().abs() + 0.1, 2),
        nn.functional.alpha_dropout(x, 0.3, training=True),
        torch.randn(3),
    ]


@pytest.mark.parametrize("sizes", [(5, 4), (17, 3)], ids=str)
@every_layout(2)
def test_law_02_random_bits_are_those_of_the_plain_program(
    mesh_name, placements, sizes
):
    value = torch.arange(1.0, 1 + sizes[0] * sizes[1]).reshape(sizes)
    mesh = mesh_of(mesh_name)
    x = place(value, mesh, placements)
    torch.manual_seed(7)
    expected = random_program(value)
    with tm.use(mesh):
        torch.manual_seed(7)
        actual = random_program(x)
    for a, e in zip(actual, expected, strict=True):
        assert_equal(a, e)


@every_layout(2, SMALL, partial=False)
def test_law_02_filling_a_sharded_tensor_in_place_draws_for_the_whole(
    mesh_name, placements
):
    draws = [
        lambda t: t.uniform_(),
        lambda t: t.normal_(),
        lambda t: t.bernoulli_(0.5),
        lambda t: t.random_(0, 100),
        lambda t: t[1:].uniform_(),
        lambda t: t.t().normal_(),
    ]
    x = tm.distribute(torch.zeros(7, 5), mesh_of(mesh_name), placements)
    plain = torch.zeros(7, 5)
    for draw in draws:
        torch.manual_seed(3)
        draw(plain)
        torch.manual_seed(3)
        draw(x)
        assert_equal(x, plain)
        assert tm.layout(x).placements == placements


def test_law_02_a_generator_of_ones_own_gives_the_plain_bits(mesh):
    plain = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    x = tm.distribute(torch.zeros(6, 4), mesh, ("S0", "S1"))
    x.normal_(generator=torch.Generator().manual_seed(5))
    assert_equal(x, plain)


@every_layout(2)
def test_law_02_integer_sums_are_bitwise_equal(mesh_name, placements):
    value = torch.arange(35).reshape(7, 5) ** 3
    x = place(value, mesh_of(mesh_name), placements)
    for f in (
        lambda t: t.sum(),
        lambda t: t.sum(0),
        lambda t: t.cumsum(1),
        lambda t: t.prod(1),
        lambda t: t.max(0).values,
        lambda t: t.argmax(1),
        lambda t: t * 3 - t // 2,
        lambda t: t.sort(1, descending=True).indices,
    ):
        assert_equal(f(x), f(value))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@every_layout(2, SMALL)
def test_law_02_mean_losses_have_the_plain_value_and_gradient(
    mesh_name, placements, reduction
):
    functional = nn.functional
    value, target = torch.rand(7, 5), torch.rand(7, 5)
    for loss in (
        functional.mse_loss,
        functional.l1_loss,
        functional.smooth_l1_loss,
        functional.huber_loss,
        functional.binary_cross_entropy,
        functional.binary_cross_entropy_with_logits,
        functional.soft_margin_loss,
        functional.kl_div,
    ):
        plain = value.clone().requires_grad_()
        expected = loss(plain, target, reduction=reduction)
        expected.sum().backward()
        x = place(value, mesh_of(mesh_name), placements).requires_grad_()
        actual = loss(x, target, reduction=reduction)
        actual.sum().backward()
        assert_close(actual.detach(), expected.detach())
        assert_close(x.grad, plain.grad)


# --- law 3: no write is lost --------------------------------------------------

MASK = torch.arange(35).reshape(7, 5) % 3 == 0

WRITES = {
    "select": lambda t: t[3].fill_(7),
    "select_column": lambda t: t[:, 2].mul_(3),
    "slice": lambda t: t[2:6].mul_(3),
    "slice_step": lambda t: t[1::2].add_(1),
    "slice_columns": lambda t: t[:, 1:4].sub_(5),
    "transposed": lambda t: t.t().mul_(torch.arange(7.0)),
    "transposed_row": lambda t: t.t()[1].zero_(),
    "view": lambda t: t.view(35)[3:30].mul_(2),
    "reshape": lambda t: t.reshape(5, 7)[1:3].fill_(4),
    "flatten": lambda t: t.flatten()[::4].fill_(-1),
    "unflatten": lambda t: t.view(35).view(7, 1, 5)[:, 0, 3].fill_(9),
    "diagonal": lambda t: t.diagonal().fill_(7),
    "fill_diagonal": lambda t: t.fill_diagonal_(8),
    "mask": lambda t: t.__setitem__(MASK, 3.0),
    "masked_fill": lambda t: t.masked_fill_(MASK, -2.0),
    "masked_scatter": lambda t: t.masked_scatter_(MASK, torch.arange(35.0)),
    "index": lambda t: t.__setitem__(
        torch.tensor([4, 0]), torch.tensor([[1.0], [2.0]])
    ),
    "index_pairs": lambda t: t.__setitem__(
        (torch.tensor([4, 0, 6]), torch.tensor([1, 1, 4])), 9.0
    ),
    "index_add": lambda t: t.index_add_(
        0, torch.tensor([1, 1, 6]), torch.ones(3, 5)
    ),
    "index_copy": lambda t: t.index_copy_(
        1, torch.tensor([4, 0]), torch.arange(14.0).view(7, 2)
    ),
    "scatter": lambda t: t.scatter_(
        1, torch.tensor([[0, 4], [1, 2]]), torch.tensor([[1.0, 2], [3, 4]])
    ),
    "chained": lambda t: t[1:][:, 1:].t()[2].view(6)[::2].fill_(5),
    "chained_select": lambda t: t[1:6].select(0, 2).narrow(0, 1, 3).mul_(-1),
    "unsqueeze": lambda t: t.unsqueeze(1)[:, 0, 1:].add_(2),
    "expand_back": lambda t: t[:1].squeeze(0).fill_(6),
    "split": lambda t: t.split(3)[1].mul_(10),
    "unbind": lambda t: t.unbind(1)[4].fill_(0.5),
    "movedim": lambda t: t.movedim(0, 1)[3:].fill_(1.5),
    "as_strided": lambda t: t.as_strided((3, 2), (10, 2), 6).fill_(1.25),
    "copy": lambda t: t[2:4].copy_(torch.arange(10.0).view(2, 5)),
    "copy_transposed": lambda t: t.t()[1:3].copy_(torch.arange(7.0)),
    "setitem": lambda t: t.__setitem__((slice(1, 3), 2), 8.0),
    "data": lambda t: t.data[4:].mul_(2),
    "detach": lambda t: t.detach()[:, 0].fill_(2),
    "out": lambda t: torch.mul(torch.arange(5.0), torch.arange(5.0), out=t[3]),
    "whole": lambda t: t.mul_(2).add_(1),
    "nothing": lambda t: t[7:].fill_(3),
    "swap": lambda t: t[:3].copy_(t[4:].clone()),
}


@pytest.mark.parametrize("write", WRITES)
@every_layout(2)
def test_law_03_no_write_is_lost(mesh_name, placements, write):
    value = torch.arange(35.0).reshape(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    expected = value.clone()
    WRITES[write](expected)
    WRITES[write](x)
    assert_equal(x, expected)
    for p, q in zip(tm.layout(x).placements, placements, strict=True):
        assert p == q or q == "P+"


@every_layout(2, SMALL)
def test_law_03_a_view_made_before_a_write_to_its_base_shows_it(
    mesh_name, placements
):
    value = torch.arange(35.0).reshape(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    expected = value.clone()
    views = {
        "row": lambda t: t[3],
        "part": lambda t: t[2:5, 1:],
        "flat": lambda t: t.view(35)[4:20],
        "diagonal": lambda t: t.diagonal(),
        "transposed": lambda t: t.t()[1:],
    }
    mine = {name: view(x) for name, view in views.items()}
    plain = {name: view(expected) for name, view in views.items()}
    for write in ("whole", "select", "slice_columns", "mask"):
        WRITES[write](x)
        WRITES[write](expected)
        for name in views:
            assert_equal(mine[name], plain[name])
    # And a write through one shows in the others.
    mine["row"].fill_(-5)
    plain["row"].fill_(-5)
    mine["flat"].mul_(2)
    plain["flat"].mul_(2)
    for name in views:
        assert_equal(mine[name], plain[name])
    assert_equal(x, expected)


@every_layout(2, SMALL)
def test_law_03_writes_count_versions_as_plain_torch_does(
    mesh_name, placements
):
    x = place(torch.zeros(7, 5), mesh_of(mesh_name), placements)
    plain = torch.zeros(7, 5)
    for tensor in (x, plain):
        view = tensor[2:]
        view.add_(1)
        tensor.mul_(2)
        tensor.t()[0].fill_(1)
        tensor.sum()
    assert x._version == plain._version
    assert x[1]._version == plain[1]._version


@every_layout(2, SMALL)
def test_law_03_a_write_to_a_saved_tensor_is_noticed(mesh_name, placements):
    x = place(torch.ones(7, 5), mesh_of(mesh_name), placements)
    x.requires_grad_()
    y = x * 2
    z = y * y
    y[3].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@every_layout(2, SMALL)
def test_law_03_out_keeps_identity_and_placement(mesh_name, placements):
    value = torch.randn(7, 5)
    mesh = mesh_of(mesh_name)
    x = place(value, mesh, placements)
    for target in cases(2, (mesh_name,), partial=False):
        out = tm.distribute(torch.zeros(7, 5), mesh, target[1])
        result = torch.exp(x, out=out)
        assert result is out
        assert tm.layout(out).placements == target[1]
        assert_close(out, value.exp())


# --- law 4: state lives in the storage ----------------------------------------


def test_law_04_a_view_of_a_partial_stays_partial(line):
    value = torch.randn(4, 6)
    x = place(value, line, ("P+",))
    for view in (
        lambda t: t.t(),
        lambda t: t[1:3],
        lambda t: t.view(24),
        lambda t: t.detach(),
        lambda t: t.unsqueeze(0),
    ):
        y = view(x)
        assert tm.layout(y).placements == ("P+",)
    assert tm.layout(x).placements == ("P+",)
    assert_equal(x.t(), value.t())


@pytest.mark.parametrize("separate", [False, True])
def test_law_04_a_partial_is_reduced_once_for_all_who_hold_it(line, separate):
    tm._C.separate_memories_for_testing(separate)
    x = place(torch.randn(4, 6), line, ("P+",))
    holders = [x.t(), x.detach(), x.data, x[1:]]
    with tm.counting() as counts:
        x.relu()
        for tensor in [x, *holders]:
            tensor.exp()
    assert counts.collectives == {"all_reduce@data": 1}
    assert tm.layout(holders[0]).placements == ("R",)


@every_layout(2)
def test_law_04_data_and_detach_share_with_their_tensor(mesh_name, placements):
    mesh = mesh_of(mesh_name)
    x = place(torch.zeros(5, 4), mesh, placements).requires_grad_()
    with torch.no_grad():
        x.data[1:].fill_(3)
        x.detach()[:, 0].fill_(4)
    expected = torch.zeros(5, 4)
    expected[1:] = 3
    expected[:, 0] = 4
    assert_equal(x.detach(), expected)
    # A new `.data` takes the place of the old.
    x.data = place(torch.ones(5, 4), mesh, placements)
    assert_equal(x.detach(), torch.ones(5, 4))


def test_law_04_aliases_are_known_to_torch(mesh):
    x = tm.distribute(torch.zeros(4, 4), mesh, ("S0", "S1"))
    assert x._is_view() is False
    assert x[1]._base is x
    assert torch._C._is_alias_of(x, x.t())
    assert torch._C._is_alias_of(x, x.detach()[2])
    assert not torch._C._is_alias_of(x, x.clone())
    assert x.untyped_storage().data_ptr() == x[1].untyped_storage().data_ptr()
    other = tm.distribute(torch.zeros(4, 4), mesh)
    assert x.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()


# --- law 5: every value has one owner -----------------------------------------


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
    before = {name: t.cpu().clone() for name, t in copies.items()}
    x.fill_(-1)
    plain.fill_(-2)
    for shard in shards:
        shard.fill_(-3)
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


# --- law 6: unwritten memory has no layout ------------------------------------


@every_layout(2)
def test_law_06_empty_memory_takes_the_layout_that_is_copied_into_it(
    mesh_name, placements
):
    mesh = mesh_of(mesh_name)
    value = torch.randn(7, 5)
    source = place(value, mesh, placements)
    with tm.use(mesh), tm.counting() as counts:
        made = [
            torch.empty(7, 5, device="mesh").copy_(source),
            source.new_empty(7, 5).copy_(source),
            source.new_empty_strided((7, 5), (5, 1)).copy_(source),
            torch.empty_like(source).copy_(source),
        ]
    assert counts.collectives == {}
    for tensor in made:
        assert tm.layout(tensor).placements == placements
        assert_equal(tensor, value)


@every_layout(2, SMALL, partial=False)
def test_law_06_out_into_empty_memory_takes_the_results_layout(
    mesh_name, placements
):
    mesh = mesh_of(mesh_name)
    value = torch.randn(7, 5)
    x = tm.distribute(value, mesh, placements)
    with tm.use(mesh):
        out = torch.empty(7, 5, device="mesh")
    torch.neg(x, out=out)
    assert tm.layout(out).placements == tm.layout(-x).placements
    assert_equal(out, -value)


@every_layout(2, SMALL)
def test_law_06_a_partial_write_to_empty_memory_is_kept(mesh_name, placements):
    mesh = mesh_of(mesh_name)
    source = place(torch.ones(7, 5), mesh, placements)
    x = torch.empty_like(source)
    x[2:].fill_(3)
    x[:2].fill_(4)
    expected = torch.full((7, 5), 3.0)
    expected[:2] = 4
    assert_equal(x, expected)


@every_layout(2)
def test_law_06_gradients_pass_through_empty_memory(mesh_name, placements):
    value = torch.randn(7, 5)
    results = []
    for x in (value.clone(), place(value, mesh_of(mesh_name), placements)):
        x.requires_grad_()
        y = x * 2
        y[2:].mul_(3)
        (y.exp().sum() + y.sum()).backward()
        results.append((y.detach(), x.grad))
    for a, e in zip(results[1], results[0], strict=True):
        assert_close(a, e)


def test_law_06_accumulating_a_partial_gradient_reduces_nothing(line):
    x = tm.distribute(torch.randn(6, 4), line, ("S0",))
    w = tm.distribute(torch.randn(4, 2), line).requires_grad_()
    with tm.counting() as counts:
        (x @ w).backward(tm.distribute(torch.ones(6, 2), line, ("S0",)))
    assert counts.collectives == {}
    assert tm.layout(w.grad).placements == ("P+",)
    assert_close(w.grad, tm.full(x).t() @ torch.ones(6, 2))


# --- law 7: as_strided, resize_, set_ -----------------------------------------


@every_layout(2)
def test_law_07_as_strided_addresses_the_storage_as_plain_torch(
    mesh_name, placements
):
    value = torch.arange(35.0).reshape(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    plain = value.clone()
    for base_view in (lambda t: t, lambda t: t[2:], lambda t: t.t()[1:]):
        for sizes, strides, offset in (
            ((3, 2), (5, 2), 6),
            ((35,), (1,), 0),
            ((4, 4), (5, 1), 0),
            ((2, 3, 2), (10, 3, 1), 4),
            ((5, 7), (1, 5), 0),
            ((3, 3), (1, 1), 7),
            ((3,), (0,), 11),
        ):
            a = base_view(x).as_strided(sizes, strides, offset)
            e = base_view(plain).as_strided(sizes, strides, offset)
            assert a.stride() == e.stride()
            assert a.storage_offset() == e.storage_offset()
            assert_equal(a, e)
    x[1:].as_strided((2, 2), (5, 1)).fill_(-1)
    plain[1:].as_strided((2, 2), (5, 1)).fill_(-1)
    assert_equal(x, plain)


@every_layout(3)
def test_law_07_views_have_plain_strides_and_offsets(mesh_name, placements):
    value = torch.arange(140.0).reshape(7, 4, 5)
    x = place(value, mesh_of(mesh_name), placements)
    for view in (
        lambda t: t[2],
        lambda t: t[1:, 2],
        lambda t: t.transpose(0, 2)[1:],
        lambda t: t.permute(2, 0, 1),
        lambda t: t.view(28, 5)[3:],
        lambda t: t[..., 1:3].transpose(1, 2),
        lambda t: t.diagonal(0, 1, 2),
        lambda t: t.unfold(0, 3, 2),
        lambda t: t.expand(2, 7, 4, 5)[1],
        lambda t: t.squeeze(0).unsqueeze(1),
        lambda t: t.contiguous(),
        lambda t: t.transpose(0, 1).clone(),
        lambda t: t.transpose(0, 1) * 2,
    ):
        a, e = view(x), view(value)
        assert a.shape == e.shape
        assert a.stride() == e.stride()
        assert a.storage_offset() == e.storage_offset()
        assert_equal(a, e)


@every_layout(2, SMALL)
def test_law_07_in_place_changes_of_shape(mesh_name, placements):
    value = torch.arange(20.0).reshape(5, 4)
    for change in (
        lambda t: t.t_(),
        lambda t: t.transpose_(0, 1),
        lambda t: t.unsqueeze_(1),
        lambda t: t.unsqueeze_(0).squeeze_(0),
        lambda t: t.swapdims_(0, 1),
        lambda t: t.resize_(2, 3),
        lambda t: t.resize_(4, 5),
        lambda t: t.resize_as_(torch.empty(10, 2)),
        lambda t: t.as_strided_((2, 2), (4, 1), 1),
    ):
        x = place(value, mesh_of(mesh_name), placements)
        plain = value.clone()
        assert change(x) is x
        change(plain)
        assert x.shape == plain.shape
        assert x.stride() == plain.stride()
        assert_equal(x, plain)
        assert_equal(x * 2, plain * 2)


@every_layout(2, SMALL)
@pytest.mark.filterwarnings("ignore:An output with one or more elements")
def test_law_07_out_is_resized(mesh_name, placements):
    mesh = mesh_of(mesh_name)
    value = torch.randn(5, 4)
    x = place(value, mesh, placements)
    for sizes in ((0,), (3,), (9, 9)):
        out = tm.distribute(torch.zeros(sizes), mesh)
        result = torch.exp(x, out=out)
        assert result is out
        assert out.shape == (5, 4)
        assert_close(out, value.exp())


@every_layout(2, SMALL)
def test_law_07_views_of_another_dtype_are_right_or_refused(
    mesh_name, placements
):
    value = torch.arange(20, dtype=torch.int32).reshape(5, 4)
    x = place(value, mesh_of(mesh_name), placements)
    try:
        actual = x.view(torch.int16)
    except (RuntimeError, NotImplementedError) as error:
        assert "view" in str(error)
        return
    assert_equal(actual, value.view(torch.int16))


def test_law_07_set_takes_the_storage_of_another(mesh):
    x = tm.distribute(torch.zeros(3), mesh)
    y = tm.distribute(torch.arange(8.0), mesh, ("S0", "R"))
    x.set_(y)
    assert_equal(x, torch.arange(8.0))
    y.add_(1)
    assert_equal(x, torch.arange(1.0, 9))


# --- law 8: partial means sum -------------------------------------------------


@pytest.mark.parametrize("separate", [False, True])
def test_law_08_sums_of_bfloat16_are_rounded_once(separate):
    tm._C.separate_memories_for_testing(separate)
    mesh = tm.Mesh({"data": 4})
    parts = [torch.tensor([v], dtype=torch.bfloat16) for v in (256, 1, 1, 1)]
    x = tm.from_shards(parts, mesh, ("P+",))
    # In bfloat16, 256 + 1 is 256.
    assert tm.full(x).item() == 260
    assert tm.full(tm.redistribute(x, ("R",))).dtype == torch.bfloat16


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.int64, torch.complex64]
)
def test_law_08_replicated_to_partial_and_back_keeps_the_bits(dtype, separate):
    tm._C.separate_memories_for_testing(separate)
    mesh = tm.Mesh({"data": 3})
    value = torch.tensor([0.0, -0.0, 1.0, -2.0]).to(dtype)
    x = tm.redistribute(tm.distribute(value, mesh), ("P+",))
    y = tm.full(tm.redistribute(x, ("R",)))
    assert_equal(y, value)
    if dtype.is_floating_point:
        assert torch.equal(y.signbit(), value.signbit())


@pytest.mark.parametrize("separate", [False, True])
def test_law_08_ops_of_a_partial_that_are_not_linear_see_the_sum(separate):
    tm._C.separate_memories_for_testing(separate)
    mesh = tm.Mesh({"data": 3})
    parts = [torch.tensor([2.5, -1.0]), torch.tensor([-4.0, 2.5])]
    parts.append(torch.tensor([0.75, -0.75]))
    value = sum(parts)
    mask = torch.tensor([True, False])
    other = torch.tensor([1.0, 2.0])
    for f in (
        torch.relu,
        torch.exp,
        torch.abs,
        lambda t: t + 1,
        lambda t: 1 - t,
        lambda t: t + other,
        lambda t: t * t,
        lambda t: t * 3,
        lambda t: t / 4,
        lambda t: 4 / t,
        lambda t: t**2,
        lambda t: -t,
        lambda t: t + t,
        lambda t: t.sum(),
        lambda t: t.mean(),
        lambda t: t.max(),
        lambda t: t.norm(),
        lambda t: t.to(torch.int64),
        lambda t: t.to(torch.bool),
        lambda t: t.to(torch.float64),
        lambda t: t > 0,
        lambda t: torch.where(mask, t, other),
        lambda t: torch.where(mask, t, 7.0),
        lambda t: t.masked_fill(mask, 3.0),
        lambda t: t.masked_fill(mask, 0.0),
        lambda t: torch.zeros_like(t),
        lambda t: torch.full_like(t, 3),
        lambda t: torch.ones_like(t),
        lambda t: torch.cat([t, other]),
        lambda t: torch.stack([t, t]),
        lambda t: t.add(other, alpha=2),
        lambda t: torch.lerp(t, other, 0.25),
        lambda t: torch.addcmul(t, other, other),
        lambda t: torch.addcmul(other, t, t),
        lambda t: nn.functional.pad(t, (1, 1), value=2.0),
        lambda t: nn.functional.softmax(t, 0),
        lambda t: t.cumsum(0),
        lambda t: t.clamp(-1, 1),
        lambda t: t.add_(1),
        lambda t: t.fill_(2),
        lambda t: t.mul_(2),
        lambda t: t.zero_(),
        lambda t: t.copy_(other),
        lambda t: t.index_fill(0, torch.tensor([1]), 3.0),
        lambda t: t @ other,
        lambda t: torch.outer(t, t),
        lambda t: torch.addmv(t, torch.eye(2), other),
        lambda t: nn.functional.linear(other, torch.eye(2), t),
    ):
        x = tm.from_shards(parts, mesh, ("P+",))
        assert_close(f(x), f(value.clone()), rtol=0, atol=1e-6)


def test_law_08_linear_ops_carry_a_partial_on(line):
    x = place(torch.randn(4, 6), line, ("P+",))
    y = place(torch.randn(4, 6), line, ("P+",))
    whole = tm.distribute(torch.randn(6, 2), line)
    with tm.counting() as counts:
        for result in (
            x * 3,
            -x,
            x + y,
            x.sum(0),
            x @ whole,
            x.t(),
            x.view(24),
            x.to(torch.float64),
            torch.cat([x, y]),
        ):
            assert tm.layout(result).placements == ("P+",)
    assert counts.collectives == {}


# --- law 9: what a plan depends on --------------------------------------------


def plans_of(f):
    with tm.counting() as counts:
        f()
    return counts.plans_made


def test_law_09_numbers_and_offsets_make_no_new_plan(mesh):
    x = tm.distribute(torch.randn(16, 4), mesh, ("R", "S1"))
    i = torch.tensor(1.0)
    for f in (
        lambda n: x.mul(0.1 * n),
        lambda n: x.add(x, alpha=0.5 + n),
        lambda n: x.narrow(0, n, 2),
        lambda n: x.select(0, n),
        lambda n: x[n : n + 3],
        lambda n: x.mul_(1 + 0.1 * n),
        lambda n: x.clamp(min=0.1 * n),
        lambda n: x * (i * n),
    ):
        f(1)
        assert plans_of(lambda f=f: [f(n) for n in range(2, 9)]) == 0


def test_law_09_a_changed_learning_rate_makes_no_new_plan(mesh):
    model = nn.Linear(4, 3)
    with tm.use(mesh):
        model.to("mesh")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = tm.distribute(torch.randn(8, 4), mesh, ("S0", "R"))

    def step():
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        step()
    optimizer.param_groups[0]["lr"] = 0.025
    assert plans_of(step) == 0


def test_law_09_what_a_plan_depends_on_makes_a_new_one(mesh):
    x = tm.distribute(torch.randn(16, 4), mesh, ("S0", "R"))
    x.sum(0)
    for f in (
        lambda: x.sum(1),
        lambda: x.sum(0, keepdim=True),
        lambda: x.sum(0, dtype=torch.float64),
        lambda: x[:8].clone().sum(0),
        lambda: x.double().sum(0),
        lambda: tm.redistribute(x, ("R", "S1")).sum(0),
    ):
        assert plans_of(f) >= 1
    # The same call again: none.
    assert plans_of(lambda: x.sum(1)) == 0


def test_law_09_kinds_of_numbers_are_told_apart(mesh):
    x = tm.distribute(torch.arange(6), mesh, ("S0", "R"))
    plain = torch.arange(6)
    for _ in range(2):
        for number in (2, 2.0, True, 2 + 0j, torch.tensor(2.0)):
            assert_equal(x * number, plain * number)
    torch.set_default_dtype(torch.float64)
    assert_equal(x * 2.0, plain * 2.0)
    assert (x * 2.0).dtype == torch.float64


# --- law 10: local ops run in a clean state -----------------------------------


@pytest.mark.parametrize("device", ["cpu", "mesh"])
def test_law_10_autocast_casts_above_the_mesh(mesh, device):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(4, 4), mesh, ("R", "S1"))
    with torch.autocast(device, dtype=torch.bfloat16):
        y = x @ w
        z = nn.functional.layer_norm(x, (4,))
    assert y.dtype == torch.bfloat16
    assert_close(y, tm.full(x).bfloat16() @ tm.full(w).bfloat16())
    assert z.dtype == torch.float32


def test_law_10_autocast_does_not_reach_local_ops(mesh):
    """A kernel of this op multiplies matrices, which autocast would cast."""
    x = tm.distribute(torch.randn(4, 8), mesh, ("S0", "R"))
    w = tm.distribute(torch.randn(3, 8, 8), mesh, ("R", "R"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = nn.functional.bilinear(x, x, w)
    full = tm.full(x)
    assert_close(y, nn.functional.bilinear(full, full, tm.full(w)))


def test_law_10_the_default_dtype_is_the_callers(mesh):
    x = tm.distribute(torch.arange(6), mesh, ("S0", "R"))
    assert (x / 2).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    assert (x / 2).dtype == torch.float64
    with tm.use(mesh):
        assert torch.ones(3, device="mesh").dtype == torch.float64


def test_law_10_the_number_of_threads_stays_the_callers(mesh):
    before = torch.get_num_threads()
    x = tm.distribute(torch.randn(512, 512), mesh, ("S0", "S1"))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        x.requires_grad_()
        (x @ x).exp().sum().backward()
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def test_law_10_inference_mode_and_no_grad_hold(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R")).requires_grad_()
    with torch.no_grad():
        assert not (x * 2).requires_grad
    with torch.inference_mode():
        y = x * 2
        assert y.is_inference()
        y[1:].mul_(3)
        assert_equal(y[1:], tm.full(x)[1:] * 2 * 3)


def test_law_10_python_modes_do_not_see_local_ops(mesh):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen = []
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R"))
    with Record():
        x.exp()
    assert seen == ["aten.exp.default"]


# --- law 11: order ------------------------------------------------------------


def test_law_11_threads_get_right_results(mesh):
    value = torch.randn(12, 12)
    layouts = [("S0", "R"), ("R", "S1"), ("S0", "S1"), ("P+", "R")]
    errors = []

    def work(number):
        try:
            placements = layouts[number % len(layouts)]
            for _ in range(30):
                x = place(value, mesh, placements).requires_grad_()
                (x @ x).relu().sum().backward()
                plain = value.clone().requires_grad_()
                (plain @ plain).relu().sum().backward()
                assert_close(x.grad, plain.grad)
                x.data[1:].mul_(number)
                assert_equal(x.detach()[1:], value[1:] * number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def test_law_11_threads_may_reduce_one_partial_together(separate_memories):
    mesh = tm.Mesh({"data": 3})
    value = torch.randn(64)

    def read(x, results):
        results.append(tm.full(x.exp()))

    for _ in range(10):
        x = place(value, mesh, ("P+",))
        results = []
        threads = [
            threading.Thread(target=read, args=(x, results)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 4
        for result in results:
            assert_close(result, value.exp())


@pytest.fixture(scope="module")
def python_op():
    """An op of torch.library whose kernel is Python."""

    @torch.library.custom_op("mesh_laws::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(lambda x: torch.empty_like(x))
    twice.register_autograd(lambda ctx, grad: grad * 2)
    return twice


@every_layout(2, SMALL)
def test_law_11_an_op_with_a_python_kernel_runs(
    mesh_name, placements, python_op
):
    value = torch.randn(7, 5)
    x = place(value, mesh_of(mesh_name), placements).requires_grad_()
    y = python_op(x)
    assert_equal(y.detach(), value * 2)
    y.sum().backward()
    assert_equal(x.grad, torch.full((7, 5), 2.0))


def test_law_11_an_op_of_ones_own_shards_by_its_rule(mesh, python_op):
    tm.register_rule("mesh_laws::twice", "a b -> a b")
    x = tm.distribute(torch.randn(8, 4), mesh, ("S0", "S1"))
    with tm.counting() as counts:
        y = python_op(x)
    assert tm.layout(y).placements == ("S0", "S1")
    assert counts.collectives == {}
    assert counts.replicated_ops == {}


# --- law 12: meshes -----------------------------------------------------------


def test_law_12_two_meshes_live_at_once(mesh, line):
    a = tm.distribute(torch.ones(6), mesh, ("S0", "R"))
    b = tm.distribute(torch.ones(6), line, ("S0",))
    for _ in range(2):
        a, b = a * 2, b * 3
    assert tm.layout(a).mesh == mesh
    assert tm.layout(b).mesh == line
    assert_equal(a, torch.full((6,), 4.0))
    assert_equal(b, torch.full((6,), 9.0))


def test_law_12_mixing_meshes_says_so(mesh, line):
    a = tm.distribute(torch.ones(6), mesh, ("S0", "R"))
    b = tm.distribute(torch.ones(6), line, ("S0",))
    for f in (lambda: a + b, lambda: torch.cat([a, b]), lambda: a.add_(b)):
        with pytest.raises((ValueError, RuntimeError)) as error:
            f()
        assert "[mixed-meshes]" in str(error.value)
        assert str(mesh).removeprefix("Mesh(").rstrip(")") in str(error.value)
    moved = tm.redistribute(b, tm.Layout(mesh, ("R", "R")))
    assert_equal(a + moved, torch.full((6,), 2.0))


def test_law_12_equal_meshes_are_one():
    a = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    b = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    assert tm.layout(a + b).placements == ("S0",)
    assert tm.Mesh({"data": 2}) == tm.Mesh({"data": 2})
    assert tm.Mesh({"data": 2}) != tm.Mesh({"model": 2})


def test_law_12_a_tensor_without_a_mesh_takes_its_partners(mesh):
    made = torch.ones(4, device="mesh")
    assert tm.layout(made).mesh.axes == {}
    x = tm.distribute(torch.ones(4), mesh, ("S0", "R"))
    for y in (made + x, x + made, x.mul(made), torch.where(x > 0, made, x)):
        assert tm.layout(y).mesh == mesh
    x.add_(made)
    assert_equal(x, torch.full((4,), 2.0))


def test_law_12_use_sets_the_mesh_of_new_tensors(mesh, line):
    assert tm.current_mesh() is None
    with tm.use(mesh):
        assert tm.current_mesh() == mesh
        assert tm.layout(torch.zeros(3, device="mesh")).mesh == mesh
        with tm.use(line):
            assert tm.layout(torch.zeros(3).to("mesh")).mesh == line
        assert tm.layout(torch.zeros(3, device="mesh")).mesh == mesh
    assert tm.current_mesh() is None
    tm.use(line)
    assert tm.current_mesh() == line


def test_law_12_the_backward_pass_sees_the_mesh_in_force(mesh):
    class Make(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            made = torch.ones(4, device="mesh")
            seen.append(tm.layout(made).mesh)
            return grad * made

    seen = []
    with tm.use(mesh):
        x = torch.ones(4, device="mesh", requires_grad=True)
        Make.apply(x).sum().backward()
    assert seen == [mesh]


# --- law 13: plain tensors ----------------------------------------------------


@every_layout(2)
def test_law_13_plain_tensors_count_as_replicated(mesh_name, placements):
    value, plain = torch.randn(6, 4), torch.randn(6, 4)
    x = place(value, mesh_of(mesh_name), placements)
    row, index = torch.randn(4), torch.tensor([3, 0, 5])
    for f in (
        lambda t: t + plain,
        lambda t: plain + t,
        lambda t: t * row,
        lambda t: t @ plain.t(),
        lambda t: plain.t() @ t,
        lambda t: torch.cat([t, plain]),
        lambda t: torch.where(plain > 0, t, plain),
        lambda t: t[index],
        lambda t: t[plain > 0],
        lambda t: nn.functional.mse_loss(t, plain),
        lambda t: t + torch.tensor(3.0),
        lambda t: t.clone().add_(plain),
        lambda t: torch.addmm(row, t, plain[:4]),
        lambda t: nn.functional.linear(t, plain, torch.ones(6)),
        lambda t: nn.functional.embedding(index, t),
        lambda t: t.index_select(0, index),
        lambda t: torch.stack([plain, t]),
    ):
        actual = f(x)
        assert tm.is_global(actual)
        assert_close(actual, f(value))


def test_law_13_a_gradient_arrives_where_the_plain_tensor_is(mesh):
    plain = torch.randn(4, requires_grad=True)
    x = tm.distribute(plain, mesh, ("S0", "R"))
    (x * 3).sum().backward()
    assert plain.grad.device.type == "cpu"
    assert_equal(plain.grad, torch.full((4,), 3.0))


def test_law_13_a_plain_number_costs_nothing(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "S1"))
    with tm.counting() as counts:
        y = x * torch.tensor(2.0) + torch.tensor(1)
    assert counts.collectives == {}
    assert tm.layout(y).placements == ("S0", "S1")


@every_layout(1)
def test_law_13_asking_for_a_value_gives_the_global_one(mesh_name, placements):
    value = torch.arange(1.0, 6.0)
    x = place(value, mesh_of(mesh_name), placements)
    assert x.sum().item() == 15
    assert x.tolist() == value.tolist()
    assert float(x[3]) == 4
    assert bool((x > 0).all())
    assert len(x) == 5
    assert_equal(x.cpu(), value)
    assert (x.cpu().numpy() == value.numpy()).all()
    assert "4." in repr(x)
    assert f"layout={tm.layout(x)}" in repr(x)
    assert x.to("cpu", torch.float64).dtype == torch.float64
    assert [float(v) for v in x] == value.tolist()


def test_law_13_a_global_tensor_may_be_copied_into_a_plain_one(mesh):
    plain = torch.zeros(4, 4)
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "S1"))
    plain.copy_(x)
    assert_equal(plain, tm.full(x))
    plain[1:].copy_(x[1:] * 2)
    assert_equal(plain[1:], tm.full(x)[1:] * 2)


# --- law 14: collectives come from ops ----------------------------------------


def test_law_14_asking_about_a_tensor_starts_no_collective(mesh):
    x = place(torch.randn(4, 4), mesh, ("S0", "P+"))
    with tm.counting() as counts:
        _ = (x.shape, x.dtype, x.device, tm.layout(x), x.stride())
        _ = (tm.visualize(x), x.is_contiguous(), x.data_ptr(), hash(x))
        _ = (x.detach(), x.view(16), x.t())
        del x
        gc.collect()
    assert counts.collectives == {}


def test_law_14_the_same_program_makes_the_same_collectives(mesh):
    def program():
        torch.manual_seed(3)
        x = tm.distribute(torch.randn(8, 6), mesh, ("S0", "R"))
        w = tm.distribute(torch.randn(6, 4), mesh, ("R", "S1"))
        w.requires_grad_()
        (x @ w).softmax(1).log().mean().backward()
        tm.redistribute(w.grad, ("R", "R"))

    events = []
    for _ in range(2):
        with tm.counting() as counts:
            program()
        events.append(counts.events)
    assert events[0] == events[1]
    assert events[0]


# --- law 15: errors -----------------------------------------------------------

WRONG_CALLS = {
    "mm": lambda t: torch.mm(t, torch.randn(3, 3)),
    "add": lambda t: t + torch.randn(3, 3),
    "view": lambda t: t.view(7, 7),
    "index": lambda t: t[99],
    "select": lambda t: t.select(5, 0),
    "index_select": lambda t: t.index_select(0, torch.tensor([77])),
    "cat": lambda t: torch.cat([t, torch.randn(3, 3, 3)]),
    "embedding": lambda t: nn.functional.embedding(torch.tensor([77]), t),
    "cholesky": lambda t: torch.linalg.cholesky(-torch.eye(4) + 0 * t[:4, :4]),
    "dtype": lambda t: torch.mm(t, torch.randn(4, 4).double()),
    "argmax_empty": lambda t: t[:0].argmax(),
    "softmax_dim": lambda t: t.softmax(7),
    "reshape": lambda t: t.reshape(3, -1, 7),
    "permute": lambda t: t.permute(0, 0),
    "gather": lambda t: t.gather(0, torch.tensor([[99]])),
    "bool": lambda t: bool(t),
    "item": lambda t: t.item(),
    "grad": lambda t: t.backward(),
    "in_place": lambda t: t.add_(torch.randn(3, 3)),
    "in_place_dtype": lambda t: t.long().add_(0.5),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
@every_layout(2, ("1", "3", "2x2"))
def test_law_15_errors_are_of_the_plain_type_and_change_nothing(
    mesh_name, placements, name
):
    value = torch.randn(5, 4)
    x = place(value, mesh_of(mesh_name), placements)
    with pytest.raises(Exception) as expected:
        WRONG_CALLS[name](value.clone())
    with pytest.raises(expected.type):
        WRONG_CALLS[name](x)
    assert_equal(x, value)
    assert_equal(x * 2, value * 2)


def test_law_15_an_error_names_op_layouts_and_mesh(mesh):
    x = tm.distribute(torch.randn(4, 4), mesh, ("S0", "R"))
    with pytest.raises(RuntimeError) as error:
        x.gather(1, tm.distribute(torch.full((4, 1), 99), mesh, ("S0", "R")))
    text = str(error.value)
    assert "aten::gather" in text
    assert "(S0, R)" in text or "(R, R)" in text
    assert "data=2 model=2" in text


def test_law_15_a_half_written_destination_raises_until_it_is_overwritten():
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.zeros(4, 3), mesh, ("S0",))
    # Rows of device 0 are in range, those of device 1 are not.
    index = tm.distribute(torch.tensor([[0], [1], [9], [9]]), mesh, ("S0",))
    with pytest.raises((RuntimeError, IndexError)) as first:
        x.scatter_(1, index, 5.0)
    assert "out of bounds" in str(first.value)
    try:
        value = tm.full(x)
    except RuntimeError as error:
        assert "out of bounds" in str(error)
        with pytest.raises(RuntimeError):
            x + 1
        with pytest.raises(RuntimeError):
            tm.full(x[1:])
    else:
        assert_equal(value, torch.zeros(4, 3))
    x.copy_(torch.ones(4, 3))
    assert_equal(x, torch.ones(4, 3))
    assert_equal(x + 1, torch.full((4, 3), 2.0))


def test_law_15_the_engine_goes_on_after_an_error(mesh):
    x = tm.distribute(torch.eye(4), mesh, ("S0", "R"))
    for _ in range(5):
        with pytest.raises(RuntimeError):
            torch.linalg.cholesky(-x)
        assert_equal(x + x, torch.eye(4) * 2)


# --- law 16: files hold plain storages ----------------------------------------


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


@every_layout(2)
def test_law_16_save_and_load_keep_the_value(mesh_name, placements):
    value = torch.randn(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    loaded = torch.load(saved(x), map_location="cpu")
    assert_equal(loaded, value)
    assert_equal(x, value)
    for p, q in zip(tm.layout(x).placements, placements, strict=True):
        assert p == q or q == "P+"


def test_law_16_ties_and_views_are_kept(mesh):
    x = tm.distribute(torch.arange(12.0).view(3, 4), mesh, ("S0", "S1"))
    thing = {"a": x, "row": x[1], "t": x.t(), "again": x, "other": x.clone()}
    loaded = torch.load(saved(thing), map_location="cpu")
    assert_equal(loaded["row"], tm.full(x)[1])
    loaded["a"][1, 0] = 99
    assert loaded["row"][0] == 99
    assert loaded["t"][0, 1] == 99
    assert loaded["again"][1, 0] == 99
    assert loaded["other"][1, 0] == 4


def test_law_16_a_file_loads_where_torch_mesh_is_not_imported(mesh, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with tm.use(mesh):
        model.to("mesh")
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    expected = float(tm.full(model[0].weight).sum())
    output = run_program(
        "import sys, torch\n"
        f"state = torch.load({str(path)!r}, weights_only=True)\n"
        "assert 'torch_mesh' not in sys.modules\n"
        "assert all(t.device.type == 'cpu' for t in state.values())\n"
        "print(float(state['0.weight'].sum()))\n"
    )
    assert float(output) == pytest.approx(expected)


@every_layout(2)
def test_law_16_deepcopy_keeps_value_layout_and_ties(mesh_name, placements):
    value = torch.randn(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    again, tied = copy.deepcopy([x, x[2:]])
    assert_equal(again, value)
    assert tm.layout(again).mesh == mesh_of(mesh_name)
    for p, q in zip(tm.layout(again).placements, placements, strict=True):
        assert p == q or q == "P+"
    again.fill_(3)
    assert_equal(tied, torch.full((5, 5), 3.0))
    assert_equal(x, value)
    parameter = nn.Parameter(x)
    assert isinstance(copy.deepcopy(parameter), nn.Parameter)


def test_law_16_tied_parameters_stay_tied(mesh):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    with tm.use(mesh):
        model.to("mesh")
    assert model.head.weight is model.embedding.weight
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.embedding.weight
    state = torch.load(saved(model.state_dict()), map_location="cpu")
    assert (
        state["head.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    )
    plain = Tied()
    plain.load_state_dict(state)
    assert_equal(model.head.weight.detach(), plain.head.weight.detach())
    # And back into the sharded model, in place.
    weight = model.head.weight
    model.load_state_dict({k: v + 1 for k, v in state.items()})
    assert model.head.weight is weight
    assert_equal(weight.detach(), state["head.weight"] + 1)


def test_law_16_safetensors_keep_values_and_know_ties(mesh, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    with tm.use(mesh):
        model.to("mesh")
    path = str(tmp_path / "model.safetensors")
    safetensors.save_model(model, path)
    loaded = safetensors.load_file(path)
    assert len(loaded) == 3
    for name, value in loaded.items():
        assert value.device.type == "cpu"
        assert_equal(model.state_dict()[name].detach(), value)
    x = tm.distribute(torch.randn(5, 4), mesh, ("S0", "S1"))
    y = tm.distribute(torch.randn(5, 4), mesh, ("S0", "S1"))
    safetensors.save_file({"x": x, "y": y}, path)
    assert_equal(x, safetensors.load_file(path)["x"])
    assert_equal(y, safetensors.load_file(path)["y"])


def test_law_16_an_optimizer_state_loads_back(mesh):
    model = nn.Linear(4, 3)
    with tm.use(mesh):
        model.to("mesh")
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = torch.load(saved(optimizer.state_dict()), map_location="cpu")
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(state)
    for mine, theirs in zip(
        optimizer.state.values(), other.state.values(), strict=True
    ):
        assert tm.is_global(theirs["exp_avg"])
        assert_equal(mine["exp_avg"], tm.full(theirs["exp_avg"]))


# --- law 17: neighbours -------------------------------------------------------


def test_law_17_importing_torch_registers_nothing():
    output = run_program(
        "import sys, torch\n"
        "print('torch_mesh' in sys.modules,"
        " torch._C._get_privateuse1_backend_name(),"
        " torch.accelerator.current_accelerator())\n"
    )
    assert output.split() == ["False", "privateuseone", "None"]


NEIGHBOURS = {
    "accelerator": """
assert torch.accelerator.current_accelerator() is None
assert not torch.accelerator.is_available()
assert not torch.mesh.is_available()
""",
    "data_loader": """
import warnings
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.arange(12.0).view(6, 2))
for workers in (0, 2):
    loader = DataLoader(
        data, batch_size=2, pin_memory=True, num_workers=workers
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sum(float(b.sum()) for b, in loader) == 66
""",
    "checkpoint": """
from torch.utils.checkpoint import checkpoint
x = torch.ones(3, requires_grad=True)
for reentrant in (False, True):
    checkpoint(lambda t: t.exp().dropout(0.5, True)
               if hasattr(t, "dropout") else torch.dropout(t.exp(), 0.5, True),
               x, use_reentrant=reentrant).sum().backward()
assert x.grad is not None
""",
    "compile": """
f = torch.compile(lambda t: (t * 2).relu(), backend="aot_eager")
assert torch.equal(f(torch.ones(3)), torch.full((3,), 2.0))
""",
    "process_group": """
import os, torch.distributed as dist
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517")
if dist.is_available():
    dist.init_process_group(rank=0, world_size=1)
    t = torch.ones(2)
    dist.all_reduce(t)
    assert t.tolist() == [1, 1]
    dist.destroy_process_group()
""",
    "seeds_and_state": """
torch.manual_seed(3)
a = torch.rand(3)
torch.manual_seed(3)
assert torch.equal(a, torch.rand(3))
with torch.random.fork_rng():
    torch.rand(4)
torch.save(a, __import__("io").BytesIO())
""",
    "plain_autocast": """
with torch.autocast("cpu", dtype=torch.bfloat16):
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
""",
    "fork": """
import os
mesh = tm.Mesh({"data": 2})
x = tm.distribute(torch.ones(512, 64), mesh, ("S0",))
(x * 2 + x).sum().item()
child = os.fork()
if child == 0:
    y = tm.distribute(torch.ones(512, 64), mesh, ("S0",))
    ok = (y * 2 + x).sum().item() == 3 * 512 * 64
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
""",
    "workers_that_use_the_mesh": """
from torch.utils.data import DataLoader, Dataset
mesh = tm.Mesh({"data": 2})
class Data(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return tm.full(tm.distribute(torch.full((3,), float(i)), mesh) * 2)
total = sum(float(b.sum()) for b in DataLoader(Data(), num_workers=2))
assert total == 36
""",
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_law_17_neighbours_go_on_as_before(name):
    run_program(f"import torch, torch_mesh as tm\n{NEIGHBOURS[name]}")


def test_law_17_an_optimizer_made_before_to_the_mesh_trains(mesh):
    model = nn.Linear(4, 2)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.weight.detach().clone()
    with tm.use(mesh):
        model.to("mesh")
    assert all(
        a is b for a, b in zip(parameters, model.parameters(), strict=True)
    )
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    assert_close(model.weight.detach(), before - 0.5 * 3)
