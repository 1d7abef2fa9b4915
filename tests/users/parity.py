"""Each op of a program on the mesh, beside plain torch: no alarm is right.

`torch_mesh.check_parity` copies the state of a step. The steps of the programs
hold theirs in closures, so here a program is built once for each run instead,
from one seed; what compares the runs is the same.
"""

import contextlib
import random
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch

from torch_mesh import parity
from torch_mesh.twin import nudge

from . import table
from .measure import SEED, tensors_of
from .place import Place
from .registry import PROGRAMS

STEPS = 2  # the second finds states of optimizers, and statistics


def report(programs):
    """Prints what `check` finds of each program, in a process of its own.

    Returns:
        Number of the alarms.
    """
    alarms = compared = 0
    for program in programs:
        for mode in program.modes:
            for dtype in [torch.float32] + [torch.float64] * program.float64:
                try:
                    text, ops, agrees = table.apart(
                        checked, program.name, mode, dtype
                    )
                except BrokenProcessPool:
                    text, ops, agrees = "ended by a signal", 0, False
                alarms += not agrees
                compared += ops
                name = table.name_of(dtype)
                print(f"{program.name} {mode} {name}: {text}", flush=True)
    print(f"{len(programs)} programs, {compared} ops, {alarms} alarms.")
    return alarms


def checked(name, mode, dtype):
    """A text, the number of ops, and whether there is no alarm."""
    try:
        found = check(PROGRAMS[name], mode, dtype)
    except Exception as error:
        return table.short(error), 0, False
    text = str(found)
    if found:
        text = text.splitlines()[0]
    if found.unchecked:
        text += f"\n  not compared: {sorted(found.unchecked)}"
    return text, found.compared, bool(found)


def check(program, mode, dtype=torch.float32):
    """The `torch_mesh.Parity` of a program at its small size.

    Args:
        mode: "data" or "tensor".
    """

    def ready(mode, nudged=None):
        scope = contextlib.ExitStack()
        place = Place(mode, dtype, small=True)
        if nudged is not None:
            place = NudgedPlace(mode, dtype, small=True)
            place.by = nudged
        seed_all()
        scope.enter_context(place.active(program.keras))
        try:
            step, weights = program.build(place)
            if nudged is not None:
                for tensor in tensors_of(weights).values():
                    nudge(tensor, *nudged)
        except BaseException:
            scope.close()
            raise

        def run():
            with scope:
                results = [step() for _ in range(STEPS)]
                return [*named_results(results), *named_weights(weights)]

        return run

    return parity.compare_runs(
        lambda: ready(mode),
        lambda: ready("plain"),
        lambda *nudged: ready("plain", nudged=nudged),
        None,
    )


class NudgedPlace(Place):
    """Its batches are a step of rounding away."""

    by = (0.0, 0)

    def cast(self, tensor):
        moved = super().cast(tensor).clone()
        nudge(moved, *self.by)
        return moved


def seed_all():
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)


def named_results(results):
    """Values and names; those of the second step are its own."""
    found = []
    for number, result in enumerate(results):
        leaves = result if isinstance(result, (tuple, list)) else (result,)
        for i, leaf in enumerate(leaves):
            value = leaf.detach().clone() if torch.is_tensor(leaf) else leaf
            found.append((f"step {number} result {i}", value))
    return found


def named_weights(weights):
    found = []
    for name, tensor in tensors_of(weights).items():
        found.append((name, tensor.detach().clone()))
        if tensor.is_leaf and tensor.grad is not None:
            found.append((f"{name}.grad", tensor.grad.detach().clone()))
    return found
