"""When a value of the mesh is plain torch's."""

import math

import torch
from tests.conformance.record import Open, Wrong

import torch_mesh as tm

LARGEST_ERROR = 4e-3

HALF = (torch.float16, torch.bfloat16, torch.complex32)


def tolerance_of(dtype, size):
    """Allowed error of a re-ordered sum, relative to the largest value.

    Each of `size` additions rounds by half a step at most, up or down: together
    they grow as the square root, and the value went through a sum or two. In
    half precision torch forms sums in float32 and rounds once: another order
    moves that by a step. What differs by more must be free in plain torch too.
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    epsilon = torch.finfo(dtype).eps
    if dtype in HALF:
        return epsilon
    return min(epsilon * (2 + math.sqrt(size)), LARGEST_ERROR)


def plain(value):
    """A plain, detached tensor with the value of `value`."""
    value = value.detach()
    if value.device.type == "mesh":
        value = tm.full(value)
    if value.layout != torch.strided:
        value = value.to_dense()
    return value.resolve_conj().resolve_neg()


def assert_same(
    actual,
    expected,
    what,
    *,
    exact=False,
    size=None,
    strides=True,
    draws=None,
    rounded_in=None,
):
    """Raises `Wrong` unless the two are the same.

    Args:
        actual: what the mesh gave; any object.
        expected: what plain torch gave.
        what: named in the message.
        exact: bit for bit; else up to `tolerance_of`. Or a function that
            says so.
        size: summands of a re-ordered sum; those of `expected` if None.
        strides: compare them too.
        draws: gives plain torch's own values under other roundings, the first
            undisturbed (`exactness.Draws.tensors`): what these differ by, the
            mesh may.
        rounded_in: the dtype that values were rounded to before they were
            stored; that of `expected` if None.
    """
    if not isinstance(expected, torch.Tensor):
        assert_same_object(actual, expected, what, size)
        return
    if not isinstance(actual, torch.Tensor):
        raise Wrong(f"{what}: a {type(actual).__name__}, not a tensor")
    if actual.dtype != expected.dtype:
        raise Wrong(f"{what}: dtype {actual.dtype}, not {expected.dtype}")
    if actual.shape != expected.shape:
        raise Wrong(
            f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
        )
    if actual.layout != expected.layout:
        raise Wrong(f"{what}: {actual.layout}, not {expected.layout}")
    if strides and expected.layout == torch.strided:
        assert_same_strides(actual, expected, what)
    a, b = plain(actual), plain(expected)
    same = equal(a, b)
    if same and not other_zeros(a, b):
        return
    exact = exact() if callable(exact) else exact
    if same:
        if exact:
            raise Wrong(f"{what}: zeros of another sign")
        return
    rounded_in = rounded_in or b.dtype
    tolerance = 0.0 if exact else tolerance_of(rounded_in, size or b.numel())
    error, where = largest_error(a, b)
    if error <= tolerance:
        return
    spread = spread_of(draws()) if draws and math.isfinite(error) else 0.0
    allowed = TIMES_SPREAD * spread
    if error <= allowed:
        if allowed > max(LARGEST_ERROR, tolerance):
            Open.texts += (f"{what}: plain torch differs by {spread:.3g}",)
        return
    raise Wrong(
        f"{what}: off by {error:.3g} (of {tolerance:.3g}, and plain torch by "
        f"{spread:.3g}) at {where}: {value_at(a, where)}, "
        f"not {value_at(b, where)}"
    )


NOTHING = 1e-15  # of inputs around 1, what cancellation in double leaves

# The mesh is one more draw. Sixteen normal numbers are all less than half of
# one more in one of 800 cases; largest errors of tensors vary far less.
TIMES_SPREAD = 2


def spread_of(drawn):
    """How far plain torch itself differs under other roundings.

    Relative to the largest value. A sum of numbers that cancel, a matrix close
    to a singular one or a derivative close to a pole give other digits in plain
    torch too, where its sums are taken in another order.
    """
    undisturbed, *others = (None if t is None else plain(t) for t in drawn)
    if undisturbed is None or not undisturbed.is_floating_point() | (
        undisturbed.is_complex()
    ):
        return 0.0
    errors = [
        largest_error(t, undisturbed)[0]
        for t in others
        if t is not None and t.shape == undisturbed.shape
    ]
    return max([e for e in errors if math.isfinite(e)], default=0.0)


def assert_same_strides(actual, expected, what):
    """Strides of dims with more than one element."""
    if expected.numel() == 0:
        return
    pairs = [
        (a, b)
        for a, b, n in zip(
            actual.stride(), expected.stride(), expected.shape, strict=True
        )
        if n > 1
    ]
    if any(a != b for a, b in pairs):
        raise Wrong(
            f"{what}: strides {actual.stride()}, not {expected.stride()} "
            f"(shape {tuple(expected.shape)})"
        )


def assert_same_object(actual, expected, what, size):
    """Numbers of `.item()`-like ops, sizes, strings."""
    if isinstance(expected, float | complex) and type(actual) is type(expected):
        assert_same(
            torch.tensor(actual, dtype=torch.complex128),
            torch.tensor(expected, dtype=torch.complex128),
            what,
            size=size,
        )
    elif isinstance(expected, torch.device | torch.Generator):
        return
    elif type(actual) is not type(expected) or actual != expected:
        raise Wrong(f"{what}: {actual!r}, not {expected!r}")


def equal(a, b):
    """The same values, NaN equal to NaN."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if a.dtype.is_floating_point and a.dtype.itemsize == 1:
        a, b = a.float(), b.float()
    if not a.dtype.is_floating_point or torch.equal(a, b):
        return torch.equal(a, b)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def other_zeros(a, b):
    """Whether 0.0 stands where -0.0 should, or the other way round."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.dtype.is_floating_point or a.dtype.itemsize == 1:
        return False
    return bool(((a == 0) & (a.signbit() != b.signbit())).any())


def largest_error(a, b):
    """The largest error relative to the largest value, and its index."""
    if a.numel() == 0:
        return 0.0, ()
    if not (b.dtype.is_floating_point or b.dtype.is_complex):
        different = a != b
        error = math.inf if different.any() else 0.0
        return error, first_index(different)
    wide = torch.complex128 if b.dtype.is_complex else torch.float64
    a, b = a.to(wide), b.to(wide)
    special = ~b.isfinite() | ~a.isfinite()
    if special.any():
        same = (a == b) | (a.isnan() & b.isnan())
        if (special & ~same).any():
            return math.inf, first_index(special & ~same)
    error = torch.where(special, 0.0, (a - b).abs())
    scale = torch.where(special, 0.0, b.abs()).max()
    if scale < NOTHING:
        scale = torch.ones_like(scale)
    flat = int(error.argmax())
    return float(error.max() / scale), unravel(flat, error.shape)


def first_index(mask):
    return unravel(int(mask.flatten().to(torch.uint8).argmax()), mask.shape)


def unravel(flat, shape):
    index = []
    for n in reversed(shape):
        index.append(flat % n)
        flat //= n
    return tuple(reversed(index))


def value_at(t, index):
    return t[index].item() if t.numel() else None
