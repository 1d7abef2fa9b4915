"""Small programs, run on plain torch and on the mesh, compared by result.

A program takes a `World`, which says where it runs, and tensors; it gives a
tree of results. Where plain torch raises, the mesh must raise alike.
"""

import dataclasses
import functools
import re

import torch
from tests.conformance import plants
from tests.conformance.call import flat, like, seed_everything
from tests.conformance.compare import assert_same
from tests.conformance.exactness import Draws
from tests.conformance.layouts import assignments, mesh_of, place
from tests.conformance.record import Skip, Wrong, describe

import torch_mesh as tm


@dataclasses.dataclass
class World:
    """Where a program runs."""

    device: str = "cpu"
    mesh: tm.Mesh | None = None
    plant: str | None = None

    @property
    def on_mesh(self):
        return self.mesh is not None

    def write(self, tensor, write):
        """Writes to `tensor`: what `lost_write` can undo."""
        with plants.around(self.plant if self.on_mesh else None, tensor):
            write(tensor)

    def sharded(self, tensor, placement="S0"):
        """A plain tensor on the mesh, on its first axis so placed."""
        if not self.on_mesh:
            return tensor
        placements = [placement] + ["R"] * (len(self.mesh.shape) - 1)
        return like(tensor, place(tensor, self.mesh, placements))


def compare(
    record,
    options,
    label,
    program,
    inputs=(),
    *,
    exact=True,
    strides=True,
    size=None,
    clear_error=False,
    quick=None,
):
    """Records one case for each mesh and choice of layouts of the inputs.

    Args:
        exact: bit for bit; else up to the rounding of re-ordered sums.
        clear_error: an error that says what the mesh cannot do is right too.
    """

    def on_plain():
        return outcome(program, World(), [copy_of(t) for t in inputs])

    expected = on_plain()
    draws = None if exact else Draws(on_plain)
    size = size or max([t.numel() for t in inputs], default=64)
    quick = options.quick if quick is None else quick
    for mesh_name in options.meshes:
        mesh = mesh_of(mesh_name)
        choices = (
            assignments(inputs, mesh_name, quick=quick)
            if inputs
            else [("", ())]
        )
        for layouts, assignment in choices:
            record.case(
                mesh_name,
                f"{label} {layouts}".strip(),
                functools.partial(
                    check,
                    program,
                    inputs,
                    assignment,
                    expected,
                    World("mesh", mesh, options.plant),
                    exact=exact,
                    draws=draws,
                    strides=strides,
                    size=size,
                    clear_error=clear_error,
                ),
            )


def copy_of(t):
    return like(t, t.detach().clone())


def outcome(program, world, inputs):
    """The results, or the exception."""
    seed_everything(4)
    try:
        return flat(program(world, *inputs))
    except Exception as error:
        return error


def check(
    program, inputs, assignment, expected, world, *, draws, clear_error, **how
):
    with tm.use(world.mesh):
        placed = [
            like(t, place(t, world.mesh, placements))
            for t, placements in zip(inputs, assignment, strict=True)
        ]
        actual = outcome(program, world, placed)
        if isinstance(actual, Skip):
            raise actual
        if isinstance(expected, Exception):
            if not isinstance(actual, Exception):
                raise Wrong(f"no error; plain: {describe(expected)}")
            if not isinstance(actual, type(expected)):
                raise Wrong(f"{describe(actual)}; plain: {describe(expected)}")
            return
        if isinstance(actual, Exception):
            if clear_error and is_clear(actual):
                return
            raise actual
        actual = plants.Plant(world.plant).leaves(actual)
        if len(actual) != len(expected):
            raise Wrong(f"{len(actual)} results, not {len(expected)}")
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            one = dict(how)
            if isinstance(e, torch.Tensor) and not e.dtype.is_floating_point:
                one["exact"] = how["exact"] or not e.is_complex()
            if draws:
                one["draws"] = functools.partial(
                    draws.tensors, functools.partial(result_of, i)
                )
            if e is None:
                if a is not None:
                    raise Wrong(f"result {i}: not None")
                continue
            if isinstance(e, torch.Tensor):
                assert_same(a, e, f"result {i}", **one)
            else:
                assert_same(a, e, f"result {i}", size=how["size"])


def result_of(i, outcome):
    """Result i, or None if the program raises or it is no tensor."""
    found = None if isinstance(outcome, Exception) else outcome[i]
    return found if isinstance(found, torch.Tensor) else None


def is_clear(error):
    """Whether an error ends with a code of docs/errors.md."""
    return re.search(r"\[[a-z][a-z-]+\]\s*$", str(error)) is not None
