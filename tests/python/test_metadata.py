"""What a result says of itself: strides, lazy bits, whose memory it is."""

import pytest
import torch
from placing import assert_equal, cases, mesh_of, name_of, place

import torch_mesh as tm

PLACED = pytest.mark.parametrize(
    "mesh_name, placements", cases(3, ("2", "3", "2x2")), ids=name_of
)


def complex_values(*sizes):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(*sizes, dtype=torch.complex64, generator=generator)


@PLACED
def test_a_conjugate_is_lazy_as_in_plain_torch(mesh_name, placements):
    x = complex_values(3, 4, 2)
    m = place(x, mesh_of(mesh_name), placements)
    for view in (
        lambda t: t.conj(),
        lambda t: t.mT.conj()[1:],
        lambda t: t.conj().as_strided((2, 4), (8, 2), 1),
        lambda t: t.conj().select(0, 1),
        lambda t: t.conj().imag,
        lambda t: t.conj().detach(),
    ):
        a, b = view(m), view(x)
        assert (a.is_conj(), a.is_neg()) == (b.is_conj(), b.is_neg())
        assert_equal(a, b.resolve_conj().resolve_neg())
        assert_equal(a * 2, b * 2)
        assert not (a * 2).is_conj()
    assert_equal(torch.view_as_real(m.conj().resolve_conj())[..., 1], -x.imag)


@PLACED
def test_a_write_through_a_conjugate_reaches_the_base(mesh_name, placements):
    x, y = complex_values(3, 4, 2), complex_values(4, 2)
    m = place(x, mesh_of(mesh_name), placements)
    x = x.clone()
    for t, value in ((x, y), (m, m.new_tensor(y.tolist()))):
        conjugate = t.conj()
        conjugate[1].copy_(value)
        conjugate[2:].mul_(2 + 1j)
        t.imag[0].neg_()
    assert_equal(m, x)


def test_a_stale_conjugate_is_taken_again_as_one():
    x = complex_values(4, 2)
    m = place(x, tm.Mesh({"data": 2}), ("P+",))
    conjugate, select = m.conj(), m.conj()[1]
    m.abs()  # reduces the sum that both stand on
    m[1] = 3 + 2j
    assert_equal(conjugate[1:2], torch.full((1, 2), 3 - 2j))
    assert_equal(select, torch.full((2,), 3 - 2j))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.double(),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: torch.nn.functional.max_pool2d(x, 2),
        lambda x: torch.nn.functional.max_unpool2d(
            x, torch.zeros_like(x).long(), 3, 2
        ),
        lambda x: x.roll(1, 2),
        lambda x: x.relu(),
        lambda x: torch._foreach_neg([x])[0],
        lambda x: torch.linalg.solve(torch.eye(4), x),
    ],
)
@pytest.mark.parametrize("dim", range(4))
def test_strides_do_not_depend_on_how_many_elements_a_device_has(f, dim):
    x = torch.arange(3.0 * 2 * 4 * 3).reshape(3, 2, 4, 3)
    x = x.to(memory_format=torch.channels_last)
    m = tm.distribute(x, tm.Mesh({"data": x.shape[dim]}), (f"S{dim}",))
    assert f(m).stride() == f(x).stride()


@pytest.mark.parametrize("placements", ["R", "S0", "S1"])
def test_parts_of_an_unsafe_split_lie_in_the_whole(placements):
    x = torch.arange(12.0).reshape(6, 2)
    m = tm.distribute(x, tm.Mesh({"data": 2}), (placements,))
    for t in (x, m):
        part = torch.unsafe_chunk(t, 3)[1]
        assert part.storage_offset() == 4
        part.zero_()
    assert_equal(m, x)


@pytest.mark.parametrize("placements", ["R", "S0", "S1"])
def test_a_result_with_gaps_is_a_window_on_all_of_its_memory(placements):
    x = torch.linspace(-1, 2, 12).reshape(4, 3).cos()
    m = tm.distribute(x, tm.Mesh({"data": 2}), (placements,))
    whole = []
    for t in (x, m):
        solution = torch.linalg.lstsq(t, t * 2, driver="gelsd").solution
        assert (solution.shape, solution.stride()) == ((3, 3), (1, 4))
        column = solution.as_strided((3,), (1,), 4)  # addressed over the gap
        column.fill_(7)
        whole.append(solution)
    assert_equal(whole[1][:, 1], torch.full((3,), 7.0))
    torch.testing.assert_close(tm.full(whole[1]), whole[0])


@pytest.mark.parametrize("placements", ["R", "S0", "S1"])
def test_kron_writes_to_out(placements):
    mesh = tm.Mesh({"data": 2})
    x, y = torch.arange(3.0).reshape(3, 1), torch.arange(10.0).reshape(5, 2)
    a = tm.distribute(x, mesh, ("R",))
    out = tm.distribute(torch.zeros(15, 2), mesh, (placements,))
    version = out._version
    assert torch.kron(a, tm.distribute(y, mesh, ("S0",)), out=out) is out
    assert out._version == version  # as in plain torch
    assert_equal(out, torch.kron(x, y))
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.kron(a, a, out=a.new_zeros(9, 1, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="requires grad"):
        torch.kron(a.requires_grad_(), a.detach(), out=a.new_zeros(9, 1))


@pytest.mark.parametrize("placements", ["R", "S0", "P+"])
def test_addbmm_gives_its_destination_the_size_of_the_result(placements):
    x, y, start = torch.randn(2, 5, 3), torch.randn(2, 3, 4), torch.ones(1)
    mesh = tm.Mesh({"data": 2})
    m = place(start, mesh, (placements,))
    m.addbmm_(*(tm.distribute(t, mesh, ("R",)) for t in (x, y)))
    assert_equal(m, start.addbmm_(x, y))


@pytest.mark.parametrize("placements", ["R", "S0"])
def test_out_of_another_dtype_is_what_plain_torch_makes_of_it(placements):
    mesh = tm.Mesh({"data": 2})
    x = torch.randn(4, 4)
    m = tm.distribute(x, mesh, (placements,))
    out = tm.distribute(torch.ones(4, 4).double(), mesh, (placements,))
    assert_equal(torch.exp(m, out=out), torch.exp(x, out=out.cpu()))
    with pytest.raises(RuntimeError, match="Double|double"):
        torch.abs(m, out=out)
    with pytest.raises(RuntimeError, match="Double|double"):
        torch.mm(m, m, out=out)
    wide = tm.distribute(torch.ones(8, 4).double(), mesh, (placements,))
    assert_equal(torch.cat([m, m], out=wide), torch.cat([x, x]).double())
    torch.take(m, m.new_tensor([1, 2]).long(), out=m.new_empty(2))


def test_a_tangent_of_zeros_can_be_written_to():
    mesh = tm.Mesh({"data": 2})
    m = tm.distribute(torch.zeros(4), mesh, ("S0",))
    zeros = torch._efficientzerotensor(4, device="mesh")
    assert_equal(zeros.add_(m + 1), torch.ones(4))


def test_out_lists_count_their_versions():
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.arange(12.0).reshape(6, 2), mesh, ("S0",))
    outs = [x.new_zeros(3, 2), x.new_zeros(3, 2)]
    versions = [out._version for out in outs]
    torch.split_with_sizes_copy(x, [3, 3], out=outs)
    assert [out._version for out in outs] == [v + 1 for v in versions]
