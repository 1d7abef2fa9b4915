"""A job of several processes.

`initialize` brings the processes of a job together, by way of process 0: each
connects to its address, says which process it is and which devices it has, and
waits for the others. Then torch's default process group is made. With one
process there is nothing to bring together, and none is made.

What the job is stands in `job`; `torch.distributed` ends it with
`destroy_process_group`.

Loaded with Keras: the engine and torch.distributed come when they are needed.
"""

from __future__ import annotations

import datetime
import json
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from torch_mesh.keras import active, collectives, ending, job, waiting

# Seconds that a process waits for its peers to come, and for their part of a
# collective. torch's own default for the latter: a peer may be writing a file.
_WAIT_FOR_PEERS = 300.0
_WAIT_FOR_ANSWER = 1800.0

# Where the processes write to each other while they meet.
_KEY = "torch_mesh/job"

# What torchrun sets.
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def initialize(
    job_addresses: str | Sequence[str] | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float | None = None,
) -> None:
    """Makes this process part of a job, before anything else is computed.

    With one process there is nothing to do: it drives all devices of its
    machine. Several meet at the address of process 0, on CPUs by gloo, with
    GPUs by NCCL for tensors there. All of them must call this, within
    `timeout` of each other. A process group that `torch.distributed` has
    already is taken as the job. Without arguments the variables
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `_NUM_PROCESSES` and `_PROCESS_ID` say
    them, else those that `torchrun` sets.

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
        ValueError: if the arguments do not agree with each other, or with
            those of another process, or `torchrun`'s variables are not all
            there.
        TimeoutError: if a process does not come in time.
        RuntimeError: if this process is part of a job already, or process 0
            cannot use its port.
    """
    wait, answer = _timeouts(timeout)
    if (job_addresses, num_processes, process_id) == (None, None, None):
        job_addresses, num_processes, process_id = _arguments_of_environment()
    addresses = _parse_addresses(job_addresses)
    if len(addresses) > 1 and num_processes not in (None, len(addresses)):
        raise ValueError(
            f"initialize: {len(addresses)} addresses, but {num_processes} "
            "processes.\n"
            f"  job_addresses  {job_addresses}\n"
            "Hint: give one address per process, or only the first one. "
            "[job-addresses]"
        )
    if (num_processes, process_id) == (None, None) and not addresses:
        if job.group() is None and not _meet_by_environment(answer):
            return  # one process
        _adopt_group(None)
    else:
        count = _check_count(num_processes, max(1, len(addresses)))
        mine = _check_id(process_id, count)
        if job.group() is not None:
            _adopt_group((mine, count))
        elif count == 1:
            return
        elif not addresses:
            raise ValueError(
                f"initialize: {count} processes, but no address to meet at.\n"
                "Hint: give job_addresses, at least the address of process 0. "
                "[job-addresses]"
            )
        else:
            _meet(addresses[0], count, mine, wait, answer)
    initialize_rng()


def initialize_rng() -> None:
    """Makes the processes of a job draw the same random numbers.

    If no seed was set with `keras.utils.set_random_seed`, process 0 draws one
    for all. With one process nothing is seeded behind the user's back.
    """
    if job.num_processes() == 1:
        return
    from keras.src.random import seed_generator
    from keras.src.utils import rng_utils

    mine = rng_utils.get_random_seed()
    chosen = seed_generator.make_default_seed() if mine is None else mine
    both = torch.tensor([mine is not None, chosen], dtype=torch.int64)
    all_of_them = collectives.gather_numbers("initialize", both)
    if not any(int(is_set) for is_set, _ in all_of_them):
        rng_utils.set_random_seed(int(all_of_them[0][1]))
    elif any(row.tolist() != all_of_them[0].tolist() for row in all_of_them):
        seeds = [int(s) if is_set else None for is_set, s in all_of_them]
        warnings.warn(
            "initialize: the processes have different random seeds.\n"
            f"  keras.utils.set_random_seed  {seeds}\n"
            "Hint: set the same seed in each process before initialize, so "
            "that they begin with the same weights. [seeds-differ]",
            stacklevel=3,
        )


