"""Destinations of `out=` and of resize_: sizes, storages, versions, layouts."""

import pytest
import torch
from placing import (
    SMALL,
    assert_close,
    assert_equal,
    every_layout,
    mesh_of,
    place,
    placements_for,
)

import torch_mesh as tm

OUTS = {
    "composed": lambda x, out: torch.inner(x, x, out=out),
    "composed of composed": lambda x, out: torch.linalg.norm(x, out=out),
    "one kernel": lambda x, out: torch.exp(x, out=out),
    "composed, with resize_": lambda x, out: torch.diff(x, n=0, out=out),
    "composed, without": lambda x, out: torch.diff(x, out=out),
    "many copies": lambda x, out: torch.split_with_sizes_copy(
        x, [7], out=[out]
    ),
    "resize_": lambda x, out: out.resize_(3),
    "resize_ to the same": lambda x, out: out.resize_(0),
}


if int(torch.__version__.split(".")[1]) < 14:  # which dropped it
    OUTS["copied from another order"] = lambda x, out: torch.cholesky(
        x.T @ x + torch.eye(5, device=x.device), out=out
    )


@pytest.mark.parametrize("name", OUTS)
@every_layout(2, ("2", "2x2"))
def test_a_resized_destination_counts_the_versions_of_plain_torch(
    name, mesh_name, placements
):
    value = torch.randn(7, 5)
    mesh = mesh_of(mesh_name)
    plain, out = torch.zeros(0), tm.distribute(torch.zeros(0), mesh)
    OUTS[name](value, plain)
    OUTS[name](place(value, mesh, placements), out)
    assert out._version == plain._version
    assert out.stride() == plain.stride()


def test_a_tensor_that_requires_grad_is_not_resized(mesh):
    x = tm.distribute(torch.zeros(4), mesh).requires_grad_()
    with pytest.raises(RuntimeError, match="resize variables that require"):
        x.resize_(2)


@every_layout(1, SMALL)
@pytest.mark.filterwarnings("ignore:An output with one or more elements")
def test_a_resized_destination_writes_to_the_storage_it_shares(
    mesh_name, placements
):
    base = place(torch.zeros(6), mesh_of(mesh_name), placements)
    plain = torch.zeros(6)
    for tensor in (base, plain):
        torch.add(torch.ones(3), 1, out=tensor[1:1])
        torch.add(torch.ones(2, 1), 2, out=tensor[4:])
    assert_equal(base, plain)


@pytest.mark.filterwarnings("ignore:An output with one or more elements")
def test_a_shared_destination_does_not_grow(mesh):
    base = tm.distribute(torch.zeros(6), mesh, ("S0", "R"))
    with pytest.raises(NotImplementedError, match="resize-shared"):
        torch.add(torch.ones(9), 1, out=base[1:])
    assert_equal(base, torch.zeros(6))


@every_layout(2, SMALL, partial=False)
@pytest.mark.filterwarnings("ignore:An output with one or more elements")
def test_a_composed_op_keeps_the_placement_of_its_out(mesh_name, placements):
    mesh = mesh_of(mesh_name)
    row = placements_for(mesh_name, 1, partial=False)[-1]
    value, vector = torch.randn(7, 5), torch.randn(7)
    out = tm.distribute(torch.zeros(5), mesh, row)
    torch.matmul(vector, place(value, mesh, placements), out=out)
    assert tm.layout(out).placements == row
    assert_close(out, vector @ value)


def test_an_empty_tensor_keeps_its_layout(line):
    x = tm.distribute(torch.zeros(0, 0), line, ("S0",))
    assert tm.layout(x.t()).placements == ("S1",)
    assert tm.layout(x.t_()).placements == ("S1",)
    assert tm.layout(x.clone() + 1).placements == ("S1",)
    assert_equal(x.sum(), torch.tensor(0.0))
    y = tm.distribute(torch.ones(1), line, ("S0",))
    assert tm.layout(y.as_strided_((1,), (1,), 0)).placements == ("S0",)


@every_layout(2, SMALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float32])
def test_random_bits_are_drawn_into_the_destination_as_it_is(
    dtype, mesh_name, placements
):
    mesh = mesh_of(mesh_name)
    value = torch.rand(7, 5)
    x = place(value, mesh, placements)
    outs = (
        torch.zeros(5, 7, dtype=dtype).t(),
        tm.distribute(torch.zeros(5, 7, dtype=dtype), mesh).t(),
    )
    draws = [lambda t, out: torch.bernoulli(t, out=out)]
    if dtype.is_floating_point:
        draws.append(lambda t, out: torch.normal(t, 1.0, out=out))
        draws.append(lambda t, out: torch.normal(t, t, out=out))
    for draw in draws:
        for source, out in zip((value, x), outs, strict=True):
            torch.manual_seed(1)
            draw(source, out)
        assert_equal(outs[1], outs[0])


@every_layout(2, SMALL, partial=False)
def test_an_op_that_draws_and_writes_to_an_argument_too_loses_neither(
    mesh_name, placements
):
    mesh = mesh_of(mesh_name)
    value = torch.randn(7, 5)

    def rrelu(x, noise, out):
        torch.manual_seed(3)
        torch.ops.aten.rrelu_with_noise.out(
            x, noise, 0.1, 0.3, True, None, out=out
        )
        return noise, out

    plain = rrelu(value, torch.zeros(7, 5), torch.zeros(7, 5))
    written = rrelu(
        *(place(t, mesh, placements) for t in (value, *2 * [value * 0]))
    )
    for actual, expected in zip(written, plain, strict=True):
        assert_equal(actual, expected)
