"""List ops over several views of one storage, and over plain tensors."""

import pytest
import torch
from placing import assert_close, assert_equal, every_layout, mesh_of, place
from torch import nn

import torch_mesh as tm


def value_of(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


VIEWS = {
    "apart": lambda x: [x[0], x[3:5], x[5, 1:]],
    "crossing": lambda x: [x[0], x[3:5], x[:, 1]],
    "columns": lambda x: [x[:, 0], x[:, 2], x[:, 1]],
    "transposed": lambda x: [x.t()[1], x[2], x.t()],
    "overlapping": lambda x: [x[0:3], x[2:6], x[1:5]],
    "twice": lambda x: [x, x[1], x],
    "whole and parts": lambda x: [x[4], x, x.view(-1)[4:11]],
    "nothing": lambda x: [x[6:], x[:, 1], x[2:2]],
    "backwards": lambda x: [x[4:], x[2:4], x[:2]],
    "detached": lambda x: [x.detach()[1:4], x.data[3:]],
}

WRITES = {
    "add": lambda vs: torch._foreach_add_(vs, 2.0),
    "mul list": lambda vs: torch._foreach_mul_(vs, [2.0, 3.0, 5.0][: len(vs)]),
    "zero": lambda vs: torch._foreach_zero_(vs[:2]),
    "copy": lambda vs: torch._foreach_copy_(vs, [v * 2 + 1 for v in vs]),
    "lerp": lambda vs: torch._foreach_lerp_(vs, [v * 0 - 1 for v in vs], 0.5),
    "addcdiv": lambda vs: torch._foreach_addcdiv_(
        vs, [v * 0 + 6 for v in vs], [v * 0 + 2 for v in vs], 0.25
    ),
    "exp": lambda vs: torch._foreach_neg_(vs),
    "clamp": lambda vs: torch._foreach_clamp_max_(vs, 7.0),
    "tensor": lambda vs: torch._foreach_mul_(
        vs, torch.tensor(3.0, device=vs[0].device)
    ),
}


@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("views", VIEWS)
@every_layout(2, ("2", "3", "2x2"))
def test_every_view_of_a_list_is_written_in_order(
    mesh_name, placements, views, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)
    with tm.use(mesh):
        for write in WRITES.values():
            plain = value_of(6, 3)
            x = place(plain.clone(), mesh, placements)
            write(VIEWS[views](plain))
            write(VIEWS[views](x))
            assert_equal(x, plain)


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(2, ("2", "3"))
def test_views_are_read_as_they_are_when_their_turn_comes(
    mesh_name, placements, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)

    def program(x):
        torch._foreach_add_([x[0], x[1], x[2]], [x[1], x[2], x[0]])
        torch._foreach_copy_([x[3:5], x[0:2]], [x[0:2], x[3:5]])
        torch._foreach_addcmul_([x[:, 0], x[:, 1]], [x[:, 1], x[:, 2]], [
            x[:, 2], x[:, 0]], 2.0)  # fmt: skip
        torch._foreach_mul_([x, x.t()], [x, x.t()])

    plain = value_of(6, 3)
    x = place(plain.clone(), mesh_of(mesh_name), placements)
    program(plain)
    program(x)
    assert_equal(x, plain)


@every_layout(1, ("2", "3", "2x2"))
def test_gradients_in_one_bucket_are_clipped(mesh_name, placements):
    mesh = mesh_of(mesh_name)

    def run(put, clip):
        bucket = put(value_of(9))
        params = [nn.Parameter(put(torch.zeros(3))) for _ in range(3)]
        for i, p in enumerate(params):
            p.grad = bucket[3 * i : 3 * i + 3]
        norm = clip(params)
        return norm, bucket

    for clip in (
        lambda ps: nn.utils.clip_grad_norm_(ps, 0.1),
        lambda ps: nn.utils.clip_grad_norm_(ps, 0.1, foreach=False),
        lambda ps: nn.utils.clip_grad_value_(ps, 4.5),
        lambda ps: nn.utils.clip_grad_value_(ps, 4.5, foreach=False),
    ):
        norm, bucket = run(torch.clone, clip)
        my_norm, mine = run(lambda t: place(t, mesh, placements), clip)
        assert_close(mine, bucket)
        if norm is not None:
            assert_close(my_norm, norm)


OPTIMIZERS = {
    "sgd": lambda ps, **way: torch.optim.SGD(ps, 0.1, momentum=0.9, **way),
    "adam": lambda ps, **way: torch.optim.Adam(ps, 0.1, amsgrad=True, **way),
    "adamw": lambda ps, **way: torch.optim.AdamW(ps, 0.1, **way),
    "adagrad": lambda ps, **way: torch.optim.Adagrad(ps, 0.1, **way),
}


@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("way", ["single", "foreach", "fused"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@every_layout(1, ("2", "3"), partial=False)
def test_weights_in_one_flat_buffer_are_trained(
    mesh_name, placements, name, way, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)

    def train(put):
        flat = put(value_of(10) / 10)
        grads = put(torch.zeros(10))
        cuts = [(0, 3), (3, 7), (7, 10)]
        params = [nn.Parameter(flat[a:b]) for a, b in cuts]
        flags = {"foreach": way == "foreach", "fused": way == "fused"}
        optimizer = OPTIMIZERS[name](params, **flags)
        for step in range(3):
            for p, (a, b) in zip(params, cuts, strict=True):
                p.grad = grads[a:b]
            with torch.no_grad():
                grads.copy_(flat * (step + 1) - 1)
            optimizer.step()
        return flat

    expected = train(torch.clone)
    assert_close(train(lambda t: tm.distribute(t, mesh, placements)), expected)


@every_layout(2, ("2", "3"))
def test_elements_before_one_that_is_refused_are_written(mesh_name, placements):
    def program(x):
        other = torch.ones(6, 3, device=x.device)
        integer = torch.ones(6, 3, dtype=torch.int64, device=x.device)
        errors = []
        for call in (
            lambda: torch._foreach_add_([x, integer, other], 0.5),
            lambda: torch._foreach_add_([x, x, other], [1.0, 2j, 3.0]),
            lambda: torch._foreach_mul_([x, other], [other, x[:2, :2]]),
            lambda: torch._foreach_mul_(
                [x[0], x[:1].expand(3, 3), other], [x[1], x[:3], x]
            ),
            lambda: torch._foreach_add_([x[0], x[2:4]], [x[1], x[3:5]]),
            lambda: torch._foreach_add_([x, other], 2j),
        ):
            try:
                call()
            except Exception as error:
                errors.append(type(error).__name__)
            else:
                errors.append(None)
            errors.append((x._version, integer._version, other._version))
        return errors, x, integer, other

    mesh = mesh_of(mesh_name)
    with tm.use(mesh):
        right = program(value_of(6, 3))
        mine = program(place(value_of(6, 3), mesh, placements))
    assert mine[0] == right[0]
    assert None not in right[0]
    for a, e in zip(mine[1:], right[1:], strict=True):
        assert_equal(a, e)


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(2, ("2", "3"))
def test_elements_that_broadcast(mesh_name, placements, one_memory):
    tm._C.separate_cpu_memories(not one_memory)

    def program(x):
        column = torch.arange(6.0, device=x.device)[:, None]
        row = torch.arange(3.0, device=x.device)
        torch._foreach_add_([x, x], [column, row])
        torch._foreach_mul_([x], [row * 0 + 2])
        made = torch._foreach_add([x, row, column], [column, x, row])
        return [x, *made]

    mesh = mesh_of(mesh_name)
    with tm.use(mesh):
        right = program(value_of(6, 3))
        mine = program(place(value_of(6, 3), mesh, placements))
    for a, e in zip(mine, right, strict=True):
        assert_equal(a, e)


@pytest.mark.parametrize("one_memory", [True, False])
@every_layout(1, ("2", "3", "2x2"))
def test_plain_elements_beside_global_ones(mesh_name, placements, one_memory):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)

    def program(put):
        plain, other = value_of(6), put(value_of(6) * 2)
        base = value_of(8)
        torch._foreach_add_([plain, other], [other, plain])
        torch._foreach_mul_(
            [base[:6], other, base[2:]], [other, base[1:7], plain]
        )
        torch._foreach_copy_([plain[:3], base[1:7]], [other[3:], other])
        torch._foreach_zero_([base[:2], other[:1]])
        torch._foreach_lerp_([plain, other], [other, plain], 0.25)
        step = torch.tensor(1.0)
        torch._foreach_add_([step, other], [other[1], step])
        return plain, base, other, step

    right = program(torch.clone)
    mine = program(lambda t: place(t, mesh, placements))
    for a, e in zip(mine, right, strict=True):
        assert_close(a, e)
    assert [tm.is_global(t) for t in mine] == [False, False, True, False]


@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("kind", ["plain", "replicated", "partial"])
@every_layout(1, ("2", "3"))
def test_one_tensor_for_all_elements(mesh_name, placements, kind, one_memory):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)
    put = {
        "plain": torch.clone,
        "replicated": lambda t: tm.distribute(t, mesh),
        "partial": lambda t: place(t, mesh, ["P+"] * len(mesh.shape)),
    }[kind]

    def program(x, number):
        row = x * 2
        torch._foreach_mul_([x, row], number)
        torch._foreach_add_([x, row], number, alpha=2)
        torch._foreach_div_([x, row], number)
        return [x, row, *torch._foreach_mul([x, row], number)]

    right = program(value_of(7), torch.tensor(4.0))
    mine = program(place(value_of(7), mesh, placements), put(torch.tensor(4.0)))
    for a, e in zip(mine, right, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("one_memory", [True, False])
@pytest.mark.parametrize("where", [0, 5, None])
@every_layout(1, ("2", "3"))
def test_an_infinite_gradient_is_found_by_all_memories(
    mesh_name, placements, where, one_memory
):
    tm._C.separate_cpu_memories(not one_memory)
    mesh = mesh_of(mesh_name)

    def program(put, put_whole):
        grads = value_of(6)
        if where is not None:
            grads[where] = float("inf")
        grads, found = [put(grads)], put_whole(torch.zeros(1))
        torch._amp_foreach_non_finite_check_and_unscale_(
            grads, found, put_whole(torch.tensor([0.5]))
        )
        return *grads, found

    grads, found = program(torch.clone, torch.clone)
    whole = ["R" if p == "P+" else p for p in placements]
    my_grads, mine = program(
        lambda t: tm.distribute(t, mesh, whole),
        lambda t: tm.distribute(t, mesh),
    )
    assert_equal(my_grads, grads)
    for replica in tm.shards(mine):
        assert_equal(replica, found)


def test_an_optimizer_runs_one_local_op_a_list():
    mesh = tm.Mesh({"data": 4})
    params = [
        nn.Parameter(tm.distribute(torch.ones(4, 3), mesh, ("S0",)))
        for _ in range(8)
    ]
    for p in params:
        p.grad = p.detach().clone()
    optimizer = torch.optim.SGD(params, 0.1, foreach=True)
    optimizer.step()
    with tm.counting() as counts:
        optimizer.step()
    assert counts.ops <= 2 and counts.collectives == {}


def test_a_list_of_numbers_for_elements_cut_differently():
    mesh = tm.Mesh({"data": 2})

    def program(put):
        xs = [put(value_of(4), i % 2) for i in range(4)]
        ones = [put(torch.ones(4), i % 2) for i in range(4)]
        torch._foreach_addcdiv_(xs, ones, ones, torch.arange(4.0))
        torch._foreach_addcmul_(xs, ones, ones, [1.0, 2.0, 3.0, 4.0])
        torch._foreach_add_(xs, [4.0, 3.0, 2.0, 1.0])
        return xs

    right = program(lambda t, i: t.clone())
    mine = program(lambda t, i: tm.distribute(t, mesh, ("S0" if i else "R",)))
    for a, e in zip(mine, right, strict=True):
        assert_equal(a, e)


@every_layout(1, ("2",))
def test_a_list_op_counts_in_versions_as_plain_torch_does(
    mesh_name, placements
):
    def program(put):
        a, b, base = put(torch.ones(4)), put(torch.ones(4)), put(torch.ones(4))
        torch._foreach_add_([a, b, a], 1.0)
        torch._foreach_copy_([b, base[1:]], [a, base[:3].clone()])
        with torch.no_grad():
            torch._foreach_zero_([a])
        with torch.inference_mode():
            torch._foreach_neg_([a, base.clone()])
        plain = torch.ones(4)
        torch._foreach_mul_([plain, a], [b, plain])
        return a._version, b._version, base._version, plain._version

    mesh = mesh_of(mesh_name)
    assert program(lambda t: place(t, mesh, placements)) == program(torch.clone)


@every_layout(1, ("2",))
def test_a_write_to_a_saved_tensor_in_a_list_is_noticed(mesh_name, placements):
    x = place(torch.ones(4), mesh_of(mesh_name), placements).requires_grad_()
    y = x * 2
    z = y * y
    with torch.no_grad():
        torch._foreach_mul_([y], 2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
