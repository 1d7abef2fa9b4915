"""Writes to tensors that lie over themselves or over what is read."""

import pytest
import torch
from placing import assert_equal, every_layout, mesh_of, place

import torch_mesh as tm


def value_of(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


# Of a tensor (6, 3); torch refuses some of these for some of the writes.
VIEWS = {
    "expanded": lambda x: x[:, :1].expand(6, 3),
    "expanded, in front": lambda x: x[2].expand(4, 3)[1:],
    "a row of one number": lambda x: x[4:5, 2].expand(5),
    "windows": lambda x: x.flatten().as_strided((6, 3), (2, 1)),
    "windows from behind": lambda x: x.as_strided((4, 3), (3, 2), 1),
    "apart, by strides that cross": lambda x: x.as_strided((3, 2), (2, 3)),
}

WRITES = {
    "add_": lambda v, i: v.add_(1),
    "mul_": lambda v, i: v.mul_(v.detach().clone()),
    "addcmul_": lambda v, i: v.addcmul_(v * 2, v + 1),
    "fill_": lambda v, i: v.fill_(5),
    "zero_": lambda v, i: v.zero_(),
    "copy_": lambda v, i: v.copy_(value_of(*v.shape).to(v.device)),
    "neg_": lambda v, i: v.neg_(),
    "masked_fill_": lambda v, i: v.masked_fill_(v > 4, -1),
    "index_fill_": lambda v, i: v.index_fill_(0, i, 9.0),
    "index_put_": lambda v, i: v.index_put_((i,), v[:2] * 10),
    "index_put_ accumulate": lambda v, i: v.index_put_(
        (i,), v[:2] * 10, accumulate=True
    ),
    "setitem": lambda v, i: v.__setitem__(i, -3.0),
    "index_add_": lambda v, i: v.index_add_(0, i, v[:2] * 2),
    "index_copy_": lambda v, i: v.index_copy_(0, i, v[:2] * 2),
    "scatter_": lambda v, i: v.scatter_(
        0, i.view(2, *[1] * (v.dim() - 1)), 3.0
    ),
    "clamp_ list": lambda v, i: torch._foreach_clamp_max_([v, v], 4.0),
}


def outcome(view, write, x, index):
    try:
        write(view(x), index)
    except RuntimeError:
        return "refused"
    return "written"


@pytest.mark.filterwarnings("ignore:Use of")
@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("view", VIEWS)
@every_layout(2, ("2", "2x2"))
def test_each_place_in_memory_gets_what_plain_torch_leaves_there(
    mesh_name, placements, view, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    try:
        for name, write in WRITES.items():
            right, index = value_of(6, 3), torch.tensor([1, 0])
            mine = place(value_of(6, 3), mesh_of(mesh_name), placements)
            here = place(index, mesh_of(mesh_name), ["R"] * len(placements))
            expected = outcome(VIEWS[view], write, right, index)
            assert outcome(VIEWS[view], write, mine, here) == expected, name
            assert_equal(mine, right)
    finally:
        tm._C.separate_cpu_memories(False)


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(3, ("2", "3"))
def test_a_view_of_all_is_the_same_place(mesh_name, placements, one_memory):
    """Though no element shows how its dims of size 1 lie."""

    def program(x):
        t = x.topk(1, 0).values
        for view in (
            t.split(2, 0)[0],
            t[:],
            t.view(t.shape),
            t.transpose(0, 1),
        ):
            view.sub_(t if view.shape == t.shape else t.transpose(0, 1))
            view.add_(1)
            torch._foreach_addcmul_([view], [view], [view])
        t.copy_(t.split(1, 0)[0])
        return t

    tm._C.separate_cpu_memories(not one_memory)
    try:
        right = program(value_of(4, 1, 5))
        mine = program(place(value_of(4, 1, 5), mesh_of(mesh_name), placements))
        assert_equal(mine, right)
    finally:
        tm._C.separate_cpu_memories(False)


@every_layout(2, ("2", "2x2"))
def test_what_is_copied_to_itself_stays(mesh_name, placements):
    x = place(value_of(6, 3), mesh_of(mesh_name), placements)
    wide = x[:, :1].expand(6, 3)
    wide[...] = wide
    wide.copy_(wide.unsqueeze(0).squeeze(0))
    x.copy_(x)
    assert_equal(x, value_of(6, 3))
    held = torch.full_like(x, 7.0)
    del held  # what blank memory must not show
    zeros = x.new_zeros(6, 3)
    zeros[...] = zeros
    assert_equal(zeros, torch.zeros(6, 3))
    zeros = torch.zeros_like(x)
    zeros[:3].copy_(zeros[3:])
    assert_equal(zeros, torch.zeros(6, 3))
