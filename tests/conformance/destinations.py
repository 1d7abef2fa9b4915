"""Writes of which place or order is easily lost.

Lists whose elements are views of one storage; plain destinations and plain
arguments beside cut ones; destinations that are sums, beside arguments over
which another sum is formed; what is made in inference mode; fused optimizers
with gradients in other layouts than their weights. All on devices that share a
memory, and on such as do not.
"""

import functools

import torch
from tests.conformance.programs import compare

import torch_mesh as tm

f = functools.partial


def numbers(*shape, seed=0, dtype=torch.float32):
    """Small integers, so that sums are exact in any order."""
    generator = torch.Generator().manual_seed(3 + seed)
    return torch.randint(1, 6, shape, generator=generator).to(dtype)


def units(options):
    return [
        *(f"list {name}" for name in LISTS),
        *(f"plain {name}" for name in PLAIN),
        *(f"sum {name}" for name in SUMS),
        *(f"inference {name}" for name in INFERENCE),
        *(f"fused {name}" for name in FUSED),
    ]


def run(unit, options, record):
    kind, _, name = unit.partition(" ")
    runs = {
        "list": run_list,
        "plain": run_plain,
        "sum": run_sum,
        "inference": run_inference,
        "fused": run_fused,
    }
    for apart in (False, True):
        tm._C.separate_cpu_memories(apart)
        try:
            runs[kind](name, options, record, "apart " if apart else "")
        finally:
            tm._C.separate_cpu_memories(False)


# --------------------------------------- lists of views of one storage

VIEWS = {
    "rows": lambda x: [x[0], x[3:5], x[6:]],
    "crossing": lambda x: [x[0], x[3:5], x[:, 1]],
    "columns": lambda x: [x[:, 0], x[:, 3], x[:, 1:3]],
    "transposed": lambda x: [x.t()[1], x[2], x.t()],
    "overlapping": lambda x: [x[0:3], x[2:6], x[1:5]],
    "twice": lambda x: [x, x[1], x],
    "backwards": lambda x: [x[4:], x[2:4], x[:2]],
    "flat": lambda x: [x.view(-1)[3:9], x.view(4, 7)[1], x[4:]],
}


def like(vs, value):
    return [torch.full_like(v, value) for v in vs]


LISTS = {
    "add": lambda vs: torch._foreach_add_(vs, 2.0),
    "add numbers": lambda vs: torch._foreach_add_(vs, [1.0, 2.0, 3.0]),
    "add itself": lambda vs: torch._foreach_add_(vs, [v.clone() for v in vs]),
    "sub": lambda vs: torch._foreach_sub_(vs, like(vs, 3), alpha=2),
    "mul tensor": lambda vs: torch._foreach_mul_(vs, vs[0].new_tensor(2.0)),
    "div": lambda vs: torch._foreach_div_(vs, [2.0, 4.0, 8.0]),
    "neg": lambda vs: torch._foreach_neg_(vs),
    "sqrt": lambda vs: torch._foreach_sqrt_(vs),
    "zero": lambda vs: torch._foreach_zero_(vs),
    "copy": lambda vs: torch._foreach_copy_(vs, like(vs, 9)),
    "copy each other": lambda vs: torch._foreach_copy_(
        [v.view(-1)[:2] for v in vs if v.is_contiguous()],
        [v.reshape(-1)[-2:] for v in vs if v.is_contiguous()],
    ),
    "lerp": lambda vs: torch._foreach_lerp_(vs, like(vs, 5), 0.5),
    "lerp by weights": lambda vs: torch._foreach_lerp_(
        vs, like(vs, 5), like(vs, 0.25)
    ),
    "addcmul": lambda vs: torch._foreach_addcmul_(vs, like(vs, 2), like(vs, 3)),
    "addcdiv": lambda vs: torch._foreach_addcdiv_(
        vs, like(vs, 6), like(vs, 2), [1.0, 2.0, 3.0]
    ),
    "addcdiv tensor": lambda vs: torch._foreach_addcdiv_(
        vs, like(vs, 6), like(vs, 2), torch.tensor([1.0, 2.0, 3.0])
    ),
    "clamp": lambda vs: torch._foreach_clamp_min_(vs, 3.0),
    "maximum": lambda vs: torch._foreach_maximum_(vs, like(vs, 2)),
    "pow": lambda vs: torch._foreach_pow_(vs, [2.0, 1.0, 3.0]),
    "broadcast": lambda vs: torch._foreach_mul_(
        vs, [v[:1].clone() for v in vs]
    ),
    "refused": lambda vs: torch._foreach_add_(vs, [1.0, 2j, 3.0]),
}


