"""Strides, offsets and dropout masks of the mesh are plain torch's.

TORCH_MESH_STRIDE_PROGRAMS=20000 pytest tests/python/test_strides.py runs more
random programs than the few of each day; a failure prints its seed.
"""

import os
import random

import pytest
import torch
import view_chains
from placing import assert_equal, mesh_of, place
from torch._prims_common import suggest_memory_format
from torch.nn import functional as F

import torch_mesh as tm

PROGRAMS = int(os.environ.get("TORCH_MESH_STRIDE_PROGRAMS", "1000"))
NUM_PARTS = 4
COUNTS = {"2": 2, "3": 3, "4": 4, "2x2": 4}


def flat(value):
    if isinstance(value, list | tuple):
        return [t for part in value for t in flat(part)]
    return [value]


class Program:
    """A base, a chain of views, an op and a gradient, all from one seed."""

    def __init__(self, seed):
        rng = random.Random(seed)
        self.mesh_name = rng.choice(list(COUNTS))
        count = COUNTS[self.mesh_name]
        rows = rng.choice([count, count, 1, count + 1, count - 1, 2 * count])
        base = view_chains.values(rng, view_chains.shape_of(rng, rows))
        if rng.random() < 0.4:
            order = rng.sample(range(base.dim()), base.dim())
            base = base.permute(order).contiguous()
        if rng.random() < 0.2 and base.dim() == 4:
            base = base.to(memory_format=torch.channels_last)
        self.base = base
        self.placements = tuple(
            rng.choice(["R", "S0", "S0", "S1", f"S{base.dim() - 1}"])
            if base.dim() > 1
            else rng.choice(["R", "S0"])
            for _ in self.mesh_name.split("x")
        )
        length = rng.randint(0, 4)
        self.steps, view = view_chains.chain_of(rng, base, length)
        self.op = view_chains.op_of(rng, view)
        self.gradient = rng.choice(["", "ones", "dense", "turned"])
        self.text = (
            f"seed {seed}: {tuple(base.shape)} {base.stride()} on "
            f"{self.mesh_name} {self.placements}: "
            + " ".join(text for text, _ in self.steps)
            + f" {tuple(view.shape)} {view.stride()}; {self.op[0]}"
            + f"; gradient {self.gradient or 'none'}"
        )

    def run(self, x):
        """(what, tensor) of all that the program makes."""
        made = []
        for text, view in self.steps:
            x = view(x)
            made.append((text, x))
        leaf = x.detach()
        leaf.requires_grad_(bool(self.gradient))
        torch.manual_seed(3)
        try:
            results = flat(self.op[1](leaf))
        except RuntimeError as error:
            if "out=" not in str(error):
                raise
            leaf = x.detach()  # out= and gradients do not go together
            results = flat(self.op[1](leaf))
        made += [(self.op[0], r.detach()) for r in results]
        for result in results:
            if result.requires_grad and result.is_floating_point():
                (grad,) = torch.autograd.grad(
                    result, leaf, self.gradient_of(result), retain_graph=True
                )
                made.append((f"gradient of {self.op[0]}", grad))
        return made

    def gradient_of(self, result):
        if self.gradient == "ones":
            return torch.ones_like(result.sum()).expand(result.shape)
        dense = torch.linspace(-1, 2, result.numel(), dtype=result.dtype)
        # Where a dim has one element, a small plain tensor brought to the mesh
        # forgets the stride of that dim.
        if self.gradient == "turned" and 1 not in result.shape:
            dims = range(result.dim())[::-1]
            turned = dense.reshape(result.shape[::-1]).permute(*dims)
            if self.op[0].startswith("batch_norm") and is_hidden(turned):
                turned = turned.contiguous()
            return turned.to(result.device)
        return dense.reshape(result.shape).to(result.device)


def is_hidden(t):
    """Whether torch's own gradient of batch norm goes wrong on this one."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}
    return (
        t.dim() in channels_last
        and not t.is_contiguous()
        and t.is_contiguous(memory_format=channels_last[t.dim()])
        and suggest_memory_format(t) == torch.contiguous_format
    )


def outcome(program, x):
    try:
        return program.run(x)
    except Exception as error:
        return error


def difference(seed):
    """What is not plain torch's in a program; None if nothing."""
    program = Program(seed)
    expected = outcome(program, program.base.clone())
    mesh = mesh_of(program.mesh_name)
    with tm.use(mesh):
        base = place(program.base, mesh, program.placements)
        actual = outcome(program, base.clone())
    if isinstance(expected, Exception):
        if isinstance(actual, type(expected)):
            return None
        return f"{program.text}\n  {actual!r}, plain: {expected!r}"
    if isinstance(actual, Exception):
        return f"{program.text}\n  {actual!r}"
    for (what, a), (_, e) in zip(actual, expected, strict=True):
        if what == "gradient of group_norm":
            # Torch has it in the input's format on devices of type "cpu" alone.
            a, e = a.contiguous(), e.contiguous()
        found = unlike(a, e)
        if found:
            return f"{program.text}\n  {what}: {found}"
    return None


