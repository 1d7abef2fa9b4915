"""Views: writing through a view changes the base, and the other way round."""

import functools

import torch
from tests.conformance.programs import compare

f = functools.partial


def base(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(*shape, dtype=dtype, generator=generator)
    return torch.randint(0, 9, shape, dtype=dtype, generator=generator)


COMPLEX = torch.complex64

# name: (shape, dtype, view). 6 divides by 2 and 3, 5 and 7 by neither.
VIEWS = {
    "alias": ((6, 5), None, lambda x: x[...]),
    "view_as": ((6, 5), None, lambda x: x.view_as(x)),
    "select_first": ((5, 4), None, lambda x: x.select(0, 3)),
    "select_last": ((5, 6), None, lambda x: x.select(-1, 2)),
    "select_middle": ((2, 5, 4), None, lambda x: x[:, 4]),
    "select_two": ((5, 6, 3), None, lambda x: x[4, 1]),
    "element": ((5, 6), None, lambda x: x[4, 5]),
    "slice_first": ((6, 4), None, lambda x: x[1:4]),
    "slice_last": ((5, 6), None, lambda x: x[:, 2:5]),
    "slice_step": ((7, 4), None, lambda x: x[::2]),
    "slice_step_last": ((4, 7), None, lambda x: x[:, 1::3]),
    "slice_end": ((7, 4), None, lambda x: x[-2:]),
    "slice_nothing": ((6, 4), None, lambda x: x[3:3]),
    "slice_both": ((6, 7), None, lambda x: x[2:5, 1:6]),
    "narrow": ((6, 4), None, lambda x: x.narrow(0, 2, 3)),
    "t": ((6, 5), None, lambda x: x.t()),
    "mT": ((2, 6, 5), None, lambda x: x.mT),
    "adjoint": ((2, 3, 4), COMPLEX, lambda x: x.adjoint()),
    "transpose": ((2, 6, 5), None, lambda x: x.transpose(0, 2)),
    "swapaxes": ((6, 5), None, lambda x: x.swapaxes(0, 1)),
    "permute": ((2, 6, 5), None, lambda x: x.permute(2, 0, 1)),
    "movedim": ((2, 6, 5), None, lambda x: x.movedim(0, -1)),
    "merge_first": ((4, 6, 5), None, lambda x: x.view(24, 5)),
    "merge_last": ((5, 4, 6), None, lambda x: x.view(5, 24)),
    "merge_all": ((5, 6), None, lambda x: x.view(-1)),
    "split_first": ((6, 4), None, lambda x: x.view(2, 3, 4)),
    "split_last": ((4, 6), None, lambda x: x.view(4, 3, 2)),
    "uneven_reshape": ((5, 6), None, lambda x: x.view(6, 5)),
    "uneven_reshape_3": ((4, 9), None, lambda x: x.view(6, 6)),
    "reshape": ((6, 4), None, lambda x: x.reshape(3, 8)),
    "flatten": ((2, 3, 5), None, lambda x: x.flatten(1)),
    "unflatten": ((6, 5), None, lambda x: x.unflatten(0, (3, 2))),
    "ravel": ((6, 5), None, lambda x: x.ravel()),
    "squeeze": ((6, 1, 5), None, lambda x: x.squeeze()),
    "squeeze_dim": ((1, 6), None, lambda x: x.squeeze(0)),
    "unsqueeze": ((6, 5), None, lambda x: x.unsqueeze(1)),
    "none": ((6, 5), None, lambda x: x[:, None, 1:3]),
    "expand": ((6, 1), None, lambda x: x.expand(6, 4)),
    "expand_new": ((6,), None, lambda x: x.expand(3, 6)),
    "broadcast_to": ((1, 5), None, lambda x: x.broadcast_to(6, 5)),
    "diagonal": ((6, 5), None, lambda x: x.diagonal()),
    "diagonal_offset": ((2, 6, 5), None, lambda x: x.diagonal(1, 0, 2)),
    "unbind": ((6, 5), None, lambda x: x.unbind()[4]),
    "unbind_last": ((6, 5), None, lambda x: x.unbind(1)[0]),
    "split": ((7, 4), None, lambda x: x.split(3)[1]),
    "split_sizes": ((7, 4), None, lambda x: x.split([1, 4, 2])[1]),
    "split_sizes_last": ((4, 7), None, lambda x: x.split([1, 4, 2], 1)[2]),
    "chunk": ((7, 4), None, lambda x: x.chunk(2)[1]),
    "tensor_split": ((7, 4), None, lambda x: x.tensor_split(3)[2]),
    "hsplit": ((4, 6), None, lambda x: x.hsplit(3)[1]),
    "vsplit": ((6, 4), None, lambda x: x.vsplit(2)[1]),
    "dsplit": ((2, 3, 4), None, lambda x: x.dsplit(2)[0]),
    "unfold": ((6, 5), None, lambda x: x.unfold(0, 2, 2)),
    "unfold_overlapping": ((6, 5), None, lambda x: x.unfold(0, 3, 1)),
    "unfold_last": ((5, 6), None, lambda x: x.unfold(1, 3, 3)),
    "as_strided": ((6, 5), None, lambda x: x.as_strided((3, 4), (10, 1), 2)),
    "as_strided_t": ((6, 5), None, lambda x: x.as_strided((5, 6), (1, 5))),
    "view_as_real": ((4, 3), COMPLEX, torch.view_as_real),
    "view_as_complex": ((6, 4, 2), None, torch.view_as_complex),
    "real": ((6, 3), COMPLEX, lambda x: x.real),
    "imag": ((6, 3), COMPLEX, lambda x: x.imag),
    "conj": ((6, 3), COMPLEX, lambda x: x.conj()),
    "neg_view": ((6, 3), None, lambda x: torch._neg_view(x)),
    "conj_imag": ((6, 3), COMPLEX, lambda x: x.conj().imag),
    "view_int": ((6, 4), None, lambda x: x.view(torch.int32)),
    "view_short": ((6, 4), None, lambda x: x.view(torch.int16)),
    "view_double": ((6, 4), None, lambda x: x.view(torch.float64)),
    "atleast_3d": ((6, 5), None, torch.atleast_3d),
    "detach": ((6, 5), None, lambda x: x.detach()),
    "data": ((6, 5), None, lambda x: x.data),
    "detach_slice": ((6, 5), None, lambda x: x.detach()[1:4, 2]),
    "data_slice": ((6, 5), None, lambda x: x.data[1:4, 2]),
    "select_slice": ((4, 6, 5), None, lambda x: x[3, 1:5:2]),
    "slice_t_slice": ((7, 6), None, lambda x: x[1:6].t()[2:]),
    "permute_merge": ((4, 2, 3), None, lambda x: x.permute(1, 0, 2)[1]),
    "split_t": ((6, 4), None, lambda x: x.view(2, 3, 4).transpose(0, 2)),
    "diagonal_slice": ((6, 6), None, lambda x: x[1:].diagonal()[::2]),
    "reshape_select": ((5, 6), None, lambda x: x.view(10, 3)[7]),
    "expand_slice": ((6, 1), None, lambda x: x[2:5].expand(3, 4)[:, 1]),
}

SECOND = {
    "first": lambda v: v[..., :1],
    "half": lambda v: v[len(v) // 2 :],
    "flat": lambda v: v.view(-1),
    "reversed": lambda v: v.permute(*reversed(range(v.dim()))),
    "none": lambda v: v[None],
}


def units(options):
    return [*VIEWS, *ASSIGNMENTS]


def run(unit, options, record):
    if unit in ASSIGNMENTS:
        program = f(assign, ASSIGNMENTS[unit])
        for shape, dtype in BASES:
            x = base(*shape, dtype=dtype)
            label = str(dtype).removeprefix("torch.")
            compare(record, options, f"{label} set", program, [x])
        x = base(*BASES[0][0])
        program = f(assign_gradient, ASSIGNMENTS[unit])
        compare(
            record, options, "gradient", program, [x.requires_grad_()],
            exact=False,
        )  # fmt: skip
        return
    shape, dtype, view = VIEWS[unit]
    x = base(*shape, dtype=dtype or torch.float32)
    if unit == "unfold_overlapping":  # writes to it mean nothing in torch
        for program in (just_view, write_base):
            name = program.__name__
            compare(record, options, name, f(program, view), [x])
        return
    for name, program in PROGRAMS.items():
        compare(record, options, name, f(program, view), [x])
    compare(record, options, "inference mode", f(in_inference, view), [x])
    for name, second in SECOND.items():
        program = f(write_chain, view, second)
        compare(record, options, f"chain {name}", program, [x])
    leaf = base(*shape, dtype=dtype or torch.float32).requires_grad_()
    for name, program in GRADIENTS.items():
        compare(
            record, options, name, f(program, view), [leaf],
            exact=False,
        )  # fmt: skip


# ------------------------------------------------------------------ programs


def facts(world, x, v):
    """What can be told of a view without looking at values."""
    return [
        v.shape,
        v.stride(),
        v.storage_offset(),
        v._is_view(),
        v._base is x,
        v.is_contiguous(),
        v._version,
        x._version,
        v.is_conj(),
        v.is_neg(),
        v.untyped_storage()._cdata == x.untyped_storage()._cdata,
    ]


def just_view(view, world, x):
    v = view(x)
    return [v, *facts(world, x, v), x]


def write_view(view, world, x):
    v = view(x)
    world.write(v, lambda v: v.mul_(3))
    return [x, v, v._version, x._version, view(x)]


def fill_view(view, world, x):
    v = view(x)
    world.write(v, lambda v: v.fill_(2))
    return [x, v, x.sum() * 0, x + 1]


def copy_to_view(view, world, x):
    v = view(x)
    other = torch.arange(v.numel(), device=world.device).view(v.shape)
    world.write(v, lambda v: v.copy_(other))
    return [x, v]


def sharded_copy_to_view(view, world, x):
    v = view(x)
    other = torch.arange(v.numel()).reshape(v.shape).to(v.dtype)
    other = world.sharded(other) if v.dim() else other
    world.write(v, lambda v: v.add_(other))
    return [x, v]


def write_base(view, world, x):
    v = view(x)
    first = v + 0
    world.write(x, lambda x: x.mul_(2))
    second = v + 0
    world.write(x, lambda x: x[:1].add_(1))
    return [first, second, v, x, v._version, x._version]


def write_both(view, world, x):
    v, w = view(x), view(x)
    v.mul_(2)
    w.mul_(3)
    x.add_(1)
    v.add_(1)
    return [v, w, x]


def out_is_view(view, world, x):
    v = view(x)
    source = torch.ones(v.shape, dtype=v.dtype, device=world.device)
    world.write(v, lambda v: torch.mul(source, 4, out=v))
    return [x, v]


def write_outlives_base(view, world, x):
    v = view(x.clone())
    v.mul_(2)
    return [v, v.clone()]


def clone_is_apart(view, world, x):
    v = view(x)
    c = v.clone()
    v.mul_(2)
    c.mul_(5)
    return [x, v, c]


def write_chain(view, second, world, x):
    v = view(x)
    w = second(v)
    world.write(w, lambda w: w.mul_(3))
    after = [x.clone(), v.clone(), w.clone()]
    x.add_(1)
    return [*after, x, v, w, w.stride(), w.storage_offset(), w._version]


PROGRAMS = {
    "view": just_view,
    "write view": write_view,
    "fill view": fill_view,
    "copy to view": copy_to_view,
    "add sharded to view": sharded_copy_to_view,
    "write base": write_base,
    "write both": write_both,
    "out=": out_is_view,
    "outlives base": write_outlives_base,
    "clone": clone_is_apart,
}


def weights(world, t):
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    return w.to(t.dtype).to(world.device)


def gradient_of_view(view, world, leaf):
    x = leaf * 1
    v = view(x)
    if not v.requires_grad:
        return [v]
    total = (v * weights(world, v)).abs().sum()  # cancels nothing
    return [total, *torch.autograd.grad(total, [leaf])]


def gradient_of_write(view, world, leaf):
    x = leaf * 1
    v = view(x)
    v.mul_(3)
    total = (x * weights(world, x)).sum().abs()
    return [x, *torch.autograd.grad(total, [leaf])]


def gradient_of_copy(view, world, leaf):
    x = leaf * 1
    v = view(x)
    v.copy_(v.detach() * v)
    total = (x * weights(world, x)).sum().abs()
    return [x, *torch.autograd.grad(total, [leaf])]


def saved_view(view, world, leaf):
    x = leaf * 1
    v = view(x)
    y = v * v
    if not y.requires_grad:
        return [y]
    return [y, *torch.autograd.grad((y * weights(world, y)).sum().abs(), leaf)]


def saved_view_overwritten(view, world, leaf):
    """Plain torch raises: what backward needs was modified in place."""
    x = leaf * 1
    v = view(x)
    y = v * v
    x.add_(1)
    return torch.autograd.grad(y.sum().abs(), leaf)


def write_to_leaf_view(view, world, leaf):
    """Plain torch raises: a view of a leaf that requires grad."""
    view(leaf).mul_(2)
    return [leaf]


def write_without_grad(view, world, leaf):
    with torch.no_grad():
        v = view(leaf)
        v.mul_(2)
    return [leaf, leaf._version, leaf.is_leaf, v.requires_grad]


def in_inference(view, world, x):
    """Tensors without a version counter and without an autograd key."""
    with torch.inference_mode():
        x = x.clone()
        v = view(x)
        v.mul_(3)
        first = [x.clone(), v.clone()]
        x.add_(1)
        view(x).add_(2)
        return [*first, x, v, v.is_inference(), v._is_view()]


GRADIENTS = {
    "gradient of view": gradient_of_view,
    "gradient of write": gradient_of_write,
    "gradient of copy": gradient_of_copy,
    "saved view": saved_view,
    "saved view overwritten": saved_view_overwritten,
    "leaf written": write_to_leaf_view,
    "no_grad write": write_without_grad,
}


# ----------------------------------------------------------------- x[i] = v

BASES = [
    ((6, 5, 4), torch.float32),
    ((6, 5, 4), torch.int64),
    ((7, 5, 3), torch.bfloat16),
]


def on(world, values):
    return torch.tensor(values, device=world.device)


def set_item(index):
    """x[index(world, x)] = numbers, then = a number, then += ."""

    def program(world, x):
        i = index(world, x)
        value = torch.arange(x[i].numel(), device=world.device)
        value = value.view(x[i].shape).to(x.dtype)

        def write(x):
            x[i] = value

        world.write(x, write)
        first = x.clone()
        x[i] = 7
        second = x.clone()
        x[i] += 1
        return [first, second, x, x._version]

    program.index = index
    return program


ASSIGNMENTS = {
    "set int": set_item(lambda w, x: 3),
    "set negative": set_item(lambda w, x: -1),
    "set slice": set_item(lambda w, x: slice(1, 5)),
    "set step": set_item(lambda w, x: slice(None, None, 2)),
    "set tuple": set_item(lambda w, x: (2, slice(1, 3))),
    "set last": set_item(lambda w, x: (..., 2)),
    "set middle": set_item(lambda w, x: (slice(None), 4)),
    "set all": set_item(lambda w, x: ...),
    "set none": set_item(lambda w, x: (None, slice(2, 4))),
    "set element": set_item(lambda w, x: (4, 3, 2)),
    "set nothing": set_item(lambda w, x: slice(2, 2)),
    "set mask": set_item(lambda w, x: x > x.sum() * 0),
    "set mask first": set_item(
        lambda w, x: on(w, [True, False] * 3 + [True])[: len(x)]
    ),
    "set mask none": set_item(lambda w, x: torch.zeros_like(x).bool()),
    "set index": set_item(lambda w, x: on(w, [3, 0, 5])),
    "set list": set_item(lambda w, x: [1, 4]),
    "set two indices": set_item(lambda w, x: (on(w, [3, 0]), on(w, [1, 4]))),
    "set index and slice": set_item(lambda w, x: (slice(1, 4), on(w, [3, 0]))),
    "set index apart": set_item(
        lambda w, x: (on(w, [3, 0]), slice(None), on(w, [2, 1]))
    ),
    "set wide index": set_item(lambda w, x: on(w, [[3, 0], [1, 2]])),
    "set plain index": set_item(lambda w, x: torch.tensor([3, 0, 5])),
    "set out of range": set_item(lambda w, x: 11),
    "set index out of range": set_item(lambda w, x: on(w, [11])),
}


def assign(program, world, x):
    return program(world, x)


def assign_gradient(program, world, leaf):
    x = leaf * 1
    i = program.index(world, x)
    value = (leaf.flatten()[: x[i].numel()] * 2).view(x[i].shape)
    x[i] = value
    total = (x * weights(world, x)).sum().abs()
    return [x, *torch.autograd.grad(total, [leaf])]