def run_list(name, options, record, memories):
    for label, views in VIEWS.items():
        for dtype in (torch.float32, torch.int64):
            if dtype == torch.int64 and options.quick and label != "crossing":
                continue
            compare(
                record,
                options,
                f"{memories}{label} {dtype}",
                f(write_views, views, LISTS[name]),
                [numbers(7, 4, dtype=dtype)],
            )


def write_views(views, write, world, x):
    refused = False

    def act(x):
        nonlocal refused
        try:
            write(views(x))
        except (RuntimeError, TypeError):
            refused = True

    world.write(x, act)
    return [x, refused, None if refused else x._version]


# -------------------------------------- plain destinations and plain arguments

I = torch.tensor([1, 3, 0])  # noqa: E741
MASK = torch.arange(28).view(7, 4) % 3 == 0

# g is global (7, 4), m global (4, 4); p is plain (7, 4).
PLAIN = {
    "mul_": lambda p, g, m: p.mul_(g),
    "add_": lambda p, g, m: p.add_(g, alpha=2),
    "add_ view": lambda p, g, m: p[1:].add_(g[:6]),
    "add_ column": lambda p, g, m: p[:, 1].add_(g[:, 2]),
    "add_ row": lambda p, g, m: p.add_(g[2]),
    "copy_": lambda p, g, m: p.t()[1:].copy_(g.t()[:3]),
    "index_put_": lambda p, g, m: p.index_put_((I,), g[:3]),
    "index_put_ sum": lambda p, g, m: p.index_put_(
        (I * 0,), g[:3], accumulate=True
    ),
    "setitem mask": lambda p, g, m: p.__setitem__(MASK, g[MASK]),
    "setitem global mask": lambda p, g, m: p.__setitem__(g > 3, 0.0),
    "addmm_": lambda p, g, m: p.addmm_(g, m, beta=2, alpha=3),
    "addmm_ plain": lambda p, g, m: p.addmm_(torch.ones(7, 4), m),
    "addmv_": lambda p, g, m: p[:, 0].addmv_(g, m[0]),
    "baddbmm_": lambda p, g, m: p[None].baddbmm_(g[None], m[None]),
    "addcmul_": lambda p, g, m: p.addcmul_(g, torch.ones(4)),
    "lerp_": lambda p, g, m: p.lerp_(g, 0.25),
    "masked_fill_": lambda p, g, m: p.masked_fill_(g > 3, -1.0),
    "index_add_": lambda p, g, m: p.index_add_(0, I, g[:3]),
    "index_copy_": lambda p, g, m: p.index_copy_(0, I, g[:3]),
    "scatter_": lambda p, g, m: p.scatter_(0, I[None], g[:1]),
    "scatter_add_": lambda p, g, m: p.scatter_add_(0, I[None], g[:1]),
    "clamp_": lambda p, g, m: p.clamp_(g - 1, g + 1),
    "bernoulli_": lambda p, g, m: p.bernoulli_(g / 9),
    "out": lambda p, g, m: torch.mul(g, g, out=p),
    "out view": lambda p, g, m: torch.mul(g[1], g[0], out=p[3]),
    "out matmul": lambda p, g, m: torch.mm(g, m, out=p),
    "out itself": lambda p, g, m: torch.add(p, g, out=p),
    "out overlap": lambda p, g, m: torch.add(p[1:], g[1:], out=p[:-1]),
    "list": lambda p, g, m: torch._foreach_add_([p[0], g], [m[0], p]),
    "list copy": lambda p, g, m: torch._foreach_copy_([p[:3], g], [g[4:], p]),
    "argument add": lambda p, g, m: g + p,
    "argument matmul": lambda p, g, m: g @ p.t(),
    "argument addmm": lambda p, g, m: torch.addmm(p, g, m),
    "argument cat": lambda p, g, m: torch.cat([g, p], 1),
    "argument where": lambda p, g, m: torch.where(p > 3, g, p),
    "argument index": lambda p, g, m: g[I] * p[I],
    "argument in place": lambda p, g, m: g.mul_(p).sub_(p[0]),
    "argument loss": lambda p, g, m: (
        torch.nn.functional.binary_cross_entropy_with_logits(g, p / 6)
    ),
    "argument classes": lambda p, g, m: torch.nn.functional.cross_entropy(
        g, p[:, 0].long() % 4
    ),
    "argument norm": lambda p, g, m: torch.nn.functional.layer_norm(
        g, (4,), p[0], p[1]
    ),
}  # fmt: skip


