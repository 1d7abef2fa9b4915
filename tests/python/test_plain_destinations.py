"""Writes of global values into plain tensors."""

import pytest
import torch
from placing import assert_close, assert_equal, every_layout, mesh_of, place
from torch.nn import functional

import torch_mesh as tm

I = torch.tensor([1, 3, 0])  # noqa: E741
MASK = torch.arange(18).view(6, 3) % 4 == 0


def value_of(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


# p is plain, g global (6, 3), m global (3, 3).
WRITES = {
    "mul_": lambda p, g, m: p.mul_(g),
    "add_": lambda p, g, m: p.add_(g, alpha=2),
    "add_ to a view": lambda p, g, m: p[1:].add_(g[1:]),
    "add_ to a column": lambda p, g, m: p[:, 1].add_(g[:, 2]),
    "add_ to a transpose": lambda p, g, m: p.t().add_(g.t()),
    "add_ broadcast": lambda p, g, m: p.add_(g[2]),
    "iadd": lambda p, g, m: p.__iadd__(g),
    "index_put_": lambda p, g, m: p.index_put_((I,), g[:3]),
    "index_put_ accumulate": lambda p, g, m: p.index_put_(
        (I * 0,), g[:3], accumulate=True
    ),
    "index_put_ by a global index": lambda p, g, m: p.index_put_(
        ((m[:, 0] % 5).long(),), torch.ones(3, 3)
    ),
    "setitem": lambda p, g, m: p.__setitem__(I, g[3:]),
    "setitem mask": lambda p, g, m: p.__setitem__(MASK, g[MASK]),
    "setitem global mask": lambda p, g, m: p.__setitem__(g > 9, 0.0),
    "setitem slice": lambda p, g, m: p.__setitem__(slice(1, 5, 2), g[:2]),
    "copy_": lambda p, g, m: p.copy_(g),
    "copy_ to a view": lambda p, g, m: p[2:].t().copy_(g[:4].t()),
    "addmm_": lambda p, g, m: p.addmm_(g, m, beta=2, alpha=3),
    "addmm_ one plain": lambda p, g, m: p.addmm_(torch.ones(6, 3), m),
    "addmv_": lambda p, g, m: p[:, 0].addmv_(g, m[0]),
    "baddbmm_": lambda p, g, m: p[None].baddbmm_(g[None], m[None]),
    "addcmul_": lambda p, g, m: p.addcmul_(g, g, value=0.5),
    "addcdiv_": lambda p, g, m: p.addcdiv_(g, g + 1),
    "lerp_": lambda p, g, m: p.lerp_(g, 0.25),
    "where": lambda p, g, m: p.masked_fill_(g > 5, -1.0),
    "masked_scatter_": lambda p, g, m: p.masked_scatter_(MASK, g),
    "index_add_": lambda p, g, m: p.index_add_(0, I, g[:3]),
    "index_copy_": lambda p, g, m: p.index_copy_(0, I, g[:3]),
    "index_fill_": lambda p, g, m: p.index_fill_(0, I, g[0, 0]),
    "scatter_": lambda p, g, m: p.scatter_(0, I[None], g[:1]),
    "scatter_add_": lambda p, g, m: p.scatter_add_(0, I[None], g[:1]),
    "put_": lambda p, g, m: p.put_(I, g[0]),
    "clamp_": lambda p, g, m: p.clamp_(g * 0 + 3, g * 0 + 9),
    "pow_": lambda p, g, m: p.pow_(g * 0 + 2),
    "lt_": lambda p, g, m: p.lt_(g),
    "out": lambda p, g, m: torch.mul(g, g, out=p),
    "out of a view": lambda p, g, m: torch.mul(g[1], g[0], out=p[3]),
    "out of a matmul": lambda p, g, m: torch.mm(g, m, out=p),
    "out with a plain argument": lambda p, g, m: torch.add(p, g, out=p),
    "out that is resized": lambda p, g, m: torch.exp(g[:1] * 0, out=p[:0]),
    "two outs": lambda p, g, m: torch.max(
        g, 0, out=(p[0], torch.empty(3, dtype=torch.int64))
    ),
}


@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("write", WRITES)
@every_layout(2, ("2", "3", "2x2"))
def test_a_plain_destination_is_written_once(
    mesh_name, placements, write, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)
    g, m = value_of(6, 3), value_of(3, 3)
    right, mine = value_of(6, 3) * 2, value_of(6, 3) * 2
    expected = WRITES[write](right, g.clone(), m.clone())
    actual = WRITES[write](
        mine, place(g, mesh, placements), place(m, mesh, placements)
    )
    assert_close(mine, right)
    if isinstance(expected, torch.Tensor):
        assert not tm.is_global(actual)
        assert_close(actual, expected)


@every_layout(2, ("2", "2x2"))
def test_overlap_with_a_plain_destination_is_refused(mesh_name, placements):
    g = place(value_of(6, 3), mesh_of(mesh_name), placements)
    p = value_of(7, 3)
    for call in (
        lambda: torch.add(p[1:], g, out=p[:-1]),
        lambda: p[1:].addcmul_(p[:-1], g),
        lambda: p[:1].expand(6, 3).mul_(g),
        lambda: torch.mul(g, g, out=p[:1].expand(6, 3)),
    ):
        with pytest.raises(RuntimeError, match="unsupported operation"):
            call()
    assert_equal(p, value_of(7, 3))


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(2, ("2", "3"))
def test_gradients_through_a_plain_destination(
    mesh_name, placements, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)

    def program(put):
        g = put(value_of(6, 3)).requires_grad_()
        h = g * 2
        p = value_of(6, 3)
        p.mul_(h)
        p[1:].add_(g[1:])
        p.index_put_((I,), h[:3])
        q = torch.zeros(2, 3)
        q[0] = g[4]
        (p.square().sum() + q.exp().sum() * 1e-3).backward()
        return g.grad, p.detach()

    right, value = program(torch.clone)
    with tm.use(mesh):
        mine, my_value = program(lambda t: place(t, mesh, placements))
    assert tm.is_global(mine) and tm.layout(mine).mesh == mesh
    assert_close(my_value, value)
    assert_close(mine, right)


LOSSES = {
    "bce with logits": functional.binary_cross_entropy_with_logits,
    "bce weighted": lambda x, t: functional.binary_cross_entropy_with_logits(
        x, t, pos_weight=torch.tensor([1.0, 2, 3]), weight=torch.ones(3) / 2
    ),
    "bce": lambda x, t: functional.binary_cross_entropy(x.sigmoid(), t),
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "huber": functional.huber_loss,
    "smooth l1": functional.smooth_l1_loss,
    "kl": lambda x, t: functional.kl_div(x.log_softmax(1), t),
    "poisson": functional.poisson_nll_loss,
    "soft margin": lambda x, t: functional.soft_margin_loss(x, t * 2 - 1),
    "hinge": lambda x, t: functional.hinge_embedding_loss(x, t * 2 - 1),
    "multilabel": lambda x, t: functional.multilabel_soft_margin_loss(x, t),
    "gaussian": lambda x, t: functional.gaussian_nll_loss(x, t, x.exp()),
    "classes": lambda x, t: functional.cross_entropy(x, t[:, 0].long()),
    "shares": lambda x, t: functional.cross_entropy(x, t.softmax(1)),
    "cosine": lambda x, t: functional.cosine_embedding_loss(
        x, t, t[:, 0] * 2 - 1
    ),
    "margin": lambda x, t: functional.margin_ranking_loss(
        x[:, 0], x[:, 1], t[:, 0] * 2 - 1
    ),
}


@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@every_layout(2, ("2", "3"))
def test_a_loss_with_a_plain_target(mesh_name, placements, loss, one_memory):
    tm._C.separate_cpu_memories(not one_memory)
    value = (value_of(6, 3) - 9) / 10
    target = (value_of(6, 3) % 2 == 0).float()
    right = value.clone().requires_grad_()
    expected = LOSSES[loss](right, target)
    expected.backward()
    x = place(value, mesh_of(mesh_name), placements).requires_grad_()
    actual = LOSSES[loss](x, target)
    actual.backward()
    assert_close(actual, expected)
    assert_close(x.grad, right.grad)
    assert_equal(target, (value_of(6, 3) % 2 == 0).float())


@pytest.mark.parametrize("one_memory", [True, False])
def test_plain_statistics_of_a_global_batch(one_memory):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = tm.Mesh({"data": 2})

    def program(put):
        mean, var = torch.zeros(3), torch.ones(3)
        out, *_ = torch._native_batch_norm_legit(
            put(value_of(6, 3)), None, None, mean, var, True, 0.1, 1e-5
        )
        y = functional.batch_norm(put(value_of(6, 3)), mean, var, training=True)
        return out, y, mean, var

    right = program(torch.clone)
    mine = program(lambda t: tm.distribute(t, mesh, ("S0",)))
    assert [tm.is_global(t) for t in mine] == [True, True, False, False]
    for a, e in zip(mine, right, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("one_memory", [True, False])
def test_plain_and_global_destinations_of_one_op(one_memory):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = tm.Mesh({"data": 2})

    def program(put):
        scale, tracker = (
            torch.tensor(4.0),
            put(torch.tensor(1, dtype=torch.int32)),
        )
        torch._amp_update_scale_(
            scale, tracker, put(torch.tensor(0.0)), 2.0, 0.5, 2
        )
        largest, where = torch.zeros(3), put(torch.zeros(3, dtype=torch.int64))
        torch.max(put(value_of(6, 3)), 0, out=(largest, where))
        return scale, tracker, largest, where

    right = program(torch.clone)
    mine = program(lambda t: tm.distribute(t, mesh))
    assert [tm.is_global(t) for t in mine] == [False, True, False, True]
    for a, e in zip(mine, right, strict=True):
        assert_equal(a, e)


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(1, ("2", "3"))
def test_a_destination_on_no_mesh_is_written_once(
    mesh_name, placements, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)

    def program(home, x):
        total, sums = torch.ones((), device=home), torch.ones(7, device=home)
        total += x.sum()
        sums.mul_(x).add_(x)
        sums[2:].add_(x[2:])
        sums.index_add_(0, torch.tensor([1, 1]), x[:2])
        torch._foreach_add_([sums, x], [x, sums])
        torch.mul(x, x, out=sums[:])
        return total, sums, x

    right = program("cpu", value_of(7))
    mine = program("mesh", place(value_of(7), mesh, placements))
    for a, e in zip(mine, right, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(1, ("2", "3"))
def test_random_numbers_of_a_global_chance_in_a_plain_tensor(
    mesh_name, placements, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    chance = value_of(40) / 50

    def draw(p):
        torch.manual_seed(3)
        drawn = torch.empty(40).bernoulli_(p)
        out = torch.empty(40)
        torch.bernoulli(p, out=out)
        return drawn, out

    mine = draw(place(chance, mesh_of(mesh_name), placements))
    for a, e in zip(mine, draw(chance), strict=True):
        assert_equal(a, e)