def unlike(a, e):
    if (a.shape, a.dtype) != (e.shape, e.dtype):
        return f"{a.dtype}{tuple(a.shape)}, not {e.dtype}{tuple(e.shape)}"
    if a.storage_offset() != e.storage_offset():
        return f"offset {a.storage_offset()}, not {e.storage_offset()}"
    if a.numel() and (shown(a), memory_format(a)) != (
        shown(e),
        memory_format(e),
    ):
        return f"strides {a.stride()}, not {e.stride()} of {tuple(e.shape)}"
    whole = tm.full(a)
    if not torch.allclose(whole, e, rtol=1e-3, atol=1e-4, equal_nan=True):
        return "other values"
    if e.is_floating_point():
        unlike_mask = (masked(a) != masked(e)) & (e.abs() > 1e-3)
        if unlike_mask.any():
            return f"another mask, strides {a.stride()} and {e.stride()}"
    return None


def shown(t):
    """Strides of the dims that have more than one element."""
    return [s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1]


def memory_format(t):
    """That of images, if all of their dims but the batch's show it."""
    if t.dim() != 4 or 1 in t.shape[1:]:
        return None
    return suggest_memory_format(t)


def masked(t):
    torch.manual_seed(5)
    return F.dropout(t, 0.5).cpu() == 0


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_random_views_and_ops_lie_as_in_plain_torch(part):
    for seed in range(part, PROGRAMS, NUM_PARTS):
        found = difference(seed)
        assert not found, found


