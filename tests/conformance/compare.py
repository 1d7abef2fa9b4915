"""When a value of the mesh is plain torch's."""

import math

import torch
from tests.conformance.record import Wrong

import torch_mesh as tm

EPSILON_STEPS = {
    torch.float64: 2**14,
    torch.complex128: 2**14,
    torch.float32: 16,
    torch.complex64: 16,
    torch.float16: 2,
    torch.bfloat16: 1,
}


def tolerance_of(dtype, size):
    """Allowed error of a re-ordered sum, relative to the largest value.

    A few roundings, and the square root of the number of summands; never so
    much that an error of 1 % of the largest value passes.
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    epsilon = torch.finfo(dtype).eps
    steps = EPSILON_STEPS.get(dtype, 1)
    if dtype in (torch.float16, torch.bfloat16):
        return steps * epsilon  # sums are formed in float32, rounded once
    return min(epsilon * (steps + 4 * math.sqrt(size)), LARGEST_ERROR)


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
    truth=None,
    moved=None,
    two_roundings=None,
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
        truth: gives the value in double precision. Where plain torch itself
            is as far from it as the mesh is, the op is ill-conditioned and
            the mesh is right.
        moved: gives it for inputs that are off by one step of their dtype.
            Where that is as far, the op is ill-conditioned too.
        two_roundings: says whether plain torch rounds an exact op in two ways,
            by where an element lies; then a few roundings are allowed.
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
    if not exact:
        tolerance = tolerance_of(b.dtype, size or b.numel())
    elif two_roundings and two_roundings():
        tolerance = tolerance_of(b.dtype, 0)
    else:
        tolerance = 0.0
    error, where = largest_error(a, b)
    if not error <= tolerance:
        if truth and not exact and no_worse(a, b, tolerance, truth, moved):
            return
        raise Wrong(
            f"{what}: off by {error:.3g} (of {tolerance:.3g}) at {where}: "
            f"{value_at(a, where)}, not {value_at(b, where)}"
        )


LARGEST_ERROR = 4e-3
NOTHING = 1e-15  # of inputs around 1, what cancellation in double leaves


def no_worse(a, b, tolerance, truth, moved=None):
    """Whether `a` is about as close to the truth as `b`, and that is close.

    Where plain torch itself is farther off than `LARGEST_ERROR` (sums in half
    precision, differences of equal numbers), the mesh may be so too. And a
    re-ordered sum is the exact one of inputs that are off by a few roundings:
    where such inputs move the truth, the mesh may be off by as much.
    """
    value = truth()
    if value is None or value.shape != b.shape:
        return False
    if not (b.dtype.is_floating_point or b.dtype.is_complex):
        return False
    value = plain(value)
    own, _ = largest_error(b, value)
    error, _ = largest_error(a, value)
    if own > LARGEST_ERROR:
        allowed = 2 * own
    else:
        allowed = min(max(4 * own, tolerance), LARGEST_ERROR)
    if error <= allowed:
        return True
    other = moved() if moved else None
    if other is None or other.shape != b.shape:
        return False
    return error <= 4 * largest_error(plain(other), value)[0]


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
        return math.inf, first_index(different)
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
