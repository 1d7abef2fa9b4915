"""Every op of torch's `op_db`: forward, backward, twice, and forward-mode."""

import functools
import random
import time

import torch
from tests.conformance import plants
from tests.conformance.call import (
    Call,
    cotangents_of,
    differentiable,
    flat,
    seed_everything,
)
from tests.conformance.compare import assert_same
from tests.conformance.exactness import Draws, watched
from tests.conformance.layouts import (
    assignments,
    is_over_processes,
    mesh_of,
)
from tests.conformance.record import Wrong, describe
from torch.testing._internal.common_methods_invocations import op_db

# Values that nobody wrote: only their shape, dtype and strides are compared.
UNWRITTEN = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}


# Seconds from which on a sample gets fewer layouts: torch's own backward of
# grid_sampler_3d takes four for a sample of float16.
SLOW = 2.0


@functools.cache
def ops():
    """The OpInfos by a name each."""
    found = {}
    for op in op_db:
        name = op.name
        if op.variant_test_name:
            name += "." + op.variant_test_name
        found[name] = op
    return found


def units(options):
    return list(ops())


def run(unit, options, record):
    op = ops()[unit]
    main, others = dtypes_of(op, options, unit)
    if main is None:
        record.skip("any dtype", "no dtype on CPU")
        return
    run_dtype(unit, op, main, options, record, options.samples)
    for dtype in others:
        run_dtype(unit, op, dtype, options, record, 1)


def dtypes_of(op, options, unit):
    """The dtype of most samples, and the others."""
    supported = sorted(op.supported_dtypes("cpu"), key=str)
    if not supported:
        return None, []
    preferred = [torch.float32, torch.int64, torch.complex64, torch.bool]
    main = next((d for d in preferred if d in supported), supported[0])
    others = [d for d in supported if d != main]
    if options.quick:
        others = others[:0]
    return main, others


def samples_of(op, dtype, options, count, unit):
    """Samples of an op, chosen by a fixed seed, with their numbers."""
    seed_everything(options.seed)
    needs_grad = dtype in op.supported_backward_dtypes("cpu")
    requires_grad = needs_grad and op.supports_autograd
    samples = list(
        enumerate(op.sample_inputs("cpu", dtype, requires_grad=requires_grad))
    )
    if options.full or len(samples) <= count:
        return samples
    chooser = random.Random(f"{options.seed} {unit} {dtype}")
    return sorted(chooser.sample(samples, count), key=lambda s: s[0])


def run_dtype(unit, op, dtype, options, record, count):
    short = str(dtype).removeprefix("torch.")
    try:
        samples = samples_of(op, dtype, options, count, unit)
    except Exception as error:
        record.skip(short, f"no samples: {describe(error)}")
        return
    for turn, (number, sample) in enumerate(samples):
        call = Call(
            op.op,
            (sample.input, *sample.args),
            sample.kwargs,
            finish=sample.output_process_fn_grad,
        )
        first = turn == 0
        start = time.monotonic()
        try:
            expected = Expected(
                call,
                values=unit not in UNWRITTEN,
                twice=first and op.supports_gradgrad,
                forward_mode=first and op.supports_forward_ad,
            )
        except Exception as error:
            record.skip(f"{short} #{number}", f"plain: {describe(error)}")
            continue
        is_slow = time.monotonic() - start > SLOW
        for mesh_name in options.meshes:
            mesh = mesh_of(mesh_name)
            turns = len(call.tensors) if options.full else 3
            quick = options.quick or (count == 1 and not options.full)
            quick = quick or is_slow
            for label, assignment in assignments(
                call.tensors, mesh_name, turns=turns, quick=quick
            ):
                record.case(
                    mesh_name,
                    f"{short} #{number} {label}",
                    functools.partial(
                        check,
                        call,
                        expected,
                        mesh,
                        assignment,
                        plants.Plant(options.plant),
                    ),
                )


class Expected:
    """What plain torch gives for a call."""

    def __init__(self, call, *, values=True, twice=False, forward_mode=False):
        self._call = call
        # Whether parts of a sum are in several processes: what each does with
        # its own rounds, where one process would have the sum.
        self.is_of_parts = False
        self._draws = Draws(
            functools.partial(
                Expected,
                call,
                values=values,
                twice=twice,
                forward_mode=forward_mode,
            )
        )
        self.values = values
        self.place = call.place
        self.inputs = call.plain_tensors()
        self.gradients = None
        result = call(self.inputs)
        self.type = type(result)
        self.results = flat(result)
        self.leaves = [t for t in self.inputs if t.requires_grad]
        outs = gradients_of(call, result) if self.leaves and values else []
        self.cotangents = cotangents_of(outs)
        if outs:
            self.gradients = torch.autograd.grad(
                outs,
                self.leaves,
                self.cotangents,
                allow_unused=True,
                create_graph=twice,
            )
        # The mesh refuses these clearly.
        self.is_sparse = any(
            isinstance(r, torch.Tensor) and r.layout != torch.strided
            for r in self.results
        )
        self.size = max(
            [
                1,
                *(
                    t.numel()
                    for t in (*self.inputs, *self.results)
                    if isinstance(t, torch.Tensor)
                ),
            ]
        )
        self.second = second_of(self.gradients, self.leaves) if twice else None
        self.tangents = None
        if forward_mode and self.gradients:
            self.tangents = forward_mode_of(call, call.plain_tensors())

    @functools.cached_property
    def _exact_parts(self):
        """Which parts re-order no sum.

        Found in a run of its own: under a dispatch mode torch takes other
        paths, and gives linalg.lstsq another, wrong, gradient.
        """
        exact = set()
        inputs = self._call.plain_tensors()
        result, results_are = watched(self._call, inputs)
        if results_are:
            exact.add("results")
        # What an inexact forward saved for backward is inexact.
        if results_are and self.gradients is not None:
            _, gradients_are = watched(
                torch.autograd.grad,
                gradients_of(self._call, result),
                [t for t in inputs if t.requires_grad],
                self.cotangents,
                allow_unused=True,
            )
            if gradients_are:
                exact.add("gradients")
        return exact

    def others(self, part, i):
        """What else `assert_same` may ask of tensor i of a part."""
        return {
            "exact": lambda: not self.is_of_parts and part in self._exact_parts,
            "draws": lambda: self._draws.tensors(
                lambda other: picked(getattr(other, part), i)
            ),
        }


