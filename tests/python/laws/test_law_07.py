"""Law 7: as_strided, resize_, set_."""

import pytest
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