def run_plain(name, options, record, memories):
    exact = not name.startswith("argument")
    tensors = [numbers(7, 4), numbers(4, 4, seed=1)]
    leaves = [t.clone().requires_grad_() for t in tensors]
    write = PLAIN[name]
    for label, program, inputs in (
        ("value", f(with_plain, write), tensors),
        ("gradient", f(plain_gradient, write), leaves),
    ):
        compare(
            record,
            options,
            f"{memories}{label}",
            program,
            inputs,
            exact=exact and label == "value",
        )


def with_plain(write, world, g, m):
    p = numbers(7, 4, seed=2)
    result = write(p, g, m)
    return [p, g, *([result] if isinstance(result, torch.Tensor) else [])]


def plain_gradient(write, world, g, m):
    p = numbers(7, 4, seed=2)
    result = write(p, g * 1, m * 1)
    if p.requires_grad:  # it was written
        result = p
    if not isinstance(result, torch.Tensor) or not result.requires_grad:
        return [p]
    result.square().sum().backward()
    return [p, g.grad, m.grad]


# ---------------------------- sums, and arguments over which one is formed

# x (4, 3) is a sum; a (4, 6) is cut along its columns, b (6, 3) along its rows.
SUMS = {
    "addmm_": lambda x, a, b: x.addmm_(a, b),
    "addmm_ scaled": lambda x, a, b: x.addmm_(a, b, beta=2, alpha=3),
    "addmm": lambda x, a, b: torch.addmm(x, a, b, beta=2),
    "addmv_": lambda x, a, b: x[:, 0].addmv_(a, b[:, 1]),
    "addbmm_": lambda x, a, b: x.addbmm_(a[None] + 0, b[None] + 0),
    "baddbmm_": lambda x, a, b: x[None].baddbmm_(a[None], b[None]),
    "add_": lambda x, a, b: x.add_(a @ b),
    "sub_": lambda x, a, b: x.sub_(a @ b, alpha=2),
    "lerp_": lambda x, a, b: x.lerp_(a @ b, 0.5),
    "addr_": lambda x, a, b: x.addr_(a.sum(1), b.sum(0)),
    "index_add_": lambda x, a, b: x.index_add_(0, I, (a @ b)[:3]),
    "index_put_": lambda x, a, b: x.index_put_(
        (I,), (a @ b)[:3], accumulate=True
    ),
    "index_put_ over": lambda x, a, b: x.index_put_((I,), (a @ b)[:3]),
    "scatter_add_": lambda x, a, b: x.scatter_add_(0, I[None], (a @ b)[:1]),
    "put_": lambda x, a, b: x.put_(I, (a @ b)[0], accumulate=True),
    "copy_": lambda x, a, b: x[1:].copy_((a @ b)[:3]),
    "where": lambda x, a, b: torch.where(x > 3, x, a @ b),
    "list": lambda x, a, b: torch._foreach_add_([x, x[:3]], [a @ b, a[:3] @ b]),
    "out": lambda x, a, b: torch.addmm(x, a, b, out=x),
    "mul_": lambda x, a, b: x.mul_(a @ b),
}


def run_sum(name, options, record, memories):
    for dtype in (torch.float32, torch.int64, torch.float16):
        compare(
            record,
            options,
            f"{memories}{dtype}",
            f(into_sum, SUMS[name], dtype),
            [numbers(4, 3, dtype=dtype)],
            exact=dtype != torch.float16,
        )


