"""Law 4: state lives in the storage."""

import pytest
import torch
from placing import assert_equal, every_layout, mesh_of, place

import torch_mesh as tm


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
    tm._C.separate_cpu_memories(separate)
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


@pytest.mark.parametrize("memories", [[0] * 4, [0, 0, 1, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("make", [torch.zeros, torch.empty])
@pytest.mark.parametrize("placements", [("P+", "R"), ("S0", "P+")])
@pytest.mark.parametrize(
    "view", [lambda t: t.t(), lambda t: t.view(4, 4), lambda t: t[:4]]
)
def test_law_04_views_of_what_nobody_wrote_share_sums(
    make, placements, view, memories
):
    tm._C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 2, "model": 2})
    with tm.use(mesh):
        x = make(8, 2, device="mesh")
        tm.redistribute_(x, placements)
        v = view(x)
        x.fill_(1)
        v.add_(5)
        x.add_(1)
    right = torch.ones(8, 2)
    view(right).add_(5)
    right.add_(1)
    assert_equal(x, right)
    assert_equal(v, view(right))


@pytest.mark.parametrize("memories", [[0] * 4, [0, 1, 2, 3]])
def test_law_04_views_of_raw_bytes_see_what_is_copied_there(memories):
    tm._C.set_memories_for_testing(memories)
    mesh = tm.Mesh({"data": 4})
    value = torch.arange(8.0)
    with tm.use(mesh):
        raw = torch.UntypedStorage(32, device="mesh")
        whole = torch.empty(0, device="mesh").set_(raw, 0, (8,), (1,))
        part = torch.empty(0, device="mesh").set_(raw, 2, (3,), (2,))
        assert_equal(whole * 0, torch.zeros(8))
        assert_equal(part * 0, torch.zeros(3))
        raw.copy_(tm.distribute(value, mesh, ("S0",)).untyped_storage())
        assert_equal(whole, value)
        assert_equal(part, value[2:7:2])
        part.fill_(9)
    value[2:7:2] = 9
    assert_equal(whole, value)
