"""The steps of a random program.

A step is chosen for the tensors that the plain run has at that place, and is
then a function of a `World` alone: it runs on the mesh as it ran plainly. All
numbers are small integers in whatever dtype, so that no order of sums rounds
and results are compared bit for bit.
"""

import dataclasses
import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F

import torch_mesh as tm

DTYPES = (torch.float64, torch.float64, torch.float32, torch.int64)
# Values beyond are brought back: what a step makes of them has no rounding.
LARGE = {torch.float32: 1_000}
LARGE_ELSE = 10_000


class World:
    """Where a program runs, and its tensors by number."""

    def __init__(self, mesh=None):
        self.mesh = mesh
        self.pool = []

    def number(self, i):
        return self.pool[i]

    def place(self, plain, placements):
        """A tensor of these values; None for `placements` keeps it plain."""
        if self.mesh is None or placements is None:
            return plain.clone(memory_format=torch.preserve_format)
        return tm.distribute(plain, self.mesh, placements)


@dataclasses.dataclass
class Step:
    """What it is called, and what it does: gives new tensors for the pool."""

    text: str
    run: Callable[[World], list]


class Chooser:
    """Chooses steps, from a seed and the tensors of the plain run."""

    def __init__(self, seed, num_axes, gradients=False, plain=0.25):
        self.random = random.Random(seed)
        self.num_axes = num_axes
        self.gradients = gradients
        self.plain = 0.0 if gradients else plain

    # ------------------------------------------------------------ new tensors

    def values(self, shape, dtype):
        generator = torch.Generator().manual_seed(self.random.randrange(10**6))
        ints = torch.randint(-4, 5, tuple(shape), generator=generator)
        return ints.to(dtype)

    def placements(self, dims, dtype):
        if self.random.random() < self.plain:
            return None
        options = ["R", *(f"S{d}" for d in range(dims))]
        options += options[1:] * 2
        if dtype != torch.bool:
            options.append("P+")
        return tuple(self.random.choice(options) for _ in range(self.num_axes))

    def new(self):
        """A first tensor, in some order of dims."""
        shape = [self.random.choice((1, 2, 3, 4, 5, 6, 8)) for _ in range(3)]
        shape = shape[: self.random.choice((1, 2, 2, 3, 3))]
        if len(shape) == 3 and self.random.random() < 0.3:
            shape.append(self.random.choice((2, 3, 4)))
        dtype = torch.float64 if self.gradients else self.one_of(DTYPES)
        values = self.values(shape, dtype)
        if len(shape) == 4 and self.random.random() < 0.5:
            values = values.contiguous(memory_format=torch.channels_last)
        elif len(shape) > 1 and self.random.random() < 0.3:
            values = values.transpose(0, 1).contiguous().transpose(0, 1)
        placements = self.placements(len(shape), dtype)
        return Step(
            f"new {list(shape)} {dtype} {placements}",
            lambda w: [w.place(values, placements)],
        )

    # ---------------------------------------------------------------- choices

    def one_of(self, options):
        return self.random.choice(list(options))

    def any_tensor(self, world, fits=lambda t: True):
        found = [i for i, t in enumerate(world.pool) if fits(t)]
        # Late ones more often: chains of views, writes to results.
        return None if not found else max(self.one_of(found) for _ in "12")

    def step(self, world):
        """A step for the tensors that the plain world has now."""
        kinds = (
            [self.view] * 6
            + [self.write] * 5
            + [self.pointwise] * 4
            + [self.reshaped] * 3
            + [self.reduction] * 2
            + [self.contraction] * 2
            + [self.joined] * 2
            + [self.indexed] * 3
            + [self.indexed_write] * 3
            + [self.of_list] * 3
            + [self.like] * 2
            + [self.drawn]
            + [self.out]
        )
        for _ in range(20):
            step = self.one_of(kinds)(world)
            if step is not None:
                return step
        return self.new()

    def _unary(self, text, i, f):
        return Step(f"{text} of {i}", lambda w: [f(w.number(i))])

    # ------------------------------------------------------------------ views

    def view(self, world):
        i = self.any_tensor(world, lambda t: t.dim() > 0)
        if i is None:
            return None
        t = world.pool[i]
        d = self.random.randrange(t.dim())
        n = t.shape[d]
        a = self.random.randrange(n + 1)
        b = self.random.randrange(a, n + 1)
        order = list(range(t.dim()))
        self.random.shuffle(order)
        e = self.random.randrange(t.dim())
        step = self.one_of((1, 1, 2))
        options = {
            f"slice {d} {a}:{b}:{step}": lambda t: t[
                (slice(None),) * d + (slice(a, b, step),)
            ],
            f"permute {order}": lambda t: t.permute(order),
            f"unsqueeze {d}": lambda t: t.unsqueeze(d),
            "squeeze": lambda t: t.squeeze(),
            f"transpose {d} {e}": lambda t: t.transpose(d, e),
            "detached": lambda t: t.detach() if not self.gradients else t[...],
        }
        if n > 0:
            k = self.random.randrange(n)
            options[f"select {d} {k}"] = lambda t: t.select(d, k)
            if not self.gradients:  # torch refuses writes to one of many views
                options[f"unbind {d} {k}"] = lambda t: t.unbind(d)[k]
                options[f"split {d}"] = lambda t: t.split(max(1, n // 2), d)[-1]
        if n == 1:
            options[f"expand {d}"] = lambda t: t.expand(
                [3 if j == d else s for j, s in enumerate(t.shape)]
            )
        if t.dim() > 1 and d != e:
            options[f"diagonal {d} {e}"] = lambda t: t.diagonal(0, d, e)
        if t.dim() < 4 and n % 2 == 0 and n > 0:
            options[f"unflatten {d}"] = lambda t: t.unflatten(d, (2, n // 2))
        if t.is_contiguous():
            options["view flat"] = lambda t: t.view(-1)
            if t.numel() > 2:
                size, stride = (2, t.numel() // 2), (t.numel() // 2, 1)
                offset = t.storage_offset()
                options["as_strided"] = lambda t: t.as_strided(
                    size, stride, offset
                )
        text = self.one_of(options)
        return self._unary(text, i, options[text])

    def reshaped(self, world):
        i = self.any_tensor(world, lambda t: 0 < t.numel() < 200)
        if i is None:
            return None
        t = world.pool[i]
        n = t.numel()
        first = self.one_of(k for k in range(1, n + 1) if n % k == 0)
        order = list(range(t.dim()))
        self.random.shuffle(order)
        d = self.random.randrange(t.dim()) if t.dim() else 0
        options = {
            f"reshape {first}": lambda t: t.reshape(first, -1),
            "flatten": lambda t: t.flatten(),
            "contiguous": lambda t: t.contiguous(),
            "clone": lambda t: t.clone(),
            f"permuted copy {order}": lambda t: t.permute(order).contiguous(),
        }
        if t.dim():
            options[f"flip {d}"] = lambda t: t.flip(d)
            options[f"roll {d}"] = lambda t: t.roll(2, d)
            options[f"repeat {d}"] = lambda t: t.repeat_interleave(2, d)
            options[f"cumsum {d}"] = lambda t: t.cumsum(d)
        if t.dim() == 4:
            options["channels_last"] = lambda t: t.contiguous(
                memory_format=torch.channels_last
            )
        text = self.one_of(options)
        return self._unary(text, i, options[text])

    # ------------------------------------------------------------- arithmetic

    def partner(self, world, i, written=None):
        """Something to compute with: (text, function of a world).

        A view that overlaps `written` otherwise than as the same window is
        copied: plain torch would read what it has just written.
        """
        t = world.pool[i]

        def fits(other):
            try:
                return torch.broadcast_shapes(t.shape, other.shape) == t.shape
            except RuntimeError:
                return False

        j = self.any_tensor(world, lambda o: fits(o) and o.dtype == t.dtype)
        chance = self.random.random()
        if chance < 0.2 or j is None:
            number = self.random.randint(-3, 3)
            return str(number), lambda w: number
        if chance < 0.35:
            values = self.values(t.shape, t.dtype)
            placements = self.placements(t.dim(), t.dtype)
            return f"new {placements}", lambda w: w.place(values, placements)
        if written is not None and overlap(world.pool[j], written):
            return f"a copy of {j}", lambda w: w.number(j).clone()
        return f"number {j}", lambda w: w.number(j)

    def pointwise(self, world):
        i = self.any_tensor(world)
        text, other = self.partner(world, i)
        name, f = self.one_of(
            {
                "add": lambda a, b: a + b,
                "sub": lambda a, b: a - b,
                "mul": lambda a, b: a * b,
                "where": lambda a, b: torch.where(a > 0, a, b),
                "neg": lambda a, b: -a,
                "abs": lambda a, b: a.abs(),
                "relu": lambda a, b: a.relu(),
                "clamp": lambda a, b: a.clamp(-2, 3),
                "swapped": lambda a, b: b - a,
                "addcmul": lambda a, b: torch.addcmul(a, a, a, value=2),
            }.items()
        )
        return Step(
            f"{name} of {i} and {text}", lambda w: [f(w.number(i), other(w))]
        )

    def write(self, world):
        i = self.any_tensor(world)
        t = world.pool[i]
        text, other = self.partner(world, i, written=t)
        number = self.random.randint(-3, 3)
        every = self.random.randrange(2, 5)
        mask = (torch.arange(t.numel()) % every == 0).reshape(t.shape)
        name, f = self.one_of(
            {
                "add_": lambda a, b: a.add_(b),
                "sub_": lambda a, b: a.sub_(b),
                "mul_": lambda a, b: a.mul_(b),
                "copy_": lambda a, b: a.copy_(torch.as_tensor(b)),
                "fill_": lambda a, b: a.fill_(number),
                "zero_": lambda a, b: a.zero_(),
                "neg_": lambda a, b: a.neg_(),
                "clamp_": lambda a, b: a.clamp_(-3, 3),
                "masked_fill_": lambda a, b: a.masked_fill_(mask, number),
                "addcmul_": lambda a, b: a.addcmul_(a, a),
                "setitem": lambda a, b: a.__setitem__(..., b),
            }.items()
        )

        def run(w):
            f(w.number(i), other(w))
            return []

        return Step(f"{name} to {i} of {text}", run)

    def reduction(self, world):
        i = self.any_tensor(world, lambda t: t.dim() > 0 and t.numel() > 0)
        if i is None:
            return None
        d = self.random.randrange(world.pool[i].dim())
        keep = self.random.random() < 0.5
        name, f = self.one_of(
            {
                f"sum {d} {keep}": lambda t: t.sum(d, keepdim=keep),
                "sum": lambda t: t.sum(),
                f"amax {d}": lambda t: t.amax(d, keepdim=keep),
                f"min {d}": lambda t: t.min(d).values,
                f"sort {d}": lambda t: t.sort(dim=d, stable=True).values,
                f"topk {d}": lambda t: t.topk(1, d).values,
                f"argmax {d}": lambda t: (
                    t.argmax(d) if not self.gradients else t.sum(d)
                ),
            }.items()
        )
        return self._unary(name, i, f)

    def contraction(self, world):
        i = self.any_tensor(world, lambda t: t.dim() == 2 and t.numel() < 100)
        if i is None:
            return None
        t = world.pool[i]
        j = self.any_tensor(
            world,
            lambda o: (
                o.dim() == 2 and o.dtype == t.dtype and o.shape[0] == t.shape[1]
            ),
        )
        if j is None or self.random.random() < 0.3:
            values = self.values((t.shape[1], 3), t.dtype)
            placements = self.placements(2, t.dtype)
            if self.random.random() < 0.3:
                start = self.values((t.shape[0], 3), t.dtype)
                own = self.placements(2, t.dtype)
                return Step(
                    f"addmm_ with {i} {own} {placements}",
                    lambda w: [
                        w.place(start, own).addmm_(
                            w.number(i), w.place(values, placements)
                        )
                    ],
                )
            return Step(
                f"{i} @ new {placements}",
                lambda w: [w.number(i) @ w.place(values, placements)],
            )
        return Step(f"{i} @ {j}", lambda w: [w.number(i) @ w.number(j)])

    def joined(self, world):
        i = self.any_tensor(world, lambda t: t.dim() > 0 and t.numel() < 200)
        if i is None:
            return None
        t = world.pool[i]
        j = self.any_tensor(world, lambda o: o.shape == t.shape)
        d = self.random.randrange(t.dim())
        name, f = self.one_of(
            {
                f"cat {d}": lambda a, b: torch.cat([a, b], d),
                f"stack {d}": lambda a, b: torch.stack([a, b], d),
                "hstack": lambda a, b: torch.hstack([a, b]),
                "equal": lambda a, b: (a == b).to(a.dtype),
            }.items()
        )
        return Step(
            f"{name} of {i} and {j}",
            lambda w: [f(w.number(i), w.number(j))],
        )

    # ---------------------------------------------------------------- indices

    def _index(self, world):
        i = self.any_tensor(world, lambda t: t.dim() > 0 and t.numel() > 0)
        if i is None:
            return None
        t = world.pool[i]
        d = self.random.randrange(t.dim())
        length = self.random.randrange(1, 5)
        values = torch.tensor(
            [self.random.randrange(t.shape[d]) for _ in range(length)]
        )
        placements = self.placements(1, torch.bool)
        return i, t, d, values, placements

    def indexed(self, world):
        found = self._index(world)
        if found is None:
            return None
        i, t, d, values, placements = found
        shape = list(t.shape)
        shape[d] = len(values)
        where = values.reshape([-1 if j == d else 1 for j in range(t.dim())])
        where = where.expand(shape).contiguous()
        own = self.placements(t.dim(), torch.bool)
        every = self.random.randrange(2, 5)
        flags = (torch.arange(t.numel()) % every == 0).reshape(t.shape)
        dims = (slice(None),) * d
        name, f = self.one_of(
            {
                f"index {d}": lambda w, t: t[
                    (*dims, w.place(values, placements))
                ],
                f"index_select {d}": lambda w, t: t.index_select(
                    d, w.place(values, placements)
                ),
                f"gather {d}": lambda w, t: t.gather(d, w.place(where, own)),
                "mask": lambda w, t: t[w.place(flags, own)],
                f"take_along {d}": lambda w, t: t.take_along_dim(
                    w.place(where, own), d
                ),
            }.items()
        )
        return Step(
            f"{name} of {i} by {values.tolist()} {placements} {own}",
            lambda w: [f(w, w.number(i))],
        )

    def indexed_write(self, world):
        found = self._index(world)
        if found is None:
            return None
        i, t, d, values, placements = found
        unique = values.unique()
        shape = list(t.shape)
        shape[d] = len(values)
        source = self.values(shape, t.dtype)
        own = self.placements(t.dim(), t.dtype)
        once = source.narrow(d, 0, len(unique)).contiguous()
        where = values.reshape([-1 if j == d else 1 for j in range(t.dim())])
        where = where.expand(shape).contiguous()
        dims = (slice(None),) * d
        number = self.random.randint(-3, 3)
        options = {
            f"index_add_ {d}": lambda w, t: t.index_add_(
                d, w.place(values, placements), w.place(source, own)
            ),
            f"index_copy_ {d}": lambda w, t: t.index_copy_(
                d, w.place(unique, placements), w.place(once, own)
            ),
            f"index_fill_ {d}": lambda w, t: t.index_fill_(
                d, w.place(values, placements), number
            ),
            f"setitem {d}": lambda w, t: t.__setitem__(
                (*dims, w.place(unique, placements)), w.place(once, own)
            ),
            f"scatter_add_ {d}": lambda w, t: t.scatter_add_(
                d, w.place(where, own_ints), w.place(source, own)
            ),
            f"index_put_ {d}": lambda w, t: t.index_put_(
                (w.place(values, placements),),
                w.place(first, own),
                accumulate=True,
            ),
        }
        own_ints = self.placements(t.dim(), torch.bool)
        first = source if d == 0 else None
        text = self.one_of(
            name for name in options if d == 0 or "index_put_" not in name
        )

        def run(w):
            options[text](w, w.number(i))
            return []

        return Step(
            f"{text} to {i} by {values.tolist()} {placements} {own}", run
        )

    # ------------------------------------------------------- lists, draws, out

    def of_list(self, world):
        i = self.any_tensor(world)
        t = world.pool[i]
        size = self.random.randrange(2, 5)
        numbers = [
            self.any_tensor(world, lambda o: o.dtype == t.dtype)
            for _ in range(size)
        ]
        number = self.random.randint(-2, 3)
        name, f = self.one_of(
            {
                "_foreach_add_": lambda ts: torch._foreach_add_(ts, number),
                "_foreach_mul_": lambda ts: torch._foreach_mul_(ts, number),
                "_foreach_neg_": lambda ts: torch._foreach_neg_(ts),
                "_foreach_add_ itself": lambda ts: torch._foreach_add_(ts, ts),
                "_foreach_copy_": lambda ts: torch._foreach_copy_(
                    ts, [x.clone() for x in ts[::-1]]
                ),
                "_foreach_zero_": lambda ts: torch._foreach_zero_(ts),
                "_foreach_add": lambda ts: torch._foreach_add(ts, number),
                "_foreach_sub": lambda ts: torch._foreach_sub(ts, ts),
                "_foreach_clamp_min_": lambda ts: torch._foreach_clamp_min_(
                    ts, -2
                ),
                "_foreach_addcmul_": add_squares_,
            }.items()
        )

        def run(w):
            result = f([w.number(n) for n in numbers])
            return [] if name.partition(" ")[0].endswith("_") else list(result)

        return Step(f"{name} {number} of {numbers}", run)

    def like(self, world):
        i = self.any_tensor(world)
        number = self.random.randint(-3, 3)
        dtype = self.one_of((torch.float64, torch.float32, torch.int64))
        if self.gradients:
            dtype = torch.float64
        name, f = self.one_of(
            {
                "zeros_like": torch.zeros_like,
                "full_like": lambda t: torch.full_like(t, number),
                f"to {dtype}": lambda t: t.to(dtype),
                "new_zeros": lambda t: t.new_zeros(3, 4),
                "empty_like": lambda t: torch.empty_like(t).copy_(t),
                "slice_scatter": lambda t: (
                    t.slice_scatter(t[:1] * 2, 0, 0, 1) if t.dim() else t * 1
                ),
                "select_scatter": lambda t: (
                    t.select_scatter(t.select(0, 0) * 2, 0, 0)
                    if t.dim() and t.shape[0]
                    else t * 1
                ),
                "tril": lambda t: t.tril() if t.dim() > 1 else t * 1,
            }.items()
        )
        return self._unary(name, i, f)

    def drawn(self, world):
        i = self.any_tensor(world, lambda t: t.is_floating_point())
        if i is None:
            return None
        seed = self.random.randrange(10**6)
        name, f = self.one_of(
            {
                "dropout": lambda t: F.dropout(t, 0.5),
                "uniform_": lambda t: t.clone().uniform_(0, 8).floor_(),
                "random_": lambda t: t.detach().random_(0, 5),
                "bernoulli": lambda t: torch.bernoulli(
                    torch.full_like(t.detach(), 0.5)
                ),
            }.items()
        )

        def run(w):
            torch.manual_seed(seed)
            return [f(w.number(i))]

        return Step(f"{name} of {i}", run)

    def out(self, world):
        if self.gradients:
            return None
        i = self.any_tensor(world)
        t = world.pool[i]
        j = self.any_tensor(
            world,
            lambda o: (
                o.dtype == t.dtype and o.shape == t.shape and not overlap(t, o)
            ),
        )
        if j is None:
            return None
        text, other = self.partner(world, i, written=world.pool[j])
        name, f = self.one_of(
            {
                "add": lambda a, b, o: torch.add(a, b, out=o),
                "mul": lambda a, b, o: torch.mul(a, b, out=o),
                "abs": lambda a, b, o: torch.abs(a, out=o),
            }.items()
        )

        def run(w):
            f(w.number(i), other(w), w.number(j))
            return []

        return Step(f"{name}(out={j}) of {i} and {text}", run)


def wrapped(i):
    """Brings the values of tensor `i` back to small ones."""

    def run(w):
        with torch.no_grad():
            w.number(i).remainder_(11)
        return []

    return Step(f"remainder_ of {i}", run)


def add_squares_(tensors):
    """Of one in each storage: squares of squares are not exact."""
    ts = list({t.untyped_storage()._cdata: t for t in tensors}.values())
    torch._foreach_addcmul_(ts, ts, ts)


def overlap(a, b):
    """Whether two windows share memory and are not the same."""
    same = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    shared = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return shared and not (same and a.shape == b.shape)


def is_large(t):
    if t.numel() == 0:
        return False
    largest = float(t.detach().abs().max())
    most = LARGE.get(t.dtype, LARGE_ELSE)
    return not (math.isfinite(largest) and largest < most)
