"""Does a step on the mesh give the numbers of one device?"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_mesh import _C
from torch_mesh.compared_runs import Named, Parity, Run, compare_runs
from torch_mesh.layouts import spans_processes
from torch_mesh.twin import Twin, global_tensors_in, held_by, on_mesh


def check_parity(
    step: Callable[..., Any],
    *state: Any,
    rtol: float | None = None,
) -> Parity:
    """Runs a step on the mesh and plainly, and says where they differ.

    Both runs start from deep copies of `state`, with the same random numbers;
    what was given stays as it is. On the mesh each op is run by plain torch
    too, on the whole values of its arguments: an op that differs is named with
    its layouts. Then the results of the step, and all tensors of the state with
    their gradients and optimizer states, are compared with those of the plain
    run. It costs some ten times the step, and copies of the state.

    Args:
        step: a function of `state`; what it returns is compared. Or a compiled
            Keras model, and `state` its batch: `check_parity(model, x, y)` is a
            step of `train_on_batch`.
        state: all that the step reads and writes, on the mesh: modules,
            optimizers, tensors, and containers of them.
        rtol: largest difference of a value, relative to its largest element.
            None: 1e-4; for float64 1e-10, for bfloat16 5e-2, float16 2e-2;
            6 steps of rounding of a 16-bit dtype that ops compute in, as under
            autocast.

    Returns:
        A `Parity`: true if nothing differs, else it prints the first op.

    Raises:
        TypeError: if `step` uses a tensor, module or optimizer of the mesh that
            is not in `state`, or none of `state` is on the mesh.
        ValueError: if it is on a mesh over several processes.

    Example:
        >>> def step(model, x):
        ...     loss = model(x).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> with use(Mesh({"data": 2})):
        ...     model = torch.nn.Linear(4, 2).to("mesh")
        >>> x = distribute(torch.ones(6, 4), Mesh({"data": 2}), ("S0",))
        >>> bool(check_parity(step, model, x))
        True
    """
    if _is_keras_model(step):
        from torch_mesh.keras import parity  # Keras is there

        return parity.check_model(step, state, rtol)
    _check_is_whole(step, state)

    def run(twin: Twin) -> Named:
        result = step(*twin.objects)
        return [*_results(result), *_state_of(twin)]

    def ready(on_mesh: bool, nudged: tuple[float, int] | None = None) -> Run:
        return functools.partial(run, Twin(state, on_mesh, nudged))

    return compare_runs(
        lambda: ready(on_mesh=True),
        lambda: ready(on_mesh=False),
        lambda *nudged: ready(on_mesh=False, nudged=nudged),
        rtol,
    )


def _check_is_whole(step: Callable[..., Any], state: Any) -> None:
    """Raises if the step holds on to something that no copy would replace."""
    if not callable(step):
        raise TypeError(
            "check_parity: a function is due, and this is a"
            f" {type(step).__name__}.\nHint: give the step, then what it"
            " takes. [argument-type]"
        )
    if any(
        spans_processes(_C.layout_of(tensor).mesh)
        for tensor in global_tensors_in(state)
    ):
        raise ValueError(
            "check_parity: the mesh has devices of several processes, and one"
            " process alone can run both.\nHint: run it in one process with as"
            " many devices, TORCH_MESH_CPU_DEVICES; with"
            " TORCH_MESH_CPU_MEMORIES=separate the bits are those of several."
            " [one-process]"
        )
    held = held_by(step)
    for name, value in held:
        if on_mesh(value):
            raise TypeError(
                f"check_parity: the step uses {name}, which is on the mesh and"
                " not among its arguments, so no copy of it can be made.\n"
                "Hint: check_parity(step, model, ...), and the step takes them."
                " [parity-state]"
            )
    if not any(on_mesh(value) for value in state):
        raise TypeError(
            "check_parity: nothing of the state is on the mesh.\n"
            "Hint: bring model and batch there first, as for training."
            " [parity-state]"
        )


def _is_keras_model(step: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(step, keras.Model)


def _results(result: Any) -> Named:
    """What a step returns, with names."""
    leaves = pytree.tree_leaves(result)
    return [(f"result {i}", leaf) for i, leaf in enumerate(leaves)]


def _state_of(twin: Twin) -> Named:
    """All that a step leaves behind in its state, with names."""
    names = _names(twin)
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for number, (_, copied) in enumerate(twin.pairs):
        if isinstance(copied, torch.Tensor) and id(copied) not in seen:
            seen.add(id(copied))
            name = names.get(id(copied), f"tensor {number}")
            if name in found:
                name = f"{name} ({number})"
            found[name] = copied
            if copied.is_leaf:
                found[f"{name}.grad"] = copied.grad
        if isinstance(copied, torch.optim.Optimizer):
            found.update(_states(copied, names))
    return list(found.items())


def _names(twin: Twin) -> dict[int, str]:
    """Names of the tensors that modules hold."""
    names: dict[int, str] = {}
    for _, module in twin.pairs:
        if isinstance(module, torch.nn.Module):
            for name, tensor in (
                *module.named_parameters(),
                *module.named_buffers(),
            ):
                # The outermost module has the longest name.
                if len(name) > len(names.get(id(tensor), "")):
                    names[id(tensor)] = name
    return names


def _states(
    optimizer: torch.optim.Optimizer, names: dict[int, str]
) -> Iterator[tuple[str, Any]]:
    """States of an optimizer, those too that the step has made."""
    number = 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            name = names.get(id(p), f"parameter {number}")
            number += 1
            for key, value in sorted(optimizer.state.get(p, {}).items()):
                yield f"state {name} {key}", value
