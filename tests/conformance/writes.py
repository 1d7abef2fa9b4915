"""In-place and `out=` variants of the ops of `op_db`.

Compared: the value, that the destination itself comes back, its layout, its
version counter, the gradient through it, and an error where plain torch gives
one.
"""

import functools

import torch
from tests.conformance import exclusions, plants
from tests.conformance import ops as all_ops
from tests.conformance.call import (
    Call,
    cotangents_of,
    flat,
    like,
    placed,
)
from tests.conformance.compare import (
    assert_same,
    largest_error,
    tolerance_of,
)
from tests.conformance.exactness import Draws
from tests.conformance.layouts import (
    assignments,
    kinds_of_layout,
    mesh_of,
    place,
    placements_of,
)
from tests.conformance.record import Wrong, describe

import torch_mesh as tm


def units(options):
    return [
        name
        for name, op in all_ops.ops().items()
        if in_place_of(op) is not None or op.supports_out
    ]


def in_place_of(op):
    return op.get_inplace() or op.get_inplace_operator()


def run(unit, options, record):
    op = all_ops.ops()[unit]
    main, others = all_ops.dtypes_of(op, options, unit)
    if main is None:
        record.skip("any dtype", "no dtype on CPU")
        return
    most = options.samples if options.plant else 2
    count = min(options.samples, most) if not options.full else None
    for dtype in [main, *others]:
        first = True
        n = count if dtype == main else 1
        short = str(dtype).removeprefix("torch.")
        try:
            samples = all_ops.samples_of(op, dtype, options, n, unit)
        except Exception as error:
            record.skip(short, f"no samples: {describe(error)}")
            continue
        for number, sample in samples:
            label = f"{short} #{number}"
            if in_place_of(op) is not None:
                run_in_place(op, sample, label, options, record)
            if op.supports_out:
                kinds = OUTS if first and dtype == main else RIGHT
                if unit not in all_ops.UNWRITTEN:
                    run_out(op, sample, label, options, record, kinds)
            first = False


# ------------------------------------------------------------------ in place


def run_in_place(op, sample, label, options, record):
    if not isinstance(sample.input, torch.Tensor):
        record.skip(label, "in place on a list: see the lists of `ops`")
        return
    call = Call(in_place_of(op), (sample.input, *sample.args), sample.kwargs)
    expected = InPlace(call, call.plain_tensors())
    for mesh_name in options.meshes:
        mesh = mesh_of(mesh_name)
        for layouts, assignment in assignments(
            call.tensors, mesh_name, turns=2, quick=not options.full
        ):
            record.case(
                mesh_name,
                f"{label} in place {layouts}",
                functools.partial(
                    check_in_place, call, expected, mesh, assignment, options
                ),
            )


class InPlace:
    """What an in-place call does to its destination."""

    def __init__(self, call, inputs, options=None):
        on_mesh = options is not None
        self.error = None
        inputs = [t.detach() for t in inputs]
        self.before = inputs[0].clone()
        self.target = inputs[0]
        version = self.target._version
        plant = options.plant if on_mesh else None
        try:
            with plants.around(plant, self.target):
                self.result = call(inputs, on_mesh=on_mesh)
        except Exception as error:
            self.error = error
            return
        self.same = self.result is self.target
        self.versions = self.target._version - version

    def gradients(self, call, inputs, cotangent):
        """Through the destination, which is no leaf."""
        leaves = [t for t in inputs if t.requires_grad]
        tensors = [inputs[0] * 1, *inputs[1:]]
        on_mesh = inputs[0].device.type == "mesh"
        result = call(tensors, on_mesh=on_mesh)
        if not result.requires_grad:
            return None
        return torch.autograd.grad(
            [result], leaves, [cotangent.to(result.device)], allow_unused=True
        )