def into_sum(write, dtype, world, x):
    a = world.sharded(numbers(4, 6, seed=1, dtype=dtype), "S1")
    b = world.sharded(numbers(6, 3, seed=2, dtype=dtype), "S0")
    view = x[1:, 1]
    result = write(x, a, b)
    return [x, view, x.sum(0), result if torch.is_tensor(result) else None]


# ----------------------------------------------------- made in inference mode

INFERENCE = {
    "new": lambda t: [t * 2, t.t() @ t, t.sum(0)],
    "views": lambda t: [t[1:], t.t(), t.view(-1)[3:], t[:, 1]],
    "in place": lambda t: [t.add_(1), t[2:].mul_(2), t.t()[0].fill_(4)],
    "copies": lambda t: [t.clone(), torch.empty_like(t).copy_(t), t.double()],
    "zeros": lambda t: [torch.zeros_like(t).add_(t), t.new_ones(3) * t[0, 0]],
    "index": lambda t: [t[I], t.index_put_((I,), t[:3] * 2), t[t > 3]],
    "list": lambda t: [*torch._foreach_mul([t, t[1:]], 2.0)],
    "list in place": lambda t: [torch._foreach_add_([t[0], t[:, 1]], 2.0), t],
    "cat": lambda t: [torch.cat([t, t[:2]]), torch.stack([t, t]).sum(0)],
    "out": lambda t: [torch.mul(t, t, out=torch.empty_like(t))],
    "norm": lambda t: [torch.nn.functional.layer_norm(t, (4,)), t.softmax(0)],
    "split": lambda t: [p.mul_(i + 1) for i, p in enumerate(t.split(3))],
}  # fmt: skip


def run_inference(name, options, record, memories):
    for fresh in (False, True):
        label = f"{memories}{'fresh' if fresh else 'outside'}"
        program = f(in_inference, INFERENCE[name], fresh)
        compare(record, options, label, program, [numbers(7, 4)], exact=False)


def in_inference(program, fresh, world, x):
    """On a tensor that came in, or on one that is made there."""
    with torch.inference_mode():
        t = x.clone() if fresh else x
        results = program(t)
    made = [r for r in results if torch.is_tensor(r)]
    return [*made, t, *(r.is_inference() for r in made)]


# ---------------------------- fused optimizers, gradients in another layout

FUSED = {
    "SGD": f(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "SGD nesterov": f(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "SGD maximize": f(torch.optim.SGD, lr=0.1, maximize=True),
    "Adam": f(torch.optim.Adam, lr=0.1),
    "Adam amsgrad": f(torch.optim.Adam, lr=0.1, amsgrad=True, weight_decay=0.1),
    "AdamW": f(torch.optim.AdamW, lr=0.1),
    "Adagrad": f(torch.optim.Adagrad, lr=0.1, lr_decay=0.1),
}


def run_fused(name, options, record, memories):
    values = [
        numbers(5, 4) / 3,
        numbers(6, seed=1) / 3,
        numbers(4, 7, seed=2) / 3,
    ]
    ways = ("fused",) if options.quick else ("fused", "foreach", "single")
    for placement in ("S0", "R", "P+", "S1"):
        for way in ways:
            compare(
                record,
                options,
                f"{memories}{way} gradients {placement}",
                f(train, FUSED[name], way, placement),
                values,
                exact=False,
                size=1000,
            )


def train(make, way, placement, world, *values):
    params = [torch.nn.Parameter(v) for v in values]
    optimizer = make(params, fused=way == "fused", foreach=way == "foreach")
    for step in range(3):
        for i, p in enumerate(params):
            one = placement if p.dim() > 1 or placement != "S1" else "S0"
            gradient = numbers(*p.shape, seed=10 * step + i) - 3
            p.grad = world.sharded(gradient, one)
        optimizer.step()
    states = [optimizer.state[p] for p in params]
    return [
        *(p.detach() for p in params),
        *(s[k] for s in states for k in sorted(s) if torch.is_tensor(s[k])),
    ]
