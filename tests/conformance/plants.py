"""Errors put on purpose into the results of the mesh: do the suites see them?

A planted error is a wrapper around one result. A suite is good if it calls
each op's planted result wrong; `--plant NAME` counts that.
"""

import contextlib
import math

import torch
from tests.conformance.record import Planted, Skip
from torch.utils import _pytree as pytree

import torch_mesh as tm

NAMES = ("scaled", "lost_write", "doubled_gradient", "swapped")


# Torch adds no numbers of these dtypes: they are changed as bits.
NO_SUMS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}


class NothingToPlant(Skip):
    """The result is such that the error changes nothing."""


class Plant:
    """One of `NAMES`, or None for no error at all."""

    def __init__(self, name):
        self.name = name

    def result(self, value):
        """A result of an op with the error in it."""
        change = {"scaled": scaled, "swapped": swapped}.get(self.name)
        return replaced_one(value, change) if change else value

    def unwritten(self):
        """Call for results whose values nobody wrote, so that none is right."""
        if self.name in ("scaled", "swapped"):
            raise NothingToPlant("memory that nobody wrote")

    def leaves(self, values):
        """A list of results, the first changeable one changed."""
        self.no_gradients()
        return self.result(values)

    def no_gradients(self):
        """Call where a case has none to compare."""
        if self.name == "doubled_gradient":
            raise NothingToPlant("no gradient")

    def gradients(self, values):
        """Gradients with the error in them."""
        if self.name != "doubled_gradient":
            return values
        if not any(v is not None and bool((v != 0).any()) for v in values):
            raise NothingToPlant("all gradients are zero")
        Planted.count += 1
        return [None if v is None else v * 2 for v in values]


@contextlib.contextmanager
def around(name, destination):
    """The body writes to `destination`; `lost_write` undoes it."""
    if name != "lost_write":
        yield
        return
    before = destination.detach().clone()
    facts = facts_of(destination)
    yield
    Planted.count += 1
    if facts_of(destination) != facts:  # t_, squeeze_, an out= of another size
        destination.data = before
    elif same(tm.full(destination.detach()), tm.full(before)):
        Planted.count -= 1
        raise NothingToPlant("the write leaves what was there")
    else:
        # Through `data`, which has a version counter of its own: the error must
        # be seen in the value.
        destination.data.copy_(before)


def facts_of(tensor):
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def same(a, b):
    """Equal, with NaN equal to NaN."""
    return bool(((a == b) | ((a != a) & (b != b))).all())


def replaced_one(value, change):
    """The leaves of a result, the first changeable one changed."""
    leaves, tree = pytree.tree_flatten(value)
    for i, leaf in enumerate(leaves):
        changed = None
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
            changed = change(leaf.detach())
            changed = None if changed is None else like(changed, leaf)
        elif isinstance(leaf, bool | int | float) and change is scaled:
            changed = scaled_number(leaf)
        if changed is not None:
            Planted.count += 1
            leaves[i] = changed
            return pytree.tree_unflatten(leaves, tree)
    raise NothingToPlant("no result that the error would change")


def like(changed, leaf):
    """`changed` in the layout, strides and dtype of `leaf`, with its graph."""
    strided = torch.empty_strided(
        leaf.shape,
        leaf.stride() if dense(leaf) else contiguous(leaf.shape),
        dtype=leaf.dtype,
    )
    strided.copy_(changed)
    placed = tm.distribute(strided, tm.layout(leaf))
    if not leaf.requires_grad:
        return placed
    return leaf + (placed - leaf).detach()


def scaled_number(number):
    if isinstance(number, bool):
        return not number
    if isinstance(number, int):
        return number + 1
    return number * 1.01 if number and math.isfinite(number) else None


def dense(t):
    return t.numel() > 0 and torch._debug_has_internal_overlap(t) == 0


def contiguous(shape):
    return torch.empty(shape, device="meta").stride()


def scaled(leaf):
    """The largest element, off by 1 %; an integer by one, a truth negated."""
    value = tm.full(leaf.detach()).resolve_conj().resolve_neg()
    if value.numel() == 0:
        return None
    flat = value.reshape(-1)
    if value.dtype == torch.bool:
        flat[0] = ~flat[0]
    elif value.dtype.is_floating_point or value.is_complex():
        if value.dtype.itemsize == 1:
            return None
        size = torch.where(flat.isfinite(), flat.abs(), 0)
        i = int(size.argmax())
        if size[i] == 0:
            return None
        flat[i] = flat[i] * 1.01
    elif value.dtype in NO_SUMS:
        signed = flat.view(NO_SUMS[value.dtype])
        signed[0] += 1
    else:
        flat[0] = flat[0] + 1
    return flat.reshape(value.shape)


def swapped(leaf):
    """The first two shards of equal size along the first dim exchanged."""
    value = tm.full(leaf.detach()).resolve_conj().resolve_neg()
    if value.dim() == 0 or value.shape[0] < 2:
        return None
    if value.dtype.is_floating_point and value.dtype.itemsize == 1:
        return None
    half = value.shape[0] // 2
    order = [*range(half, 2 * half), *range(half)]
    order += range(2 * half, value.shape[0])
    changed = value[order].contiguous()
    return None if same(changed, value) else changed
