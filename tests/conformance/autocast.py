"""The ops of the CPU's autocast lists: the mesh casts what a CPU casts.

A part of the suite `ecosystem`. An op in the wrong list gives a result of
another dtype or of another precision.
"""

import functools

import torch
from tests.conformance import ops as all_ops
from tests.conformance import plants
from tests.conformance.call import Call, flat
from tests.conformance.compare import assert_same
from tests.conformance.exactness import Draws
from tests.conformance.layouts import assignments, mesh_of
from tests.conformance.record import Wrong, describe

import torch_mesh as tm

PREFIX = "autocast of "

# Plain torch composes it below autocast of products, which autocast finds too.
# The mesh's local ops run without: they compute in float32 what plain torch
# computes in bfloat16.
CASTS_INSIDE = {"nn.functional.bilinear"}


@functools.cache
def listed():
    """Names of the aten ops with a place in a list of the CPU."""
    return {
        name.removeprefix("aten::").partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCPU")
    }


def units():
    """Functions of `nn.functional` too: they reach listed ops by detours."""
    return [
        PREFIX + name
        for name, op in all_ops.ops().items()
        if (op.aten_name in listed() or name.startswith("nn.functional."))
        and torch.float32 in op.supported_dtypes("cpu")
    ]


def run(unit, options, record):
    name = unit.removeprefix(PREFIX)
    op = all_ops.ops()[name]
    for number, sample in all_ops.samples_of(
        op, torch.float32, options, 1, name
    ):
        call = Call(op.op, (sample.input, *sample.args), sample.kwargs)
        try:
            expected = called(call, call.plain_tensors(), "cpu")
        except Exception as error:
            record.skip(f"#{number}", f"plain: {describe(error)}")
            continue
        draws = Draws(
            lambda call=call: called(call, call.plain_tensors(), "cpu")
        )
        for mesh_name in options.meshes:
            for layouts, assignment in assignments(
                call.tensors, mesh_name, turns=0, quick=True
            ):
                for device in ("cpu",) if options.quick else ("cpu", "mesh"):
                    record.case(
                        mesh_name,
                        f"{device} #{number} {layouts}",
                        functools.partial(
                            check, call, expected, draws, mesh_of(mesh_name),
                            assignment, device, options.plant,
                            name in CASTS_INSIDE,
                        ),
                    )  # fmt: skip


def called(call, tensors, device):
    on_mesh = any(t.device.type == "mesh" for t in tensors)
    with torch.autocast(device, dtype=torch.bfloat16), torch.no_grad():
        return flat(call(tensors, on_mesh=on_mesh))


def check(call, expected, draws, mesh, assignment, device, plant, casts_inside):
    size = max([t.numel() for t in call.tensors], default=1)
    with tm.use(mesh):
        actual = called(call, call.placed_tensors(mesh, assignment), device)
        actual = plants.Plant(plant).leaves(actual)
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            if casts_inside:
                if a.dtype != e.dtype:
                    raise Wrong(f"result {i}: {a.dtype}, not {e.dtype}")
                a, e = a.to(torch.bfloat16), e.to(torch.bfloat16)
            assert_same(
                a,
                e,
                f"result {i}",
                size=size,
                draws=lambda i=i: draws.tensors(lambda made: made[i]),
            )
