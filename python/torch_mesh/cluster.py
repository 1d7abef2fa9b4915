"""What the environment says about a job: by Keras, by torchrun, by Slurm.

The standard library only.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_log = logging.getLogger("torch_mesh")

# What torchrun sets.
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Slurm numbers steps from 0; the largest numbers stand for the batch script
# and for salloc's shell, which are no steps of several tasks.
_SLURM_NO_STEP = 0xFFFFFFF0
# A job has its port in the last 4096: jobs on one host seldom meet. JAX's rule.
_SLURM_PORTS = 4096
_MAX_HOSTS = 65536


class Described(NamedTuple):
    """A job as the environment describes it.

    Attributes:
        host: where process 0 is, or its store.
        port: of TCP.
        num_processes: at least 2.
        process: index of this one.
        has_store: whether the launcher has a store at the address already.
        other_host: a host of another process, if there is one.
    """

    host: str
    port: int
    num_processes: int
    process: int
    has_store: bool = False
    other_host: str = ""


def keras_arguments() -> tuple[Any, Any, Any]:
    """What `keras.distribution.initialize` reads from the environment.

    Returns:
        Addresses, number of processes and index, None where nothing is said;
        text where a number is due and none stands.
    """
    values: list[Any] = [
        os.environ.get(f"KERAS_DISTRIBUTION_{name}")
        for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
    ]
    for i in (1, 2):
        if values[i] is not None and values[i].strip().isdecimal():
            values[i] = int(values[i])
    return values[0], values[1], values[2]


def described() -> Described | None:
    """The job that `torchrun` or Slurm describes, None for one process.

    Raises:
        ValueError: if it is described in part, or not to be understood.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _by_torchrun()
    return _by_slurm()


def parse_addresses(given: Any) -> list[tuple[str, int]]:
    """Hosts and ports of "host:port,[::1]:port,...", or of a list of such.

    Raises:
        TypeError: if it is neither text nor a list of texts.
        ValueError: if one is no address.
    """
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


def hosts_of(text: str) -> Iterator[str]:
    """The hosts of a list as Slurm writes it, "a[1-3,07],b", in order.

    Raises:
        ValueError: if it is no such list.
    """
    if text.count("[") != text.count("]"):
        raise ValueError("a bracket is not closed")
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        pieces = re.split(r"\[([^\]]*)\]", part)
        choices = [
            list(_numbers_of(piece)) if i % 2 else [piece]
            for i, piece in enumerate(pieces)
        ]
        for names in itertools.product(*choices):
            yield "".join(names)


def _numbers_of(text: str) -> Iterator[str]:
    """The numbers of "1-3,07", as they are written."""
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal():
            raise ValueError(f'"{part}" is no range of numbers')
        if not 0 <= int(last) - int(first) < _MAX_HOSTS:
            raise ValueError(f'"{part}" is no range of hosts')
        for number in range(int(first), int(last) + 1):
            yield str(number).zfill(len(first))


def _by_torchrun() -> Described | None:
    """The job of `torchrun`'s variables."""
    if os.environ["WORLD_SIZE"].strip() == "1":
        return None
    missing = [name for name in _TORCHRUN if name not in os.environ]
    if missing:
        raise ValueError(
            f"initialize: the environment says RANK={os.environ['RANK']} "
            f"and WORLD_SIZE={os.environ['WORLD_SIZE']}, but not where to "
            "meet.\n"
            f"  missing  {', '.join(missing)}\n"
            "Hint: start the processes with torchrun, set what is missing, or "
            "unset RANK and WORLD_SIZE for a job of one. [job-addresses]"
        )
    port = _number("MASTER_PORT", 1, 65536)
    count = _number("WORLD_SIZE", 2, 1 << 20)
    process = _number("RANK", 0, count)
    has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Described(
        os.environ["MASTER_ADDR"],
        port,
        count,
        process,
        has_store,
    )


def _by_slurm() -> Described | None:
    """The job of a Slurm step with several tasks."""
    step = os.environ.get("SLURM_STEP_ID", "").strip()
    is_step = step.isdecimal() and int(step) < _SLURM_NO_STEP
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") if is_step else None
    if tasks is None and is_step:
        tasks = os.environ.get("SLURM_NTASKS")
    if tasks is None or tasks.strip() == "1":
        planned = os.environ.get("SLURM_NTASKS", "1").strip()
        if tasks is None and planned != "1":
            _log.warning(
                "initialize: Slurm has %s tasks planned, and this is no task "
                "of a step: one process; srun starts them",
                planned,
            )
        return None
    name = "SLURM_STEP_NUM_TASKS"
    name = name if name in os.environ else "SLURM_NTASKS"
    needed = ("SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
    missing = [variable for variable in needed if variable not in os.environ]
    if missing:
        raise ValueError(
            f"initialize: this is one of {tasks} tasks of a Slurm step, and "
            "not all is said about it.\n"
            f"  missing  {', '.join(missing)}\n"
            "Hint: start the program with srun, or give initialize "
            "job_addresses and process_id. [job-addresses]"
        )
    count = _number(name, 2, 1 << 20)
    process = _number("SLURM_PROCID", 0, count)
    port = 65536 - _SLURM_PORTS
    port += _number("SLURM_JOB_ID", 0, 1 << 62) % _SLURM_PORTS
    nodes = os.environ["SLURM_STEP_NODELIST"]
    try:
        hosts = list(itertools.islice(hosts_of(nodes), 2))
        if not hosts:
            raise ValueError("it is empty")
    except ValueError as error:
        raise ValueError(
            f"initialize: SLURM_STEP_NODELIST={nodes!r} is no list of hosts.\n"
            f"  {error}\n"
            "Hint: give initialize job_addresses and process_id. "
            "[job-addresses]"
        ) from None
    return Described(hosts[0], port, count, process, other_host=(*hosts, "")[1])


def _number(name: str, low: int, high: int) -> int:
    """A variable of the environment as a number in [low, high)."""
    text = os.environ[name].strip()
    if text.isdecimal() and low <= int(text) < high:
        return int(text)
    raise ValueError(
        f"initialize: {name}={text!r} in the environment is no number from "
        f"{low} to {high - 1}.\n"
        "Hint: unset it, or give initialize job_addresses, num_processes and "
        "process_id. [job-addresses]"
    )
