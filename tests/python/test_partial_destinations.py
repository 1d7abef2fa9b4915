"""Writes in place to a tensor that is a pending sum."""

import pytest
import torch
from placing import assert_close, place

import torch_mesh as tm

I = torch.tensor([1, 3])  # noqa: E741
WRITES = {
    "index_put_": lambda x, a, b, r: x.index_put_((I,), r, accumulate=True),
    "index_add_": lambda x, a, b, r: x.index_add_(0, I, r),
    "put_": lambda x, a, b, r: x.put_(I, r[0, :2], accumulate=True),
    "addmm_": lambda x, a, b, r: x.addmm_(a, b),
    "addmm_scaled": lambda x, a, b, r: x.addmm_(a, b, beta=2, alpha=3),
    "addmv_": lambda x, a, b, r: x[:, 0].clone().addmv_(a, b[:, 0]),
    "addbmm_": lambda x, a, b, r: x.addbmm_(
        torch.stack([a, a]), torch.stack([b, b])
    ),
    "baddbmm_": lambda x, a, b, r: x[None].clone().baddbmm_(a[None], b[None]),
    "add_": lambda x, a, b, r: x.add_(a @ b),
    "mul_": lambda x, a, b, r: x.mul_(3),
    "sub_": lambda x, a, b, r: x.sub_(x.clone()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_to_a_sum(name, size, one_memory, dtype):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = tm.Mesh({f"axis{size}": size})
    value = torch.arange(12).view(4, 3).to(dtype)
    a = (torch.arange(20).view(4, 5) % 3).to(dtype)
    b = (torch.arange(15).view(5, 3) % 4).to(dtype)
    rows = torch.ones(2, 3).to(dtype)
    expected = value.clone()
    result = WRITES[name](expected, a, b, rows)
    for cut in ("S0", "R"):
        x = place(value, mesh, ("P+",))
        got = WRITES[name](
            x,
            tm.distribute(a, mesh, ("S1",)),
            tm.distribute(b, mesh, ("S0",)),
            tm.distribute(rows, mesh, (cut,)),
        )
        assert_close(got, result)
        assert_close(x, expected)


def test_a_write_to_the_gradient_of_a_weight():
    mesh = tm.Mesh({"data": 2})
    w = tm.distribute(torch.ones(4, 3), mesh).requires_grad_()
    (tm.distribute(torch.ones(6, 4), mesh, ("S0",)) @ w).sum().backward()
    assert str(tm.layout(w.grad)) == "(P+)"
    ones = tm.distribute(torch.ones(2, 3), mesh, ("S0",))
    w.grad.index_put_((torch.tensor([0, 2]),), ones, accumulate=True)
    assert_close(w.grad[:, 0], torch.tensor([7.0, 6, 7, 6]))


def test_a_gradient_through_such_a_write():
    mesh = tm.Mesh({"data": 2})
    x = place(torch.ones(3), mesh, ("P+",)).requires_grad_()
    m = tm.distribute(torch.eye(3, 4), mesh, ("S1",)).requires_grad_()
    v = tm.distribute(torch.arange(4.0), mesh, ("S0",))
    y = (x * 2).addmv_(m, v)
    y.square().sum().backward()
    assert_close(y, torch.tensor([2.0, 3, 4]))
    assert_close(x.grad, torch.tensor([8.0, 12, 16]))
    assert_close(m.grad, torch.outer(torch.tensor([4.0, 6, 8]), v.cpu()))
