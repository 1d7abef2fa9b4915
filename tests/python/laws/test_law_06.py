"""Law 6: unwritten memory has no layout."""

import torch
from placing import (
    SMALL,
    assert_close,
    assert_equal,
    every_layout,
    mesh_of,
    place,
)

import torch_mesh as tm


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