def picked(tensors, i):
    """Tensor i of a part, or None."""
    found = tensors[i] if tensors else None
    return found if isinstance(found, torch.Tensor) else None


def gradients_of(call, result):
    if call.finish is not None:
        result = call.finish(result)
    return differentiable(flat(result))


def second_of(gradients, leaves):
    """Gradients of the gradients, for other fixed cotangents."""
    outs = differentiable(gradients or ())
    if not outs:
        return None
    return torch.autograd.grad(
        outs,
        leaves,
        placed_as(outs, cotangents_of(outs, 23)),
        allow_unused=True,
    )


def placed_as(tensors, values):
    return [v.to(t.device) for v, t in zip(values, tensors, strict=True)]


def forward_mode_of(call, inputs):
    """Tangents of the results, for fixed random tangents of the inputs."""
    from torch.autograd import forward_ad

    leaves = [t for t in inputs if t.requires_grad]
    tangents = iter(placed_as(leaves, cotangents_of(leaves, 29)))
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(t.detach(), next(tangents))
            if t.requires_grad
            else t
            for t in inputs
        ]
        on_mesh = any(t.device.type == "mesh" for t in inputs)
        result = call(duals, on_mesh=on_mesh)
        if call.finish is not None:
            result = call.finish(result)
        found = [
            forward_ad.unpack_dual(r).tangent
            for r in flat(result)
            if isinstance(r, torch.Tensor)
        ]
    return [None if t is None else t.detach() for t in found]


def check(call, expected, mesh, assignment, plant):
    """One case: the call with its tensors in these layouts."""
    import torch_mesh as tm

    expected.is_of_parts = is_over_processes() and any(
        "P+" in placements for placements in assignment
    )
    with tm.use(mesh):
        inputs = call.placed_tensors(mesh, assignment)
        try:
            result = call(inputs, on_mesh=True)
        except NotImplementedError as error:
            if expected.is_sparse and "[no-sparse]" in str(error):
                return
            raise
        if not expected.values:
            plant.unwritten()
        result = plant.result(result)
        check_results(result, expected)
        for t, before in zip(inputs, expected.inputs, strict=True):
            assert_same(t, before, "an argument afterwards", size=expected.size)
        if expected.gradients is None:
            plant.no_gradients()
            return
        leaves = [t for t in inputs if t.requires_grad]
        outs = gradients_of(call, result)
        if len(outs) != len(expected.cotangents):
            raise Wrong(
                f"{len(outs)} results with a gradient, "
                f"not {len(expected.cotangents)}"
            )
        gradients = torch.autograd.grad(
            outs,
            leaves,
            placed_as(outs, expected.cotangents),
            allow_unused=True,
            create_graph=expected.second is not None,
        )
        gradients = plant.gradients(gradients)
        check_tensors(gradients, expected, "gradients")
        if expected.second is not None:
            second = second_of(gradients, leaves)
            check_tensors(second, expected, "second")
        if expected.tangents is not None:
            inputs = call.placed_tensors(mesh, assignment)
            tangents = forward_mode_of(call, inputs)
            check_tensors(tangents, expected, "tangents")


def check_results(result, expected):
    if type(result) is not expected.type and expected.type is not torch.Tensor:
        raise Wrong(f"a {type(result).__name__}, not {expected.type.__name__}")
    results = flat(result)
    if len(results) != len(expected.results):
        raise Wrong(f"{len(results)} results, not {len(expected.results)}")
    for i, (r, e) in enumerate(zip(results, expected.results, strict=True)):
        what = f"result {i}"
        if isinstance(e, torch.Tensor) and isinstance(r, torch.Tensor):
            if r.device.type != expected.place:
                raise Wrong(f"{what}: on {r.device}")
            if r.requires_grad != e.requires_grad:
                raise Wrong(f"{what}: requires_grad {r.requires_grad}")
            if not expected.values:
                assert_same(
                    torch.zeros_like(r), torch.zeros_like(e), what, exact=True
                )
                continue
        assert_same(
            r,
            e,
            what,
            size=expected.size,
            **expected.others("results", i),
        )


def check_tensors(actual, expected, part):
    """Compares gradients or tangents; `part` is what `expected` calls them."""
    pairs = zip(actual, getattr(expected, part), strict=True)
    for i, (a, e) in enumerate(pairs):
        if (a is None) != (e is None):
            raise Wrong(f"{part}[{i}]: {'' if a is None else 'not '}None")
        if e is not None:
            assert_same(
                a,
                e,
                f"{part}[{i}]",
                size=expected.size,
                **expected.others(part, i),
            )
