"""`check_parity` of a Keras model: one `train_on_batch`, mesh beside plain."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import torch
from keras.src.backend.common import global_state

import torch_mesh as tm
from torch_mesh.compared_runs import Named, Parity, Run, compare_runs
from torch_mesh.keras import active
from torch_mesh.rounding import value_of
from torch_mesh.twin import nudge


def check_model(
    model: keras.Model, batch: tuple[Any, ...], rtol: float | None
) -> Parity:
    """A step of `model.train_on_batch(*batch)`; the model stays as it is.

    Args:
        model: A compiled model, under a distribution.
        batch: Its inputs, targets and sample weights.
        rtol: As for `torch_mesh.check_parity`.

    Raises:
        TypeError: If no distribution is set or the model is not compiled.
    """
    if active.current() is None or not model.compiled:
        raise TypeError(
            "check_parity: of a Keras model, which is to be compiled, and"
            " under a distribution.\nHint: keras.distribution.set_distribution,"
            " model.compile, then check_parity(model, x, y). [parity-state]"
        )
    model._symbolic_build(data_batch=batch)
    before = [(v, v.value.data, v.value.grad) for v in _variables(model)]

    def ready(start: Any, place: Any) -> Run:
        for variable, value, gradient in before:
            variable.value.data = start(value)
            variable.value.grad = None if gradient is None else start(gradient)

        def run() -> Named:
            with place():
                logs = model.train_on_batch(*batch, return_dict=True)
            found = [(name, float(value)) for name, value in logs.items()]
            for variable, _, _ in before:
                value = variable.value
                found.append((variable.path, value.detach().clone()))
                found.append((f"{variable.path}.grad", value.grad))
            return found

        return run

    try:
        return compare_runs(
            lambda: ready(torch.clone, contextlib.nullcontext),
            lambda: ready(value_of, _no_mesh),
            lambda *by: ready(functools.partial(_nudged, by), _no_mesh),
            rtol,
        )
    finally:
        for variable, value, gradient in before:
            variable.value.data = value
            variable.value.grad = gradient


def _nudged(by: tuple[float, int], value: torch.Tensor) -> torch.Tensor:
    moved = value_of(value).clone()
    nudge(moved, *by)
    return moved


def _variables(model: keras.Model) -> list[Any]:
    """All that a training step may write, each once."""
    found = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    seeds = global_state.get_global_attribute("global_seed_generator")
    if seeds is not None:
        found.append(seeds.state)
    return list({id(v): v for v in found}.values())


@contextlib.contextmanager
def _no_mesh() -> Iterator[None]:
    """As if no distribution had been set, in this thread and the process."""
    mine = global_state.get_global_attribute("distribution")
    process = active.current()
    global_state.set_global_attribute("distribution", None)
    mesh = tm.current_mesh()
    active.switch(None)
    try:
        with keras.device("cpu"):
            yield
    finally:
        active.switch(process)
        tm.use(mesh)
        global_state.set_global_attribute("distribution", mine)
