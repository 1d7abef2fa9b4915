"""Lists: a plan for each kind of element, a collective for each bucket."""

import pytest
import torch
from placing import assert_close, assert_equal, assert_ran_as_counted

import torch_mesh as tm
from torch_mesh import _C


@pytest.fixture(params=[[0, 1, 2, 3], [0, 0, 1, 1], None])
def mesh(request):
    if request.param is not None:
        _C.set_memories_for_testing(request.param)
    mesh = tm.Mesh({"data": 4})
    _C.set_memories_for_testing([])
    return mesh


def lists(mesh, num=50, sizes=(16, 12)):
    first = [torch.full(sizes, float(i)) for i in range(num)]
    second = [torch.full(sizes, 2.0 * i + 1) for i in range(num)]
    return (
        [tm.distribute(t, mesh, ("S0",)) for t in first],
        [tm.distribute(t, mesh, ("S1",)) for t in second],
        [a + b for a, b in zip(first, second, strict=True)],
    )


def test_a_list_of_another_layout_is_one_plan_and_one_bucket(mesh):
    into, other, right = lists(mesh)
    with tm.counting() as counts:
        torch._foreach_add_(into, other)
    assert counts.plans_made == 1
    assert counts.collectives == {"all_to_all@data": 1}
    assert counts.bytes == {"all_to_all@data": 50 * 16 * 12 * 4 * 3 // 16}
    assert_ran_as_counted(counts, mesh)
    for a, b in zip(into, right, strict=True):
        assert_equal(a, b)
    with tm.counting() as counts:
        torch._foreach_add_(into, other)
    assert counts.plans_made == 0
    assert counts.collectives == {"all_to_all@data": 1}


def test_each_kind_of_element_is_planned(mesh):
    into, other, _ = lists(mesh, num=6)
    more, others, _ = lists(mesh, num=3, sizes=(8, 4))
    with tm.counting() as counts:
        sums = torch._foreach_add(into + more, other + others)
    assert counts.plans_made == 2
    assert counts.collectives == {"all_to_all@data": 1}
    for a, b, c in zip(sums, into + more, other + others, strict=True):
        assert_equal(a, b.cpu() + c.cpu())


def test_what_is_too_large_for_a_bucket_travels_in_several(mesh):
    sizes = (4096, 1024)  # 3 MiB move of each
    into, other, _ = lists(mesh, num=10, sizes=sizes)
    with tm.counting() as counts:
        torch._foreach_add_(into, other)
    assert counts.collectives == {"all_to_all@data": 2}


def test_a_tensor_that_is_in_two_lists_moves_once(mesh):
    into, other, _ = lists(mesh, num=3)
    right = [
        a.cpu().addcmul(b.cpu(), b.cpu())
        for a, b in zip(into, other, strict=True)
    ]
    with tm.counting() as counts:
        torch._foreach_addcmul_(into, other, other)
    assert counts.bytes == {"all_to_all@data": 3 * 16 * 12 * 4 * 3 // 16}
    for a, b in zip(into, right, strict=True):
        assert_equal(a, b)


def test_explain_names_the_kinds_of_elements_and_what_moves(mesh):
    into, other, _ = lists(mesh, num=2)
    assert tm.explain(torch._foreach_add_, into, other) == (
        "aten::_foreach_add_.List 2 x f32[16, 12] (S0) f32[16, 12] (S1)"
        " -> (S0); all_to_all@data 288 B"
    )


OPTIMIZERS = {
    "foreach": lambda ps: torch.optim.AdamW(ps, foreach=True),
    "single": lambda ps: torch.optim.AdamW(ps, foreach=False),
    "fused": lambda ps: torch.optim.AdamW(ps, fused=True),
    "sgd": lambda ps: torch.optim.SGD(ps, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_gradient_of_a_cut_weight_is_reduce_scattered_once(mesh, optimizer):
    torch.manual_seed(3)
    value, rows = torch.randn(16, 12), torch.randn(256, 12)
    weight = tm.distribute(value, mesh, ("S0",)).requires_grad_()
    right = value.clone().requires_grad_()
    for w, x in (
        (weight, tm.distribute(rows, mesh, ("S0",))),
        (right, rows),
    ):
        make = OPTIMIZERS[optimizer]
        optim = make([w])
        for _ in range(2):
            optim.zero_grad()
            (x @ w.t()).square().mean().backward()
            if w is weight:
                assert tm.layout(w.grad).placements == ("P+",)
            optim.step()
    torch.testing.assert_close(weight.detach().cpu(), right.detach())
    weight.grad = None
    (tm.distribute(rows, mesh, ("S0",)) @ weight.t()).sum().backward()
    with tm.counting() as counts:
        make([weight]).step()
    assert counts.collectives == {"reduce_scatter@data": 1}
    assert counts.bytes == {"reduce_scatter@data": value.nbytes * 3 // 4}
    assert_ran_as_counted(counts, mesh)
    if optimizer != "sgd":  # whose first step clones the sum
        assert tm.layout(weight.grad).placements == ("S0",)


@pytest.mark.parametrize("placement", ["S0", "S1"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_parts_of_a_sum_that_stays_lie_as_the_weight(
    mesh, optimizer, placement
):
    torch.manual_seed(3)
    value, gradient = torch.randn(6, 9), torch.randn(6, 9)
    weight = tm.distribute(value, mesh, (placement,)).requires_grad_()
    right = value.clone().requires_grad_()
    for w in (weight, right):
        optim = OPTIMIZERS[optimizer]([w])
        for _ in range(2):
            w.grad = (
                tm.from_shards(
                    [2 * gradient, -gradient] + [gradient * 0] * 2,
                    mesh,
                    ("P+",),
                )
                if w is weight
                else gradient.clone()
            )
            optim.step()
    torch.testing.assert_close(weight.detach().cpu(), right.detach())
    assert_equal(weight.grad, gradient)


def test_parts_of_one_memory_are_summed_in_each_replica():
    _C.set_memories_for_testing([0, 0, 1, 1])
    mesh = tm.Mesh({"data": 2, "model": 2})
    _C.set_memories_for_testing([])
    v = torch.arange(1.0, 5)
    y = tm.from_shards([2 * v, -v, 2 * v, -v], mesh, ("R", "P+"))
    assert_equal(tm.redistribute(y, ("S0", "R")), v)


def test_gradients_are_summed_in_one_bucket_to_be_clipped(mesh):
    weights = [
        torch.nn.Parameter(tm.distribute(torch.randn(12, 8), mesh, ("R",)))
        for _ in range(5)
    ]
    x = tm.distribute(torch.randn(16, 12), mesh, ("S0",))
    sum((x @ w).square().sum() for w in weights).backward()
    plain = [w.grad.cpu() for w in weights]
    for weight in weights:
        weight.grad = None
    sum((x @ w).square().sum() for w in weights).backward()
    with tm.counting() as counts:
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    assert counts.collectives == {"all_reduce@data": 1}
    assert_ran_as_counted(counts, mesh)
    assert_close(norm, torch.nn.utils.get_total_norm(plain))
