"""A job of several processes: one program, and one mesh over all of them.

`initialize` brings the processes of a job together (meeting.py), compares what
they are like, and tells the engine. With one process there is nothing to bring
together, and none is made.

What the job is stands in `job`; `torch.distributed` ends it with
`destroy_process_group`.

Light: the engine and torch.distributed come when they are needed.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from torch_mesh import cluster, devices, ending, job, meeting

# Seconds that a process waits for its peers to come, and for their part of a
# collective. torch's own default for the latter: a peer may be writing a file.
_WAIT_FOR_PEERS = 300.0
_WAIT_FOR_ANSWER = 1800.0

# The process that keeps the store: a launcher, or whoever made the group.
_UNKNOWN = -1

_MAX_DEVICES = 1 << 16
# torch's own seed of a process has 63 bits: what is less, somebody has set.
_SET_BY_HAND = 1 << 32


class _More(NamedTuple):
    """What another layer wants to know of all processes.

    Attributes:
        name: Of the fact.
        own: What this process says; of what JSON knows.
        settle: Takes what all say, unchecked, when the job has begun.
    """

    name: str
    own: Callable[[], Any]
    settle: Callable[[list[Any]], None]


_more: list[_More] = []


def initialize(
    job_addresses: str | Sequence[str] | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float | None = None,
) -> None:
    """Makes this process part of a job, before anything else is computed.

    Afterwards `list_devices()` has the devices of all processes, and a `Mesh`
    may have devices of several: then all of them run the same program, each
    holds the shards of its own devices, and every value is the same in all.

    With one process there is nothing to do: it drives all devices of its
    machine. Several meet at the address of process 0. All of them must call
    this, within `timeout` of each other. A process group that
    `torch.distributed` has already is taken as the job. Without arguments the
    variables `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `_NUM_PROCESSES` and
    `_PROCESS_ID` say them, else those that `torchrun` sets, else those of a
    Slurm step with several tasks.

    Args:
        job_addresses: "host:port" of each process, as one text with commas
            between or as a list, or that of process 0 alone.
        num_processes: Number of processes; default the number of addresses.
        process_id: Index of this process, in [0, num_processes).
        timeout: Seconds to wait for the other processes, now and in each
            collective. Defaults to `TORCH_MESH_TIMEOUT`, else 300 now and
            1800 in a collective.

    Raises:
        TypeError: if `job_addresses` is neither text nor a list of texts.
        ValueError: if the arguments do not agree with each other or with those
            of another process, if the environment describes a job in part, or
            if the processes would not compute the same bits.
        TimeoutError: if a process does not come in time.
        RuntimeError: if this process is part of a job already, or process 0
            cannot use its port.
    """
    wait, answer = _timeouts(timeout)
    if (job_addresses, num_processes, process_id) == (None, None, None):
        arguments = cluster.keras_arguments()
        job_addresses, num_processes, process_id = arguments
    addresses = cluster.parse_addresses(job_addresses)
    if len(addresses) > 1 and num_processes not in (None, len(addresses)):
        raise ValueError(
            f"initialize: {len(addresses)} addresses, but {num_processes} "
            "processes.\n"
            f"  job_addresses  {job_addresses}\n"
            "Hint: give one address per process, or only the first one. "
            "[job-addresses]"
        )
    if (num_processes, process_id) == (None, None) and not addresses:
        if job.group() is not None:
            _adopt_group(None, wait, answer)
            return
        described = cluster.described()
        if described is not None:
            _meet(described, wait, answer)
        return
    count = _check_count(num_processes, max(1, len(addresses)))
    mine = _check_id(process_id, count)
    if job.group() is not None:
        _adopt_group((mine, count), wait, answer)
    elif count > 1:
        if not addresses:
            raise ValueError(
                f"initialize: {count} processes, but no address to meet at.\n"
                "Hint: give job_addresses, at least the address of process 0. "
                "[job-addresses]"
            )
        _meet(cluster.Described(*addresses[0], count, mine), wait, answer)


def compare_too(
    name: str, own: Callable[[], Any], settle: Callable[[list[Any]], None]
) -> None:
    """Has `initialize` exchange one fact more.

    Args:
        name: Of the fact.
        own: Gives what this process says; of what JSON knows.
        settle: Is called with what all processes say when the job has begun.
            Nothing about it is checked.
    """
    _more.append(_More(name, own, settle))


# Arguments


def _check_id(process: Any, count: int) -> int:
    """The index of this process.

    Raises:
        ValueError: if it is not one of `count`, or missing.
    """
    if process is None and count == 1:
        return 0
    is_number = isinstance(process, int) and not isinstance(process, bool)
    if is_number and 0 <= process < count:
        return int(process)
    said = "no process_id" if process is None else f"process {process!r}"
    raise ValueError(
        f"initialize: {said} is not one of {count}.\n"
        f"  process_id  must be in [0, {count})\n"
        "Hint: number the processes from 0. [process-id]"
    )


def _check_count(count: Any, default: int) -> int:
    """The number of processes, a positive int."""
    if count is None:
        return default
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(
            f"initialize: {count!r} is no number of processes.\n"
            "Hint: give num_processes=1 or more, or leave it out. "
            "[job-addresses]"
        )
    return count


def _timeouts(timeout: float | None) -> tuple[float, float]:
    """Seconds to wait for peers to come, and for each collective."""
    source = "timeout"
    value: Any = timeout
    if value is None:
        source = "TORCH_MESH_TIMEOUT"
        value = os.environ.get(source) or None
    if value is None:
        return _WAIT_FOR_PEERS, _WAIT_FOR_ANSWER
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    # A week: beyond some centuries torch's clocks overflow.
    if not 0 < seconds <= 7 * 24 * 3600:
        raise ValueError(
            f"initialize: {source}={value!r} is no time to wait.\n"
            "Hint: give a number of seconds above 0, at most a week. "
            "[process-timeout]"
        )
    return seconds, seconds


# The beginning


def _adopt_group(
    asked: tuple[int, int] | None, wait: float, answer: float
) -> None:
    """Takes the process group that there is as the job.

    Args:
        asked: Index and number of processes, as the arguments say; None if
            they say nothing.
        wait: Seconds to wait for the others.
        answer: Seconds to wait for them later on.

    Raises:
        RuntimeError: if the arguments describe another one, or `initialize`
            was called before.
    """
    group = job.group()
    now = (group.rank(), group.size())
    if asked not in (None, now) or job.devices_by_process() is not None:
        mine, count = asked or now
        raise RuntimeError(
            "initialize: this process is part of a job already.\n"
            f"  now    process {now[0]} of {now[1]}\n"
            f"  asked  process {mine} of {count}\n"
            "Hint: call it once, before anything else; "
            "torch.distributed.destroy_process_group() ends a job. "
            "[initialized-twice]"
        )
    job.forget()
    dist = meeting.distributed()
    store = dist.PrefixStore(job.begin(), group.get_group_store())
    said = meeting.exchange(store, *now, _own_facts(), wait)
    _compare(said, now[0])
    _begin(group, said, answer, _UNKNOWN)


def _meet(where: cluster.Described, wait: float, answer: float) -> None:
    """Waits for all processes at the address of process 0, and makes the group.

    Raises:
        ValueError: if the processes do not agree about the job.
        TimeoutError: if one does not come.
        RuntimeError: if process 0 cannot use the port.
    """
    meeting.distributed()
    job.forget()  # an ended job's store must let go of its port
    mine, count = where.process, where.num_processes
    store = meeting.open_store(where, job.begin(), wait)
    meeting.say_who(store, count, mine)
    said = meeting.exchange(store, mine, count, _own_facts(), wait)
    try:
        _compare(said, mine)
    except ValueError:
        meeting.let_all_read(store, mine, count)
        raise
    group = meeting.make_group(store, mine, count, answer, meeting.backend())
    _begin(group, said, answer, _UNKNOWN if where.has_store else 0)


def _begin(
    group: Any, said: list[dict[str, Any]], answer: float, store_keeper: int
) -> None:
    """Makes the job this process's, here and in the engine."""
    counts = [_devices_in(facts, i) for i, facts in enumerate(said)]
    seeds = [_seed_in(facts, i) for i, facts in enumerate(said)]
    job.learn(group, counts, seeds[0][0] % _SET_BY_HAND)
    ending.at_exit()
    if group.size() > 1:
        try:
            _start_engine(group, answer, store_keeper)
        except BaseException:
            job.forget()
            with contextlib.suppress(Exception):
                meeting.distributed().destroy_process_group()
            raise
    _settle_seeds(seeds)
    for more in _more:
        more.settle([facts.get(more.name) for facts in said])


def _start_engine(group: Any, answer: float, store_keeper: int) -> None:
    """Has the engine open its ways to the other processes."""
    from torch_mesh import _C, overlap

    _C.set_wait_limit(answer)
    _C.start_job(
        group.group_name,
        group.rank(),
        group.size(),
        store_keeper,
        f"{job.name()}/engine/",
    )
    overlap.watch_torch()


# What the processes are like


def _own_facts() -> dict[str, Any]:
    """What this process says about itself; `_compare` reads it."""
    import torch_mesh
    from torch_mesh import _C

    state = torch.get_rng_state().numpy().tobytes()
    return {
        "torch": str(torch.__version__),
        "torch_mesh": torch_mesh.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "memories": _C.cpu_memories_are_separate(),
        "devices": devices.own_counts(),
        "seed": [torch.initial_seed(), zlib.crc32(state)],
        **{more.name: more.own() for more in _more},
    }


# What must be equal, since results would differ in their last bits, or the
# processes not understand each other: name, words, hint.
_EQUAL = (
    ("torch", "versions of torch", "install the same torch for all."),
    (
        "torch_mesh",
        "versions of torch_mesh",
        "install the same torch-mesh for all.",
    ),
    (
        "capability",
        "instructions of their CPUs",
        "set ATEN_CPU_CAPABILITY in all to the least of them, as avx2.",
    ),
    (
        "threads",
        "numbers of threads",
        "set OMP_NUM_THREADS, or call torch.set_num_threads, to the same in "
        "all.",
    ),
    (
        "memories",
        "memories of CPU devices (are they separate?)",
        "set TORCH_MESH_CPU_MEMORIES to the same in all.",
    ),
)


def _compare(said: list[dict[str, Any]], mine: int) -> None:
    """Refuses processes that would not compute the same bits.

    Raises:
        ValueError: naming the values of all.
    """
    for name, words, hint in _EQUAL:
        values = [meeting.shown(facts.get(name)) for facts in said]
        if len(set(values)) == 1:
            continue
        lines = "".join(
            f"  process {i}  {value}" + (" (this one)\n" if i == mine else "\n")
            for i, value in enumerate(values)
        )
        raise ValueError(
            f"initialize: the processes have different {words}, and would not "
            f"compute the same bits.\n{lines}Hint: {hint} [processes-differ]"
        )


def _devices_in(facts: dict[str, Any], process: int) -> dict[str, int]:
    """Number of devices by kind, as a process says it."""
    counts = facts.get("devices")
    found = {}
    for kind in ("cpu", "gpu"):
        count = counts.get(kind) if isinstance(counts, dict) else None
        if type(count) is not int or not 0 <= count <= _MAX_DEVICES:
            raise _not_understood("devices", counts, process)
        found[kind] = count
    return found


def _seed_in(facts: dict[str, Any], process: int) -> list[int]:
    """torch's seed, and a check sum of its generator's state."""
    seed = facts.get("seed")
    if (
        not isinstance(seed, list)
        or [type(number) for number in seed] != [int, int]
        or not all(0 <= number < 1 << 64 for number in seed)
    ):
        raise _not_understood("seed", seed, process)
    return seed


def _not_understood(what: str, said: Any, process: int) -> ValueError:
    return ValueError(
        f"initialize: the {what} of process {process} are not to be "
        "understood.\n"
        f"  it says  {meeting.shown(said)}\n"
        "Hint: let the programs of this job alone connect to its address. "
        "[processes-differ]"
    )


def _settle_seeds(seeds: list[list[int]]) -> None:
    """Makes the processes draw the same numbers, unless somebody has chosen.

    Where none has set a seed, that of process 0 is everyone's.
    """
    if all(seed == seeds[0] for seed in seeds):
        return
    if all(seed >= _SET_BY_HAND for seed, _ in seeds):
        torch.manual_seed(seeds[0][0])
        return
    warn_of_seeds("torch.manual_seed", [seed for seed, _ in seeds])


def warn_of_seeds(function: str, seeds: list[Any]) -> None:
    """Warns that the processes begin with different random numbers.

    Args:
        function: What sets the seed.
        seeds: Of each process.
    """
    warnings.warn(
        "initialize: the processes have different random seeds, or have drawn "
        "different numbers since.\n"
        f"  {function}  {seeds}\n"
        "Hint: set the same seed in each process before initialize, so "
        "that they begin with the same weights. [seeds-differ]",
        stacklevel=5,
    )
