"""One Chrome trace of what the processes of a job have traced.

Each process writes its part beside the file; process 0 puts them together, each
under its number. Times of torch's profiler are those of the host's clock, in us
after a moment that the file names.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from torch_mesh import job

_START = "baseTimeNanoseconds"
_EVENTS = "traceEvents"


def write(path: str, export: Callable[[str], Any]) -> None:
    """Writes a trace: of this process, or one of all in a job of several.

    Args:
        path: of the file.
        export: writes the trace of this process to a path.

    Raises:
        OSError: if a file cannot be written, or process 0 does not see that of
            another process.
        RuntimeError: if a process of the job does not come in time.
    """
    if job.devices_by_process() is None:
        export(path)
        return
    members = list(range(job.num_processes()))
    mine = job.process_id()
    part = part_of(path, mine)
    export(part)
    content = _read(part)
    content["host"] = socket.gethostname()
    _write(part, content)
    job.meet("trace", members)
    try:
        if mine == 0:
            parts = [part_of(path, process) for process in members]
            _write(path, merged([_read(part) for part in parts]))
            for part in parts:
                os.remove(part)
    finally:
        job.told("trace", members)  # the others wait for the file


def part_of(path: str, process: int) -> str:
    """Where a process writes its part.

    Args:
        path: of the whole.
        process: index of the process.
    """
    return f"{path}.{process}"


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One trace of several.

    Args:
        parts: a trace for each process, in order; its "host" names the row.

    Returns:
        The first one, with the events of all: in rows of their process, and in
        us after the first one's moment.
    """
    whole = {key: value for key, value in parts[0].items() if key != "host"}
    whole[_EVENTS] = [
        event
        for process, part in enumerate(parts)
        for event in _events(process, part, parts[0].get(_START, 0))
    ]
    return whole


def _events(
    process: int, part: dict[str, Any], start: int
) -> list[dict[str, Any]]:
    shift = (part.get(_START, 0) - start) / 1000  # us
    found = []
    for event in part[_EVENTS]:
        event = {**event, "pid": _row(process, event.get("pid"))}
        if "ts" in event:
            event["ts"] += shift
        if "id" in event:  # two processes count from the same number
            event["id"] = f"{process}.{event['id']}"
        if event.get("name") == "process_name" and event["pid"] == process:
            name = f"process {process} on {part.get('host', 'a host')}"
            event["args"] = {"name": name}
        if event.get("name") == "process_sort_index":
            event["args"] = {"sort_index": process}
        found.append(event)
    return found


def _row(process: int, pid: Any) -> Any:
    """A process has its number; what torch names by text stays text."""
    return process if isinstance(pid, int) else f"{pid} of process {process}"


def _read(path: str) -> dict[str, Any]:
    with open(path) as file:
        content: dict[str, Any] = json.load(file)
    return content


def _write(path: str, content: dict[str, Any]) -> None:
    with open(path, "w") as file:
        json.dump(content, file)