def test_so_they_do_in_separate_memories(separate_memories):
    for seed in range(10**6, 10**6 + PROGRAMS // 8):
        found = difference(seed)
        assert not found, found


ONE_ROW = [
    ("2", (2, 6, 8), ("S0",)),
    ("4", (4, 6, 8), ("S0",)),
    ("4", (8, 6, 8), ("S0",)),
    ("3", (4, 6, 8), ("S0",)),
    ("4", (4, 6, 8), ("S2",)),
    ("2x2", (4, 6, 8), ("S0", "S0")),
    ("2", (1, 6, 8), ("S0",)),
    ("4", (1, 6, 8), ("R",)),
]


@pytest.mark.parametrize("mesh_name, sizes, placements", ONE_ROW)
def test_one_row_of_pixels_keeps_its_memory_format(
    mesh_name, sizes, placements
):
    t = torch.randn(sizes)
    w, c = torch.randn(8, 8, 3, 3), torch.ones(8)
    mesh = mesh_of(mesh_name)
    with tm.use(mesh):
        m = tm.distribute(t, mesh, placements)
        for f in (
            lambda x: x,
            lambda x: F.group_norm(x, 2),
            lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
            lambda x: F.max_pool2d(x, 2),
            lambda x: F.conv2d(x, w.to(x.device), padding=1),
            lambda x: F.batch_norm(x, c.to(x.device), c.to(x.device)),
            lambda x: F.layer_norm(x, (3,)),
            lambda x: torch.cat([x, x], 1),
            lambda x: x.exp() * 2,
        ):
            found = unlike(f(image(m)), f(image(t)))
            assert not found, found


def image(x):
    return x.permute(0, 2, 1).reshape(x.shape[0], 8, 2, 3)


@pytest.mark.parametrize("num_devices", [2, 4, 8])
@pytest.mark.parametrize("placements", ["S0", "S1", "S2", "S3", "R", "P+"])
@pytest.mark.parametrize("sizes", [(2, 5, 4, 3), (2, 1, 5, 3), (5, 5, 1, 3)])
def test_what_is_picked_and_put_together_lies_as_in_plain_torch(
    num_devices, placements, sizes
):
    """Also in dims of size 1, by which memory formats are told apart."""
    mesh = tm.Mesh({"data": num_devices})
    t = torch.randn(sizes).contiguous(memory_format=torch.channels_last)
    m = tm.distribute(t, mesh, (placements,))
    one, two = torch.tensor([0, 0]), torch.tensor([[0], [0]])
    for f in (
        *(lambda x, d=d: x.roll(1, d) for d in range(4)),
        lambda x: x.roll((1, 2), (3, 0)),
        lambda x: x.roll(3),
        *(lambda x, d=d: torch.cat([x, x], d) for d in range(4)),
        lambda x: torch.cat([x[:, :1], x[:, :1]], 1),
        *(lambda x, d=d: x[(slice(None),) * d + (one,)] for d in range(4)),
        lambda x: x[:, two],
        lambda x: x[:, one, :, one],
        lambda x: x[:, :1, :1, 0].permute(1, 0, 2)[:, one],
        lambda x: x[:, :, one, one],
        *(lambda x, d=d: x.index_select(d, one[:1]) for d in range(4)),
        lambda x: x.gather(1, torch.zeros(1, 1, 1, 2, dtype=torch.long)),
        lambda x: x.contiguous().clone(memory_format=torch.channels_last),
        lambda x: x.contiguous().to(memory_format=torch.channels_last),
        lambda x: x.contiguous(memory_format=torch.channels_last).clone(),
        lambda x: x.clamp(-1, 1),
        lambda x: x.abs().relu(),
        lambda x: x.as_strided((3, 3), (0, 4)).t().abs(),
    ):
        right, mine = f(t), f(m)
        assert mine.shape == right.shape
        assert mine.stride() == right.stride()
        assert_equal(mine, right)


# Two formats at once, as each dim of size 1 has a stride of its own.
AMBIGUOUS = {
    "rows of one": lambda x: x.permute(1, 0, 3, 2).contiguous().transpose(1, 2),
    "a diagonal": lambda x: x.diagonal(0, 0, 1).permute(2, 0, 1).unsqueeze(1),
    "reduced": lambda x: x.sum(2, keepdim=True).transpose(1, 2),
    "permuted": lambda x: x[:, :, 0].permute(1, 2, 0).unsqueeze(3),
}


@pytest.mark.parametrize("num_devices", [2, 8])
@pytest.mark.parametrize("placements", ["S0", "S1", "R", "P+"])
@pytest.mark.parametrize("sizes", [(6, 5, 1, 1), (4, 4, 2, 1), (2, 1, 8, 2)])
@pytest.mark.parametrize("shown", AMBIGUOUS)
def test_what_lies_in_two_formats_lies_as_in_plain_torch(
    num_devices, placements, sizes, shown
):
    mesh = tm.Mesh({"data": num_devices})
    t = torch.randint(-4, 5, sizes).double()
    m = tm.distribute(t, mesh, (placements,))
    t, m = AMBIGUOUS[shown](t), AMBIGUOUS[shown](m)
    one = torch.tensor([0, 0])
    for f in (
        *(lambda x, d=d: torch.stack([x, x], d) for d in range(t.dim() + 1)),
        *(lambda x, d=d: torch.cat([x, x], d) for d in range(t.dim())),
        *(lambda x, d=d: x.roll(1, d) for d in range(t.dim())),
        lambda x: x[:, one],
        lambda x: x > 1,
        lambda x: torch.where(x > 1, x, 2),
        lambda x: torch.where(x > 1, x, x),
        lambda x: torch.cat([x.where(x > 1, 2), x], 1),
        lambda x: torch._foreach_sub([x], [x])[0],
        lambda x: torch._foreach_neg([x])[0],
        lambda x: torch._foreach_add([x], 1)[0],
        lambda x: torch._foreach_mul([x], [2.0])[0],
    ):
        right, mine = f(t), f(m)
        assert mine.shape == right.shape
        assert told(mine) == told(right)
        assert_equal(mine, right)


def told(x):
    """Strides that address something: those of dims with several elements."""
    return [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1]


@pytest.mark.parametrize("rows", [8, 4, 1])
@pytest.mark.parametrize("placements", ["S0", "S1", "R"])
@pytest.mark.parametrize(
    "order",
    [
        lambda x: x,
        lambda x: x.transpose(2, 3),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[..., ::2],
    ],
    ids=["contiguous", "transposed", "channels_last", "sliced"],
)
def test_batch_norm_lies_in_a_memory_format(rows, placements, order):
    base = torch.randn(rows, 8, 4, 4)
    gradient = torch.randn(rows, 8, 4, 4)
    mesh = mesh_of("4")
    made = []
    for t, device in (
        (base, "cpu"),
        (tm.distribute(base, mesh, (placements,)), "mesh"),
    ):
        with tm.use(mesh):
            w = torch.ones(8, device=device)
            x = order(t).detach().requires_grad_()
            y = F.batch_norm(x, None, None, w, w, training=True)
            dense = gradient[..., : y.shape[-1]].contiguous().to(device)
            turned = gradient.mT[..., : y.shape[-1]].to(device)
            grads = [
                torch.autograd.grad(y, x, g, retain_graph=True)[0]
                for g in (dense, turned, torch.ones_like(y.sum()).expand_as(y))
            ]
            made.append([y.detach(), *grads])
    for e, a in zip(*made, strict=True):
        found = unlike(a, e)
        assert not found, found


@pytest.mark.parametrize("placements", ["R", "S0", "S1"])
@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 3, 0, 1), (2, 0, 3, 1)])
def test_the_gradient_of_batch_norm_is_right_however_it_lies(placements, order):
    x = torch.randn(4, 3, 1, 4)
    g = torch.randn([x.shape[d] for d in order])
    back = [order.index(d) for d in range(4)]
    mesh = mesh_of("4")

    def gradient(x, g):
        x = x.detach().requires_grad_()
        y = F.batch_norm(x, None, None, training=True)
        return torch.autograd.grad(y, x, g)[0]

    expected = gradient(x, g.permute(back).contiguous())
    m = tm.distribute(x, mesh, (placements,))
    for gradient_placements in ("R", f"S{order.index(0)}"):
        turned = tm.distribute(g, mesh, (gradient_placements,)).permute(back)
        actual = tm.full(gradient(m, turned))
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("placements", ["R", "S0", "S1"])
@pytest.mark.parametrize(
    "scatter",
    [
        lambda x, row: x.select_scatter(row, 0, 1),
        lambda x, row: x.slice_scatter(row.expand(2, -1), 0, 1, 3),
        lambda x, row: x.diagonal_scatter(row[:2], 0, 0, 1),
        lambda x, row: x.as_strided_scatter(row, (3,), (2,), 1),
    ],
    ids=["select", "slice", "diagonal", "as_strided"],
)
@pytest.mark.parametrize(
    "window",
    [
        lambda x: x,
        lambda x: x[1:],
        lambda x: x[:, ::2],
        lambda x: x.t()[1:4],
        lambda x: x[:1].expand(4, 6),
    ],
    ids=["whole", "rows", "gaps", "transposed", "expanded"],
)
def test_a_scatter_into_a_window_keeps_its_strides_and_offset(
    placements, scatter, window
):
    x = torch.arange(24.0).reshape(4, 6)
    mesh = mesh_of("2")
    m = tm.distribute(x, mesh, (placements,))
    try:
        expected = scatter(window(x), -torch.ones(window(x).shape[1]))
    except RuntimeError as error:
        with tm.use(mesh), pytest.raises(RuntimeError) as raised:
            scatter(window(m), -m.new_ones(window(m).shape[1]))
        assert str(error)[:40] in str(raised.value)
        return
    with tm.use(mesh):
        actual = scatter(window(m), -m.new_ones(window(m).shape[1]))
    assert not unlike(actual, expected), unlike(actual, expected)
    assert (
        actual.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
    )
    assert torch.equal(tm.full(m), x)  # a copy


