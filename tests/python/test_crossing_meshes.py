"""Graphs that leave the mesh and come back, and first steps of a process."""

import pytest
import torch
from placing import assert_close, every_layout, mesh_of
from programs import run_program

import torch_mesh as tm


def copied_into(x):
    plain = torch.zeros(x.shape, dtype=x.dtype)
    plain.copy_(x)
    return plain


def copied_into_a_part(x):
    plain = torch.zeros(x.shape[0] + 2, *x.shape[1:], dtype=x.dtype)
    plain[1:-1].copy_(x)
    return plain[1:-1] * 1


LEAVING = {
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to_dtype": lambda x: x.to("cpu", torch.float64).float(),
    "copy": copied_into,
    "copy_into_a_part": copied_into_a_part,
    "full": tm.full,
}


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@pytest.mark.parametrize("in_force", ["none", "own", "other"])
@pytest.mark.parametrize("name", LEAVING)
@every_layout(2, meshes=("3", "2x2"), partial=False)
def test_a_gradient_arrives_on_the_mesh_of_its_tensor(
    name, mesh_name, placements, in_force, separate
):
    tm._C.separate_cpu_memories(separate)
    mesh, other = mesh_of(mesh_name), tm.Mesh({"model": 4})
    value = torch.randn(5, 4)
    x = tm.distribute(value, mesh, placements).requires_grad_()
    hidden = x * 2
    y = tm.distribute(LEAVING[name](hidden), other, ("S1",))
    seen = []
    hidden.register_hook(lambda gradient: seen.append(tm.layout(gradient)))
    with tm.use({"none": None, "own": mesh, "other": other}[in_force]):
        (y.square().sum() + (hidden.sum() * 3).cpu()).backward()
    assert seen[0].mesh == mesh
    assert tm.layout(x.grad).mesh == mesh
    assert_close(x.grad, 2 * (2 * 2 * value + 3))


@every_layout(2, meshes=("2", "2x2"), partial=False)
def test_a_gradient_has_the_layout_of_its_tensor(mesh_name, placements):
    x = tm.distribute(torch.ones(4, 4), mesh_of(mesh_name), placements)
    for leaf in (x.requires_grad_(), (x * 1).detach().requires_grad_()):
        (leaf.cpu() * 2).sum().backward()
        assert tm.layout(leaf.grad) == tm.layout(leaf)
        leaf.grad = None
        ((leaf * 1).cpu() * 2).sum().backward()
        assert tm.layout(leaf.grad) == tm.layout(leaf)


def test_a_gradient_of_a_sum_that_was_open_arrives_reduced():
    mesh = tm.Mesh({"data": 2})
    g = tm.distribute(torch.ones(3, 4), mesh, ("S1",))
    w = tm.distribute(torch.ones(4, 2), mesh, ("S0",)).requires_grad_()
    y = g @ w
    assert str(tm.layout(y)) == "(P+)"
    (y.cpu() * 2).sum().backward()
    assert_close(w.grad, torch.full((4, 2), 6.0))


def test_gradients_of_gradients_cross_too():
    a, b = tm.Mesh({"data": 2}), tm.Mesh({"model": 4})
    value = torch.randn(4, 2)
    x = tm.distribute(value, a, ("S0",)).requires_grad_()
    with tm.use(b):
        y = tm.distribute((x * x).cpu(), b, ("S0",)).square()
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.cpu().sum(), x)
    assert tm.layout(first).mesh == a
    assert tm.layout(second).mesh == a
    assert_close(first.detach(), 4 * value**3)
    assert_close(second, 12 * value**2)


def test_a_recomputed_layer_takes_the_mesh_in_force():
    from torch.utils.checkpoint import checkpoint

    a, b = tm.Mesh({"data": 2}), tm.Mesh({"model": 4})
    x = tm.distribute(torch.ones(4), a, ("S0",)).requires_grad_()
    hidden = x * 2
    hidden.cpu()
    seen = []

    def layer(t):
        seen.append(tm.layout(torch.ones(4).to("mesh")).mesh)
        return t.cpu() * 3

    with tm.use(b):
        checkpoint(layer, hidden, use_reentrant=True).sum().backward()
    assert seen == [b, b]
    assert_close(x.grad, torch.full((4,), 6.0))


FIRST = {
    "redistribute": """
x = tm.distribute(torch.ones(4, 2), mesh, ("S0",)).requires_grad_()
g = tm.distribute(torch.ones(4, 2), mesh, ("R",))
tm.redistribute(x, ("R",)).backward(g)
""",
    "distribute": """
x = torch.ones(4, 2, requires_grad=True)
g = tm.distribute(torch.ones(4, 2), mesh, ("R",))
tm.distribute(x, mesh, ("S0",)).backward(g)
""",
    "a leaf": """
with torch.no_grad():
    x = tm.distribute(torch.ones(4, 2), mesh, ("S0",))
    g = tm.distribute(torch.ones(4, 2), mesh, ("S0",))
x.requires_grad_().backward(g)
""",
    "another thread": """
import threading
x = tm.distribute(torch.ones(4, 2), mesh, ("S0",)).requires_grad_()
g = tm.distribute(torch.ones(4, 2), mesh, ("R",))
y = tm.redistribute(x, ("R",))
thread = threading.Thread(target=y.backward, args=(g,))
thread.start()
thread.join()
""",
    "after a plain one": """
torch.ones(3, requires_grad=True).sum().backward()
x = tm.distribute(torch.ones(4, 2), mesh, ("S0",)).requires_grad_()
g = tm.distribute(torch.ones(4, 2), mesh, ("R",))
tm.redistribute(x, ("R",)).backward(g)
""",
}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_thing_on_a_mesh_may_be_a_backward(name):
    run_program(
        "import os, torch, torch_mesh as tm\n"
        'mesh = tm.Mesh({"data": 2})\n'
        'assert len(os.listdir("/proc/self/task")) == 1\n'
        f"{FIRST[name]}"
        "assert x.grad.tolist() == [[1.0, 1.0]] * 4\n"
        "if os.fork() == 0:\n"
        "    p = torch.ones(3, requires_grad=True)\n"
        "    (p * 2).sum().backward()\n"
        "    os._exit(0 if p.grad.tolist() == [2, 2, 2] else 1)\n"
        "assert os.wait()[1] == 0\n",
        OMP_NUM_THREADS="1",
    )
