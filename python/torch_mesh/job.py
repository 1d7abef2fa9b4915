"""Which job of several processes this process is part of.

The job is torch's default process group, whoever made it. So `num_processes`
tells the truth under `torchrun` too, and `torch.distributed` ends the job with
`destroy_process_group`. What `initialize` (processes.py) has learned stands
here, for all who only ask.

Light: torch.distributed and the engine come when they are needed.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NamedTuple


class _Job(NamedTuple):
    """What `initialize` has learned; it holds as long as its group does.

    Attributes:
        group: The process group that it belongs to.
        devices: Number of devices by kind, for each process.
        seed: A number that is the same in all processes, drawn by process 0.
    """

    group: Any
    devices: list[dict[str, int]]
    seed: int


_job: _Job | None = None
_begun = 0
_is_warned = False
# How often each set of processes has met, or was told something.
_turns: dict[str, int] = {}

_MAX_TEXT = 1024


def begin() -> str:
    """Names the job that this process is about to join.

    All processes of a job have joined as many before it, in the same attempt of
    their launcher, so that its name is theirs too. torchrun's store outlives an
    attempt, and several jobs may write into one store.

    Returns:
        The prefix of its keys.
    """
    global _begun
    _begun += 1
    return name()


def warn_if_alone(op: str) -> None:
    """Warns, once, where this process is one of several that nobody has joined.

    Nothing joins a job by itself. A program that means to, and does not, would
    train in each process alone.

    Args:
        op: Whom the warning is to name.
    """
    global _is_warned
    if _is_warned or _begun:
        return
    said = {
        f"{name}={os.environ[name]}"
        for name in ("WORLD_SIZE", "KERAS_DISTRIBUTION_NUM_PROCESSES")
        if os.environ.get(name, "1").strip() not in ("", "1")
    }
    if num_processes() > 1:
        said.add("a process group of torch.distributed")
    if not said:
        return
    _is_warned = True
    warnings.warn(
        f"{op}: this process is one of several, and a mesh has the devices of "
        f"this one alone.\n  says so  {', '.join(sorted(said))}\n"
        "Hint: torch_mesh.initialize(), or keras.distribution.initialize(), "
        "before the first mesh, makes them one job. [not-joined]",
        stacklevel=3,
    )


def name() -> str:
    """The prefix of the keys of the job that began last."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"torch_mesh/attempt_{attempt}/{_begun}"


def learn(group: Any, devices: list[dict[str, int]], seed: int) -> None:
    """Keeps what `initialize` has learned.

    Args:
        group: The process group of the job.
        devices: Number of devices by kind, for each process.
        seed: The same in all processes.
    """
    global _job
    _job = _Job(group, devices, seed)


def forget() -> None:
    """Lets go of the job, and ends it for the engine. Sends nothing.

    An ended job's store keeps its port as long as anybody holds it.
    """
    global _job
    _job = None
    _turns.clear()
    engine = sys.modules.get("torch_mesh._C")
    if engine is not None:
        engine.end_job()


def group() -> Any:
    """torch's default process group, None without one.

    A fake one, with which programs are tried out in one process, is none.
    """
    try:
        import torch.distributed as dist
    except ImportError:
        return None
    if not dist.is_available() or not dist.is_initialized():
        return None
    found = dist.group.WORLD
    if found is None or dist.get_backend(found) == "fake":
        return None
    return found


def num_processes() -> int:
    """Returns the number of processes of the job.

    Returns:
        int, 1 if there is no process group.
    """
    found = group()
    return 1 if found is None else found.size()


def process_id() -> int:
    """Returns the index of this process in the job.

    Returns:
        int, 0 if there is no process group.
    """
    found = group()
    return 0 if found is None else found.rank()


def devices_by_process() -> list[dict[str, int]] | None:
    """Number of devices by kind, for each process of the job.

    Returns:
        List of dicts such as {"cpu": 4, "gpu": 0}; None unless `initialize`
        has brought several processes together.
    """
    now = _now()
    return None if now is None else now.devices


def seed() -> int | None:
    """A number that is the same in all processes, None outside of a job."""
    now = _now()
    return None if now is None else now.seed


def told(op: str, members: list[int], text: str = "") -> str:
    """Gives some processes a text of the first of them; returns it in all.

    The others wait for it: what the first has done before, they find done.

    Args:
        op: Whom an error is to name.
        members: The processes, this one among them, in order. All of them call
            this with the same, as often.
        text: That of the first; a kilobyte at most.

    Raises:
        RuntimeError: if it does not come in time, or nobody is there to say it.
    """
    if _now() is None or len(members) < 2:
        return text
    from torch_mesh import _C

    key = f"told/{_turn(members)}"
    if process_id() == members[0]:
        _C.leave_note(op, key, text[:_MAX_TEXT])
        return text[:_MAX_TEXT]
    said = _C.wait_for_note(op, key, members[0])
    return said[: 4 * _MAX_TEXT].decode("utf-8", "backslashreplace")


def pass_by(members: list[int]) -> None:
    """Takes the turn of a `told` of which this process waits for no word.

    Args:
        members: Those of the `told`.
    """
    if _now() is not None and len(members) > 1:
        _turn(members)


def meet(op: str, members: list[int]) -> None:
    """Returns when some processes have all come here.

    Args:
        op: Whom an error is to name.
        members: The processes, this one among them, in order. All of them call
            this, as often.

    Raises:
        RuntimeError: if one does not come in time, or has ended.
    """
    if _now() is None or len(members) < 2:
        return
    from torch_mesh import _C

    key = f"met/{_turn(members)}"
    _C.leave_note(op, f"{key}/{process_id()}", "")
    for member in members:
        _C.wait_for_note(op, f"{key}/{member}", member)


def _turn(members: list[int]) -> str:
    """What some processes do next, as part of a key."""
    name = "-".join(map(str, members))
    _turns[name] = _turns.get(name, 0) + 1
    return f"{name}/{_turns[name]}"


def _now() -> _Job | None:
    """The job, unless its group has ended."""
    if _job is None or _job.group is not group():
        return None
    return _job