def check_in_place(call, expected, mesh, assignment, options):
    with tm.use(mesh):
        placed = call.placed_tensors(mesh, assignment)
        layout = tm.layout(placed[0])
        actual = InPlace(call, placed, options)
        check_errors(actual.error, expected.error)
        if expected.error is not None:
            assert_same(
                actual.target, expected.before, "after the error", exact=True
            )
            return
        if not actual.same and expected.same:
            raise Wrong("another tensor comes back")
        assert_same(
            actual.target,
            expected.target,
            "destination",
            size=size_of(call),
        )
        assert_same(
            actual.result, expected.result, "result", size=size_of(call)
        )
        if expected.target.stride() == expected.before.stride():
            check_layout(actual.target, layout)  # else t_, squeeze_, resize_
        if actual.versions != expected.versions:
            raise Wrong(f"version +{actual.versions}, not {expected.versions}")
        if any(t.requires_grad for t in call.tensors):
            check_gradients(call, expected, mesh, assignment)


def check_gradients(call, expected, mesh, assignment):
    cotangent = cotangents_of([expected.result])[0]
    try:
        right = expected.gradients(call, call.plain_tensors(), cotangent)
    except Exception as error:
        right, plain_error = None, error
    else:
        plain_error = None
    draws = Draws(
        lambda: expected.gradients(call, call.plain_tensors(), cotangent)
    )
    placed = call.placed_tensors(mesh, assignment)
    try:
        found = expected.gradients(call, placed, cotangent)
    except Exception as error:
        check_errors(error, plain_error)
        return
    check_errors(None, plain_error)
    if (right is None) != (found is None):
        raise Wrong("requires_grad of the result differs")
    if right is not None:
        for i, (a, e) in enumerate(zip(found, right, strict=True)):
            if (a is None) != (e is None):
                raise Wrong(f"gradient {i}: {'' if a is None else 'not '}None")
            if e is not None:
                assert_same(
                    a,
                    e,
                    f"gradient {i}",
                    size=size_of(call),
                    draws=lambda i=i: draws.tensors(lambda made: made[i]),
                )


def size_of(call):
    return max(t.numel() for t in call.tensors)


def check_layout(target, before):
    """A destination keeps its layout; partial sums may be formed."""
    after = tm.layout(target)
    if before.mesh != after.mesh:
        raise Wrong(f"on {after.mesh}, not {before.mesh}")
    for old, new in zip(before.placements, after.placements, strict=True):
        if old != new and not (old == "P+" and new == "R"):
            raise Wrong(f"destination's layout {after}, not {before}")


def check_errors(actual, expected):
    """Both raise alike, or neither does."""
    if expected is None:
        if actual is not None:
            raise actual
    elif actual is None:
        raise Wrong(f"no error; plain: {describe(expected)}")
    elif not isinstance(actual, type(expected)):
        raise Wrong(f"{describe(actual)}; plain: {describe(expected)}")


# --------------------------------------------------------------------- out=


def run_out(op, sample, label, options, record, kinds):
    call = Call(op.op, (sample.input, *sample.args), sample.kwargs)
    inputs = [t.detach() for t in call.plain_tensors()]
    try:
        results = call(inputs)
    except Exception as error:
        record.skip(f"{label} out=", f"plain: {describe(error)}")
        return
    if not all(isinstance(r, torch.Tensor) for r in flat(results)):
        return  # a number: out= stands for another overload
    for kind, make in kinds.items():
        outs = [make(r) for r in flat(results)]
        if any(out is None for out in outs):
            continue
        if (op.name, kind) in exclusions.BROKEN_OUT and any(
            out.dim() >= exclusions.LEAST_DIMS for out in outs
        ):
            record.skip(
                f"{label} out={kind}", "excluded: plain corrupts memory"
            )
            continue
        expected = Out(call, inputs, outs, results)
        if kind != "integer" and not expected.agrees(results):
            record.skip(f"{label} out={kind}", "plain: another value with out=")
            continue
        for mesh_name in options.meshes:
            mesh = mesh_of(mesh_name)
            for words in kinds_of_layout(mesh_name, quick=True):
                layouts = [placements_of(words, out) for out in outs]
                if None in layouts:
                    continue
                for together in (False, True) if kind == "right" else (True,):
                    record.case(
                        mesh_name,
                        f"{label} out={kind} {','.join(words)}"
                        f"{' all' if together else ''}",
                        functools.partial(
                            check_out,
                            call,
                            expected,
                            mesh,
                            words if together else None,
                            layouts,
                            options,
                        ),
                    )


def filled(result, dtype=None, shape=None):
    shape = result.shape if shape is None else shape
    return torch.full(shape, 7, dtype=dtype or result.dtype)