@pytest.mark.parametrize("placements", ["R", "S0"])
def test_a_tensor_is_set_to_itself_and_to_what_is_the_same_window(placements):
    m = tm.distribute(torch.zeros(4, 2), mesh_of("2"), (placements,))
    assert m.is_set_to(m)
    assert m.is_set_to(m.detach())
    assert m[1:].is_set_to(m[1:])
    assert not m.is_set_to(m[1:])
    assert not m.is_set_to(m.clone())
    assert not m.is_set_to(m.T)


@pytest.mark.parametrize("placements", ["R", "S0", "S1"])
@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x.clone(),
        lambda x: x.to(torch.bfloat16),
        lambda x: x.contiguous(),
        torch.zeros_like,
        lambda x: F.dropout(x, 0.3),
        lambda x: torch.hstack([x, x]),
        lambda x: x[:, torch.tensor([0, -1])],
    ],
)
def test_copies_of_expanded_views_lie_as_in_plain_torch(placements, rows, copy):
    x = torch.randn(rows, 1, 6, 1, 4).to(memory_format=torch.channels_last_3d)
    mesh = mesh_of("2")
    m = tm.distribute(x, mesh, (placements,))
    for view in (
        lambda x: x.expand(-1, 3, -1, 2, -1),
        lambda x: x.expand(-1, 3, -1, -1, -1).transpose(0, 1),
        lambda x: x.select(3, 0).expand(2, -1, 3, -1, -1),
    ):
        torch.manual_seed(2)
        expected = copy(view(x))
        torch.manual_seed(2)
        with tm.use(mesh):
            found = unlike(copy(view(m)), expected)
        assert not found, found
