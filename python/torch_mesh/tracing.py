"""What a program does on the mesh, for people to read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from torch_mesh import _C, merged_traces
from torch_mesh.counters import Counting, counting


def explain(f: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Runs `f(*args, **kwargs)` and says what each op did.

    Args:
        f: any function; what it returns is dropped.
        args: its arguments.
        kwargs: those with names.

    Returns:
        Text, a line for each op: its tensors with their layouts, the steps of
        the redistributions, and the layouts of its results.
    """
    return _explained(f, args, kwargs, with_instructions=False)


def instructions(f: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """As `explain`, and below each line what the op did, in order.

    Args:
        f: any function; what it returns is dropped.
        args: its arguments.
        kwargs: those with names.

    Returns:
        Text. An op that was planned has a line for each instruction, with the
        numbers of the arguments or results that it is about: "move 1:
        all_gather@model 24 B" brings argument 1 into the layout in which it is
        read. Programs of other ops, and ops on storages, have none.
    """
    return _explained(f, args, kwargs, with_instructions=True)


def _explained(
    f: Callable[..., Any],
    args: Any,
    kwargs: Any,
    *,
    with_instructions: bool,
) -> str:
    _C.start_explaining(with_instructions)
    try:
        f(*args, **kwargs)
    finally:
        lines = _C.stop_explaining()
    return "\n".join(lines)


@contextlib.contextmanager
def trace(path: str | os.PathLike[str]) -> Iterator[Counting]:
    """Writes what runs in the block as a Chrome trace.

    Times are torch's profiler's, in us. What the block counted stands in the
    file under "torch_mesh".

    In a job of several processes all of them trace, and process 0 writes one
    file, in which each has rows of its own. Times are those of each host's
    clock: on one host that is one, those of several may be off as their clocks
    are.

    Args:
        path: of the JSON file, for chrome://tracing or Perfetto. Processes
            write their parts beside it, so all must see one folder there.

    Yields:
        A `Counting` of the block.

    Raises:
        OSError: if the file cannot be written, or process 0 does not see what
            another process wrote.
        RuntimeError: if torch's profiler runs already: there is one in a
            process; in a job, if another process does not come in time.
    """
    if torch.autograd._profiler_enabled():
        raise RuntimeError(
            "trace: torch's profiler runs already, in a trace or a profile"
            " around this one.\nHint: trace the whole, or use counting()"
            " inside. [trace-nested]"
        )
    with (
        counting() as counts,
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU]
        ) as profile,
    ):
        yield counts

    def export(to: str) -> None:
        profile.export_chrome_trace(to)
        with open(to) as file:
            content = json.load(file)
        content["torch_mesh"] = {
            "collectives": counts.collectives,
            "bytes": counts.bytes,
            "bytes_between_processes": counts.bytes_between_processes(),
            "replicated_ops": counts.replicated_ops,
        }
        with open(to, "w") as file:
            json.dump(content, file)

    merged_traces.write(os.fspath(path), export)