def transposed(result):
    """A destination whose strides are those of a transposed tensor."""
    if result.dim() < 2:
        return None
    return filled(result, shape=result.shape[::-1]).permute(
        *reversed(range(result.dim()))
    )


OUTS = {
    "right": filled,
    "resized": lambda r: filled(r, shape=(0,)),
    "transposed": transposed,
    "double": lambda r: (
        filled(r, torch.float64) if r.dtype == torch.float32 else None
    ),
    "integer": lambda r: (
        filled(r, torch.int64) if r.dtype.is_floating_point else None
    ),
}


RIGHT = {"right": filled}


class Out:
    """What a call with `out=` does to its destinations."""

    def draws_of(self, i):
        """Gives what plain torch leaves free of a destination, as in `ops`.

        A solution of linalg.lstsq goes through more sums than the one or two of
        `tolerance_of`, and parts of a sum of halves that cancel are rounded
        each, where it is returned and where it is written alike. None for other
        dtypes than the result's: there one rounding more is all that may
        differ.
        """
        dtype = flat(self.like_results)[i].dtype
        if self.outs[i].dtype != dtype:
            return None
        return lambda: self._draws.tensors(lambda made: made[i])

    def agrees(self, results):
        """Whether plain torch writes to `out` what it gives without."""
        if self.error is not None:
            return True
        pairs = zip(self.outs, flat(results), strict=True)
        return all(
            largest_error(o.to(r.dtype), r)[0]
            <= tolerance_of(r.dtype, r.numel())
            for o, r in pairs
            if r.dtype.itemsize > 1
        )

    def __init__(self, call, inputs, outs, like_results, options=None):
        self.error = None
        self.like_results = like_results
        self._draws = Draws(lambda: flat(call(inputs)))
        self.made = outs
        on_mesh = options is not None
        self.outs = outs if on_mesh else [o.clone() for o in outs]
        versions = [o._version for o in self.outs]
        given = as_given(like_results, self.outs)
        plant = options.plant if on_mesh else None
        try:
            with plants.around(plant, self.outs[0]):
                result = with_out(call, given)(inputs, on_mesh=on_mesh)
        except Exception as error:
            self.error = error
            return
        self.same = all(
            r is o for r, o in zip(flat(result), self.outs, strict=True)
        )
        self.versions = [
            o._version - v for o, v in zip(self.outs, versions, strict=True)
        ]


def as_given(results, outs):
    """One tensor, or a tuple of them."""
    return outs[0] if isinstance(results, torch.Tensor) else tuple(outs)


def with_out(call, out):
    def function(*args, **kwargs):
        return original(*args, **kwargs, out=out)

    original = call.function
    made = object.__new__(Call)
    made.__dict__.update(call.__dict__)
    made.function = function
    return made


def check_out(call, expected, mesh, words, layouts, options):
    with tm.use(mesh):
        replicated = ("R",) * len(mesh.shape)
        inputs = [
            placed(t, mesh, (words and placements_of(words, t)) or replicated)
            for t in call.tensors
        ]
        outs = [
            like(o, place(o, mesh, placements))
            for o, placements in zip(expected.made, layouts, strict=True)
        ]
        before = [tm.layout(o) for o in outs]
        actual = Out(call, inputs, outs, expected.like_results, options)
        check_errors(actual.error, expected.error)
        if expected.error is not None:
            return
        if expected.same and not actual.same:
            raise Wrong("another tensor comes back")
        size = max([o.numel() for o in expected.outs], default=1)
        size = max([size, *(t.numel() for t in call.tensors)])
        for i, (a, e) in enumerate(
            zip(actual.outs, expected.outs, strict=True)
        ):
            own = flat(expected.like_results)[i].dtype
            assert_same(
                a,
                e,
                f"destination {i}",
                size=size,
                # An op on float32 rounds to it, whatever it is stored as.
                rounded_in=own if e.dtype == torch.float64 else None,
                draws=expected.draws_of(i),
            )
            if expected.made[i].shape == e.shape:
                check_layout(a, before[i])
        if actual.versions != expected.versions:
            raise Wrong(f"versions +{actual.versions}, not {expected.versions}")
