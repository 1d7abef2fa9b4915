"""Law 12: meshes."""

import pytest
import torch
from placing import assert_equal

import torch_mesh as tm


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
