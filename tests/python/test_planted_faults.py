"""check_parity names the op that was made wrong, whatever is wrong with it.

Each fault stands below autograd, where the mesh's own kernel stands: a kernel
in its place computes the whole value plainly, and spoils it.
"""

import contextlib
import itertools

import pytest
import torch
import torch.nn.functional as F

import torch_mesh as tm

pytestmark = pytest.mark.filterwarnings(
    "ignore:Warning only once for all operators"
)


MESH = {"data": 2, "model": 2}


@contextlib.contextmanager
def planted(name, kernel, key="PrivateUse1"):
    """The mesh's kernel of an op is another one."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl(name, kernel, key)
        yield


def found(step, *state, op, kernel, key="PrivateUse1"):
    """The report of a step with a fault, which has none without."""
    right = tm.check_parity(step, *state)
    assert right, right
    with planted(op, kernel, key):
        parity = tm.check_parity(step, *state)
    assert not parity
    assert parity.first, parity
    assert parity.first.op == "aten::" + op.partition(".")[0], parity
    return parity


def place(t, *placements, mesh=None):
    return tm.distribute(t, tm.Mesh(mesh or MESH), placements)


def like(value, x):
    """A plain value, laid out as a global tensor."""
    return tm.distribute(value, tm.layout(x))


def numbers(*sizes, dtype=None):
    return torch.randn(*sizes, dtype=dtype)


# ------------------------------------------------------------------ the values


def test_devices_that_swap_their_shards_are_found():
    def swapped(x):
        shards = [s.tanh() for s in tm.shards(x)]
        return tm.from_shards(shards[::-1], tm.layout(x))

    def step(x):
        return x.tanh().sum()

    x = place(numbers(6, 4), "S0", "S1")
    found(step, x, op="tanh", kernel=swapped)


def test_a_sum_over_another_axis_of_the_mesh_is_found():
    def summed_over_data(a, b):
        parts = [x @ y for x, y in zip(tm.shards(a), tm.shards(b), strict=True)]
        over_data = [parts[0] + parts[2], parts[1] + parts[3]] * 2
        return tm.from_shards(over_data, tm.Mesh(MESH), ("R", "R"))

    def step(a, b):
        return a.mm(b).square()

    a, b = place(numbers(6, 4), "R", "S1"), place(numbers(4, 3), "R", "S0")
    found(step, a, b, op="mm", kernel=summed_over_data)


def test_a_value_for_empty_shards_that_is_not_neutral_is_found():
    def with_zero_of_the_empty(x, dim=(), keepdim=False):
        value = tm.full(x).amax(dim, keepdim).clamp_min(0)
        return place(value, None, mesh={"data": 4})

    def step(x):
        return (x - x.amax(0)).exp().sum()

    x = place(-1 - numbers(3, 5).abs(), "S0", mesh={"data": 4})
    found(step, x, op="amax", kernel=with_zero_of_the_empty)


def test_an_index_that_counts_from_its_shard_is_found():
    def of_its_shard(x, dim=None, keepdim=False):
        whole = tm.full(x).argmax(dim, keepdim)
        return place(whole % (x.shape[1] // 2), "S0", "R")

    def step(x):
        return F.one_hot(x.argmax(1), 6).float() * x

    x = torch.zeros(4, 6)
    x[torch.arange(4), torch.tensor([1, 5, 4, 0])] = 1
    found(step, place(x, "S0", "S1"), op="argmax", kernel=of_its_shard)


def test_a_triangle_that_begins_in_each_shard_is_found():
    def of_each_shard(x, diagonal=0):
        shards = [s.tril(diagonal) for s in tm.shards(x)]
        return tm.from_shards(shards, tm.layout(x))

    def step(scores):
        mask = torch.ones_like(scores).tril() == 0
        return scores.masked_fill(mask, float("-inf")).softmax(-1)

    scores = place(numbers(6, 6), "S0", "R")
    found(step, scores, op="tril", kernel=of_each_shard)


def test_a_fault_beside_the_fill_of_a_mask_is_found():
    def scores_a_tenth_larger(a, b, alpha=1):
        return like(tm.full(a) * 1.1 + tm.full(b) * alpha, a)

    def step(scores, bias):
        return (scores + bias).softmax(-1)

    bias = torch.zeros(6, 6).masked_fill(
        torch.ones(6, 6).triu(1) == 1, torch.finfo(torch.float32).min
    )
    state = place(numbers(6, 6), "S0", "R"), place(bias, "S0", "R")
    found(step, *state, op="add.Tensor", kernel=scores_a_tenth_larger)


def test_one_value_that_is_no_number_is_found():
    def with_a_nan(x):
        value = tm.full(x).exp()
        value[-1, -1] = float("nan")
        return like(value, x)

    def step(x):
        return x.exp()[0].sum()

    found(step, place(numbers(4, 6), "S0", "S1"), op="exp", kernel=with_a_nan)


def test_a_number_where_plain_torch_has_none_is_found():
    def never_nan(x):
        return like(tm.full(x).log().nan_to_num(0.0), x)

    def step(x):
        return x.log().nan_to_num(0.0).sum()

    x = place(torch.tensor([1.0, 2.0, -1.0, 0.5]), "S0", "R")
    found(step, x, op="log", kernel=never_nan)


def test_an_infinity_of_the_other_sign_is_found():
    def positive(x):
        return like(tm.full(x).reciprocal().abs(), x)

    def step(x):
        return x.reciprocal().sigmoid()

    x = place(torch.tensor([1.0, -0.0, 0.0, 0.5]), "S0", "R")
    found(step, x, op="reciprocal", kernel=positive)


def test_a_rounding_through_float32_in_a_float64_step_is_found():
    def rounded(gradient, indices, rows, padding, scale):
        value = torch.ops.aten.embedding_dense_backward(
            tm.full(gradient).float(), tm.full(indices), rows, padding, scale
        )
        return place(value.double(), "R", "S1")

    def step(weight, i):
        F.embedding(i, weight).square().sum().backward()

    weight = place(numbers(7, 4, dtype=torch.float64), "R", "S1")
    i = place(torch.randint(7, (5,)), "S0", "R")
    found(
        step,
        weight.requires_grad_(),
        i,
        op="embedding_dense_backward",
        kernel=rounded,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tenth_too_much_in_a_dtype_of_few_digits_is_found(dtype):
    def a_tenth_more(a, b):
        return like(tm.full(a) @ tm.full(b) * 1.1, a)

    def step(a, b):
        return a.mm(b).sum()

    a, b = place(numbers(6, 4), "S0", "R"), place(numbers(4, 4), "R", "R")
    state = a.to(dtype), b.to(dtype)
    found(step, *state, op="mm", kernel=a_tenth_more)


def test_a_wrong_statistic_kept_for_the_backward_is_found():
    def of_the_first_shard(x, shape, weight, bias, eps):
        value, mean, rstd = torch.native_layer_norm(
            tm.full(x), shape, tm.full(weight), tm.full(bias), eps
        )
        rstd[len(rstd) // 2 :] = rstd[: len(rstd) // 2]
        return like(value, x), *(place(t, "S0", "R") for t in (mean, rstd))

    def step(net, x):
        net(x).square().sum().backward()

    net = torch.nn.LayerNorm(5)
    with tm.use(tm.Mesh(MESH)):
        net.to("mesh")
    x = place(numbers(6, 5), "S0", "R").requires_grad_()
    found(step, net, x, op="native_layer_norm", kernel=of_the_first_shard)


def test_statistics_of_each_shard_alone_are_found():
    def of_each_shard(x, weight, bias, mean, var, training, momentum, eps):
        whole = [tm.full(t) for t in (weight, bias, mean, var)]
        parts = [
            torch.native_batch_norm(s, *whole, training, momentum, eps)
            for s in tm.shards(x)
        ]
        value = tm.from_shards([part[0] for part in parts], tm.layout(x))
        mean.copy_(whole[2])
        var.copy_(whole[3])
        return value, *(place(t, None, None) for t in parts[0][1:])

    def step(net, x):
        return net(x).square().sum()

    net = torch.nn.BatchNorm1d(5)
    with tm.use(tm.Mesh(MESH)):
        net.to("mesh")
    x = place(numbers(6, 5), "S0", "R")
    found(step, net, x, op="native_batch_norm", kernel=of_each_shard)


def test_a_result_remembered_from_an_earlier_call_is_found():
    results = []

    def first_result(x, approximate="none"):
        results.append(like(F.gelu(tm.full(x), approximate=approximate), x))
        return results[0].clone()

    def step(x):
        return F.gelu(F.gelu(x) + 1)

    found(step, place(numbers(4, 6), "S0", "R"), op="gelu", kernel=first_result)


# ---------------------------------------- what belongs to a value beside it


def test_a_dim_that_is_not_kept_is_found():
    def not_kept(x, dim=None, keepdim=False, dtype=None):
        return place(tm.full(x).sum(dim, dtype=dtype), "S0", "R")

    def step(x):
        return x / x.sum(1, keepdim=True)

    x = torch.ones(4, 4) + torch.eye(4)  # all its sums are equal
    found(step, place(x, "S0", "R"), op="sum.dim_IntList", kernel=not_kept)


def test_another_dtype_with_right_values_is_found():
    def wide(x, dim, half_to_float):
        return like(tm.full(x).softmax(dim).float(), x)

    def step(x):
        return x.softmax(-1)[0].sum()

    x = place(numbers(4, 6).bfloat16(), "S0", "R")
    found(step, x, op="_softmax", kernel=wide)


def test_other_strides_with_right_values_are_found():
    def columns_first(a, b):
        return like((tm.full(a) @ tm.full(b)).T.contiguous().T, a)

    def step(a, b):
        return a.mm(b).sum()

    a, b = place(numbers(6, 4), "S0", "R"), place(numbers(4, 4), "R", "R")
    found(step, a, b, op="mm", kernel=columns_first)


def test_a_view_that_is_a_copy_is_found():
    def copied(x, dim, index):
        return place(tm.full(x).select(dim, index), None, "S0")

    def step(x):
        y = x.clone()
        y.select(0, 1).mul_(3)
        return y.sum()

    x = place(numbers(4, 6), "R", "S1")
    found(step, x, op="select.int", kernel=copied)


def test_a_copy_that_is_a_view_is_found():
    def shared(x, memory_format=None):
        return x.detach()

    def step(x):
        y = x.clone()
        y.add_(1)
        return x.sum()

    found(step, place(numbers(4, 6), "S0", "R"), op="clone", kernel=shared)


def test_an_argument_that_is_written_by_the_way_is_found():
    def in_place(x):
        x.clamp_min_(0)
        return x.clone()

    def step(x):
        y = x + 1
        z = y.relu()
        return y.sum() + z.sum()

    found(step, place(numbers(4, 6), "S0", "R"), op="relu", kernel=in_place)


def test_a_number_read_from_one_part_is_found():
    def of_the_first_part(x):
        return tm.full(x).item() / 2

    def step(x):
        return x / max(x.abs().sum().item(), 1.0)

    x = place(numbers(4, 6), "S0", "S1")
    found(step, x, op="_local_scalar_dense", kernel=of_the_first_part)


def test_a_comparison_of_one_part_is_found():
    def of_the_first_rows(a, b):
        return torch.equal(tm.full(a)[:2], tm.full(b)[:2])

    def step(a, b):
        return a * 2 if torch.equal(a, b) else a

    a = numbers(4, 6)
    b = a.clone()
    b[3] = 0
    found(
        step,
        place(a, "S0", "R"),
        place(b, "S0", "R"),
        op="equal",
        kernel=of_the_first_rows,
    )


# ------------------------------------------------- gradients, draws, optimizers


def test_a_derivative_that_is_not_that_of_the_op_is_found():
    class Sigmoid(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with torch._C._AutoDispatchBelowAutograd():
                y = torch.sigmoid(x)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, gradient):
            (y,) = ctx.saved_tensors
            return gradient * y

    def step(x):
        (x * 2).sigmoid().sum().backward()

    x = place(numbers(4, 6), "S0", "R").requires_grad_()
    right = tm.check_parity(step, x)
    assert right, right
    with planted("sigmoid", Sigmoid.apply, "AutogradPrivateUse1"):
        parity = tm.check_parity(step, x)
    assert not parity
    assert "aten::sigmoid_backward" in str(parity), parity


def test_one_mask_for_all_shards_is_found():
    def repeated(x, p=0.5, generator=None):
        value = torch.empty(x.shape).bernoulli_(p)
        value[len(value) // 2 :] = value[: len(value) // 2]
        return x.copy_(value)

    def step(x):
        return x * torch.empty_like(x).bernoulli_(0.4)

    x = place(numbers(8, 6), "S0", "R")
    found(step, x, op="bernoulli_.float", kernel=repeated)


def test_a_dropout_that_scales_nothing_is_found():
    def unscaled(x, p, train):
        return x * (x.new_empty(x.shape).bernoulli_(1 - p))

    def step(x):
        return F.dropout(x, 0.4).sum()

    x = place(numbers(8, 6), "S0", "R")
    right = tm.check_parity(step, x)
    assert right, right
    with planted("dropout", unscaled, "AutogradPrivateUse1"):
        parity = tm.check_parity(step, x)
    assert not parity
    assert parity.first.op == "torch.nn.functional.dropout", parity


def test_attention_that_sees_what_comes_is_found():
    def sees_all(q, k, v, dropout=0.0, is_causal=False, **more):
        parts = (tm.full(t) for t in (q, k, v))
        value, sums = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *parts, dropout, False, **more
            )
        )
        return like(value, q), place(sums, "S0", "R")

    def step(x):
        return F.scaled_dot_product_attention(x, x, x, is_causal=True).sum()

    found(
        step,
        place(numbers(2, 3, 8, 4), "S0", "R"),
        op="_scaled_dot_product_flash_attention_for_cpu",
        kernel=sees_all,
    )


def test_a_mean_of_the_means_of_uneven_shards_is_found():
    def of_means(x, target, reduction=1):
        shards = zip(tm.shards(x)[::2], tm.shards(target)[::2], strict=True)
        means = [F.mse_loss(a, b) for a, b in shards]
        return place(sum(means) / len(means), "R", "R")

    def step(x, target):
        return F.mse_loss(x, target)

    state = [place(numbers(5, 3), "S0", "R") for _ in range(2)]
    found(step, *state, op="mse_loss", kernel=of_means)


def test_a_redistribution_that_mixes_shards_up_is_found(monkeypatch):
    def step(x):
        return tm.redistribute(x.tanh(), ("R", "S0")).sum(1)

    def mixed_up(x, layout):
        with torch._C._DisableTorchDispatch():  # as the library's own kernels
            return tm._C.distribute(tm.full(x).flip(0), layout)

    x = place(numbers(4, 6), "S0", "R")
    right = tm.check_parity(step, x)
    assert right, right
    monkeypatch.setattr(tm._C, "redistribute", mixed_up)
    parity = tm.check_parity(step, x)
    assert not parity
    assert "redistribute" in parity.first.op, parity


def test_a_gradient_that_comes_back_doubled_is_found(monkeypatch):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, layout):
            ctx.back = tm._C.layout_of(x)
            return redistribute(x.detach(), layout)

        @staticmethod
        def backward(ctx, gradient):
            with torch._C._DisableTorchDispatch():
                return redistribute(gradient.detach() * 2, ctx.back), None

    def step(x):
        tm.redistribute(x * 3, ("R", "S0")).sum().backward()

    redistribute = tm._C.redistribute
    x = place(numbers(4, 6), "S0", "R").requires_grad_()
    right = tm.check_parity(step, x)
    assert right, right
    monkeypatch.setattr(tm._C, "redistribute", Doubled.apply)
    parity = tm.check_parity(step, x)
    assert not parity
    assert parity.first.op == "torch_mesh.redistribute", parity
    assert "its gradient differs" in str(parity)


def test_a_batch_that_is_cut_in_another_order_is_found(monkeypatch):
    def step(weight, x):
        return tm.distribute(x, tm.Mesh(MESH), ("S0", "R")) @ weight

    given = tm._C.distribute

    def in_another_order(x, layout):
        with torch._C._DisableTorchDispatch():
            return given(x.flip(0), layout)

    state = place(numbers(4, 2), "R", "R"), numbers(6, 4)
    right = tm.check_parity(step, *state)
    assert right, right
    monkeypatch.setattr(tm._C, "distribute", in_another_order)
    parity = tm.check_parity(step, *state)
    assert not parity
    assert "distribute" in parity.first.op, parity


def test_a_batch_that_is_moved_in_another_order_is_found():
    def in_another_order(x, **_):
        return tm.full(x) if tm.is_global(x) else place(x.flip(0), "R", "R")

    def step(weight, x):
        with tm.use(tm.Mesh(MESH)):
            return x.to("mesh") @ weight

    state = place(numbers(4, 2), "R", "R"), numbers(6, 4)
    right = tm.check_parity(step, *state)
    assert right, right
    with planted("_to_copy", in_another_order):
        parity = tm.check_parity(step, *state)
    assert not parity
    assert parity.first.op == "aten::_to_copy", parity


def trained(optimizer, mesh=MESH, **settings):
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 1))
    with tm.use(tm.Mesh(mesh)):
        net.to("mesh")
    batch = place(numbers(6, 5), "S0", *["R"] * (len(mesh) - 1), mesh=mesh)
    return net, optimizer(net.parameters(), **settings), batch


def update(net, optimizer, x):
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def test_one_state_that_an_optimizer_leaves_as_it_was_is_found():
    def without_the_last(states, a, b, value=1):
        for state, x, y in list(zip(states, a, b, strict=True))[:-1]:
            state.addcmul_(x, y, value=value)

    state = trained(torch.optim.Adam, foreach=True)
    found(
        update,
        *state,
        op="_foreach_addcmul_.Scalar",
        kernel=without_the_last,
    )


@pytest.fixture
def separate_memories():
    tm._C.separate_cpu_memories(True)
    yield
    tm._C.separate_cpu_memories(False)


@pytest.fixture(scope="module")
def skipping():
    """An op that leaves a tensor as it was on every device but the first."""
    calls = itertools.count()
    library = torch.library.Library("planted_faults", "DEF")
    library.define("added(Tensor x, Tensor y) -> Tensor")
    library.impl("added", lambda x, y: x if next(calls) % 2 else x + y, "CPU")
    tm.register_rule("planted_faults::added", "x*, x* -> x*")
    yield torch.ops.planted_faults.added
    library._destroy()


def test_an_update_that_one_device_misses_is_found(separate_memories, skipping):
    def missing_the_last(parameters, gradients, alpha=1):
        for p, g in list(zip(parameters, gradients, strict=True))[:-1]:
            p.add_(g, alpha=alpha)
        p, g = parameters[-1], gradients[-1]
        p.copy_(skipping(p, g * alpha))

    state = trained(torch.optim.SGD, {"data": 2}, lr=0.1, foreach=True)
    parity = found(
        update, *state, op="_foreach_add_.List", kernel=missing_the_last
    )
    assert "device 1 has another copy" in str(parity)