def is_distributed() -> bool:
    """Whether a program runs on more than one device or process.

    Returns:
        True with several processes, and while a distribution over at least two
        devices is in force.
    """
    if job.num_processes() > 1:
        return True
    distribution = active.current()
    return (
        distribution is not None and distribution.device_mesh.devices.size > 1
    )


# Arguments


def _parse_addresses(given: Any) -> list[tuple[str, int]]:
    """Hosts and ports of "host:port,[::1]:port,...", or of a list of such."""
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, (list, tuple)) or not all(
        isinstance(text, str) for text in texts
    ):
        raise TypeError(
            f"initialize: job_addresses is {given!r}, and must be text.\n"
            'Hint: write "host:port,host:port", or a list of such texts. '
            "[argument-type]"
        )
    text = ",".join(texts)
    addresses = []
    for part in text.split(","):
        if not (part := part.strip()):
            continue
        host, _, port = part.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        is_host = host and "/" not in host  # a URL is not one
        if not is_host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(
                f'initialize: "{part}" is no address.\n'
                f"  job_addresses  {text}\n"
                'Hint: write "host:port" with a port from 1 to 65535, as in '
                '"127.0.0.1:1234". [job-addresses]'
            )
        addresses.append((host, int(port)))
    return addresses


def _check_id(process: Any, count: int) -> int:
    """The index of this process.

    Raises:
        ValueError: if it is not one of `count`, or missing.
    """
    if process is None and count == 1:
        return 0
    is_number = isinstance(process, int) and not isinstance(process, bool)
    if is_number and 0 <= process < count:
        return process
    said = "no process_id" if process is None else f"process {process!r}"
    raise ValueError(
        f"initialize: {said} is not one of {count}.\n"
        f"  process_id  must be in [0, {count})\n"
        "Hint: number the processes from 0. [process-id]"
    )


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


def _arguments_of_environment() -> tuple[Any, Any, Any]:
    """What `keras.distribution.initialize` reads from the environment."""
    values: list[Any] = [
        os.environ.get(f"KERAS_DISTRIBUTION_{name}")
        for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
    ]
    for i in (1, 2):
        if values[i] is not None and values[i].strip().isdecimal():
            values[i] = int(values[i])
    return values[0], values[1], values[2]


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


# Meeting


def _adopt_group(asked: tuple[int, int] | None) -> None:
    """Takes the process group that there is as the job.

    Args:
        asked: Index and number of processes, as the arguments say; None if
            they say nothing.

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
    counts: list[Any] = [None] * group.size()
    _distributed().all_gather_object(counts, _own_devices())
    job.learn(group, None, counts)


def _meet_by_environment(answer: float) -> bool:
    """Takes the job that `torchrun` describes in the environment.

    Raises:
        ValueError: if it describes a job of several processes in part.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return False
    if os.environ["WORLD_SIZE"].strip() == "1":
        return False
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise ValueError(
            f"initialize: the environment says RANK={os.environ['RANK']} "
            f"and WORLD_SIZE={os.environ['WORLD_SIZE']}, but not where to "
            "meet.\n"
            f"  missing  {', '.join(missing)}\n"
            "Hint: start the processes with torchrun, set what is missing, or "
            "unset RANK and WORLD_SIZE for a job of one. [job-addresses]"
        )
    dist = _distributed()
    dist.init_process_group(
        _backend(), timeout=datetime.timedelta(seconds=answer)
    )
    ending.at_exit()
    return True


def _meet(
    address: tuple[str, int], count: int, mine: int, wait: float, answer: float
) -> None:
    """Waits for all processes at the address of process 0, and makes the group.

    Raises:
        ValueError: if the processes do not agree about the job.
        TimeoutError: if one does not come.
        RuntimeError: if process 0 cannot use the port.
    """
    dist = _distributed()
    job.forget()  # an ended job's store must let go of its port
    deadline = time.monotonic() + wait
    store = _open_store(address, mine, wait)
    _say_who(store, count, mine)
    _wait_for_all(store, count, mine, wait, deadline)
    devices = [
        json.loads(store.get(f"{_KEY}/devices/{i}")) for i in range(count)
    ]
    try:
        dist.init_process_group(
            _backend(),
            store=dist.PrefixStore("torch_mesh/group", store),
            rank=mine,
            world_size=count,
            timeout=datetime.timedelta(seconds=answer),
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"initialize: process {mine} of {count} cannot reach the others.\n"
            f"  {_first_line(error)}\n"
            "Hint: if the host has several networks, name one in "
            "GLOO_SOCKET_IFNAME. [peer-lost]"
        ) from error
    job.learn(dist.group.WORLD, store, devices)
    ending.at_exit()


def _open_store(address: tuple[str, int], mine: int, wait: float) -> Any:
    """The store of process 0: served by it, reached by the others."""
    dist = _distributed()
    host, port = address
    try:
        if mine != 0:
            wait = waiting.until_listening(host, port, wait)
        return dist.TCPStore(
            host,
            port,
            is_master=mine == 0,
            timeout=datetime.timedelta(seconds=wait),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError, OSError) as error:
        if mine == 0:
            raise RuntimeError(
                f"initialize: process 0 cannot listen at {host}:{port}.\n"
                f"  {_first_line(error)}\n"
                "Hint: choose a free port, the same in all processes. "
                "[address-in-use]"
            ) from error
        raise TimeoutError(
            f"initialize: process 0 did not answer at {host}:{port} within "
            f"{wait:g} s.\n"
            f"  {_first_line(error)}\n"
            "Hint: start process 0, at an address that this host reaches; "
            "timeout= or TORCH_MESH_TIMEOUT waits longer. [peer-missing]"
        ) from error


def _say_who(store: Any, count: int, mine: int) -> None:
    """Enters this process in the store.

    Raises:
        ValueError: if another process has its number, or expects another
            number of processes.
    """
    if store.add(f"{_KEY}/seen/{mine}", 1) > 1:
        raise ValueError(
            f"initialize: there is another process {mine} of {count}.\n"
            "Hint: give each process a process_id of its own. [process-id]"
        )
    # The first to come decides; the others compare.
    said = store.compare_set(f"{_KEY}/count", "", str(count)).decode()
    if said != str(count):
        raise ValueError(
            f"initialize: process {mine} expects {count} processes, others "
            f"{said}.\n"
            "Hint: give all processes the same arguments but for process_id. "
            "[job-addresses]"
        )
    store.set(f"{_KEY}/devices/{mine}", json.dumps(_own_devices()))


def _wait_for_all(
    store: Any, count: int, mine: int, wait: float, deadline: float
) -> None:
    """Waits until each process has come.

    Raises:
        TimeoutError: naming those that did not.
    """
    keys = [f"{_KEY}/devices/{i}" for i in range(count)]

    def missing() -> list[int]:
        if store.check(keys):
            return []
        return [i for i, key in enumerate(keys) if not store.check([key])]

    cause = None
    try:
        late = waiting.until_come(missing, count, deadline - time.monotonic())
    except RuntimeError as error:  # process 0 has given up before
        late, cause = [0], error
    if late:
        raise TimeoutError(
            f"initialize: process {', '.join(map(str, late))} of {count} "
            f"did not come within {wait:g} s.\n"
            f"  this is process {mine}\n"
            "Hint: start all processes, and look why those are late; "
            "timeout= or TORCH_MESH_TIMEOUT waits longer. [peer-missing]"
        ) from cause


def _own_devices() -> dict[str, int]:
    import torch_mesh as tm

    return {kind: len(tm.list_devices(kind)) for kind in ("cpu", "gpu")}


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _distributed() -> Any:
    """`torch.distributed`.

    Raises:
        RuntimeError: if this torch lacks it.
    """
    try:
        import torch.distributed as dist

        available = dist.is_available()
    except ImportError:
        available = False
    if not available:
        raise RuntimeError(
            "initialize: this torch has no torch.distributed.\n"
            "Hint: start one process, or install torch's own build. "
            "[no-distributed]"
        )
    return dist


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
