"""How the processes of a job meet: the store of process 0, and their group.

Each process connects to the store, says which process it is and what it is
like, and waits for the others. The store listens at the address that was given
and nowhere else, and gloo at the one by which this process reaches the store.
What the store holds is text of a few bytes, whose length and kind are checked,
and no pickle: whoever else writes there makes an error, and runs nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import os
import socket
import time
from typing import Any

import torch

from torch_mesh import interfaces, waiting
from torch_mesh.cluster import Described

# Bytes of what a process says about itself, at most.
_MAX_BYTES = 16384
_SHOWN = 200  # characters of it in an error
_BACKLOG = 1024
_WAIT_FOR_READERS = 5.0  # seconds


def distributed() -> Any:
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


def open_store(where: Described, name: str, wait: float) -> Any:
    """The store of a job: served by process 0 or a launcher, reached by all.

    Args:
        where: The job.
        name: Prefix of the keys of this job.
        wait: Seconds to wait for the others.

    Raises:
        TimeoutError: if it does not answer in time.
        RuntimeError: if process 0 cannot listen there.
    """
    dist = distributed()
    host, port = where.host, where.port
    serves = where.process == 0 and not where.has_store
    listening = None
    try:
        if serves:
            host, listening = _listen(where)
        else:
            wait = waiting.until_listening(host, port, wait)
        store = dist.TCPStore(
            host,
            port,
            is_master=serves,
            timeout=datetime.timedelta(seconds=wait),
            wait_for_workers=False,
            # The store closes it.
            master_listen_fd=listening.detach() if listening else None,
        )
    except (RuntimeError, ValueError, OSError) as error:
        if listening is not None:
            listening.close()
        if serves:
            raise RuntimeError(
                f"initialize: process 0 cannot listen at {host}:{port}.\n"
                f"  {first_line(error)}\n"
                "Hint: choose a free port, the same in all processes; or "
                "another one was given process_id=0 too. [address-in-use]"
            ) from error
        raise TimeoutError(
            f"initialize: process 0 did not answer at {host}:{port} within "
            f"{wait:g} s.\n"
            f"  {first_line(error)}\n"
            "Hint: start process 0, at an address that this host reaches; "
            "timeout= or TORCH_MESH_TIMEOUT waits longer. [peer-missing]"
        ) from error
    _bind_gloo(host, port)
    return dist.PrefixStore(name, store)


def say_who(store: Any, count: int, mine: int) -> None:
    """Enters this process in the store.

    Raises:
        ValueError: if another process has its number, or expects another
            number of processes.
    """
    if store.add(f"seen/{mine}", 1) > 1:
        hint = "give each process a process_id of its own."
        if multiprocessing.parent_process() is not None:
            hint += (
                " multiprocessing has started this process, which runs the "
                "script anew: what is for the first one alone belongs under "
                '`if __name__ == "__main__":`.'
            )
        raise ValueError(
            f"initialize: there is another process {mine} of {count}.\n"
            f"Hint: {hint} [process-id]"
        )
    # The first to come decides; the others compare.
    said = store.compare_set("count", "", str(count))
    if said != str(count).encode():
        raise ValueError(
            f"initialize: process {mine} expects {count} processes, others "
            f"{shown(said)}.\n"
            "Hint: give all processes the same arguments but for process_id. "
            "[job-addresses]"
        )


def exchange(
    store: Any, mine: int, count: int, facts: dict[str, Any], wait: float
) -> list[dict[str, Any]]:
    """What all processes say about themselves.

    Args:
        store: Of the job.
        mine: Index of this process.
        count: Number of processes.
        facts: What this one says; of what JSON knows.
        wait: Seconds to wait for the others.

    Returns:
        A dict for each process, with whatever values.

    Raises:
        TimeoutError: if one does not come in time.
        ValueError: if one says what is no dict.
    """
    keys = [f"facts/{i}" for i in range(count)]
    deadline = time.monotonic() + wait
    store.set(keys[mine], json.dumps(facts))

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
    return [_facts(store.get(key), i) for i, key in enumerate(keys)]


def let_all_read(store: Any, mine: int, count: int) -> None:
    """Keeps the store of process 0 until all have read, before an error."""
    with contextlib.suppress(RuntimeError, ValueError):
        read = store.add("read", 1)
        deadline = time.monotonic() + _WAIT_FOR_READERS
        while mine == 0 and read < count and time.monotonic() < deadline:
            time.sleep(0.01)
            read = store.add("read", 0)


def make_group(
    store: Any, mine: int, count: int, answer: float, backend: str
) -> Any:
    """Makes torch's default process group.

    Args:
        store: Of the job.
        mine: Index of this process.
        count: Number of processes.
        answer: Seconds to wait in each collective.
        backend: As torch names it.

    Raises:
        RuntimeError: if the processes do not reach each other.
    """
    dist = distributed()
    try:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=mine,
            world_size=count,
            timeout=datetime.timedelta(seconds=answer),
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"initialize: process {mine} of {count} cannot reach the others.\n"
            f"  {first_line(error)}\n"
            "Hint: if the host has several networks, name one in "
            "GLOO_SOCKET_IFNAME. [peer-lost]"
        ) from error
    return dist.group.WORLD


def backend() -> str:
    """The backends of a job's group: gloo, and NCCL where there are GPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def shown(said: Any) -> str:
    """What another process said, as a line of an error may show it.

    Args:
        said: Bytes, text, or what JSON knows.
    """
    if isinstance(said, bytes):
        said = said[: 2 * _SHOWN].decode("utf-8", "backslashreplace")
    text = said if isinstance(said, str) else json.dumps(said)
    text = escaped(text)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def escaped(text: str) -> str:
    """A text without control characters, and of ASCII."""
    return text.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0]


def _listen(where: Described) -> tuple[str, socket.socket]:
    """A socket that listens at the address of process 0 alone, and its host.

    Raises:
        OSError: if there is no such address here, or the port is taken.
    """
    family, address = _address_of(where.host, where.port)
    if where.other_host and interfaces.is_loopback(address):
        # A host that calls itself 127.0.1.1: what is reached from another one?
        family, there = _address_of(where.other_host, where.port)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((there, where.port))  # sends nothing
            address = probe.getsockname()[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address, where.port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return address, listening


def _address_of(host: str, port: int) -> tuple[int, str]:
    """The first address of a host, and its family."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    )[0]
    return family, str(address[0])


def _bind_gloo(host: str, port: int) -> None:
    """Has gloo listen where this process reaches the store, and nowhere else.

    It takes the name of a network, for this group and later ones. What the user
    has set is left.
    """
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    with socket.create_connection((host, port)) as connection:
        mine = connection.getsockname()[0]
    name = interfaces.name_of(mine)
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _facts(said: bytes, process: int) -> dict[str, Any]:
    """What a process says about itself, read with care."""
    facts = None
    if len(said) <= _MAX_BYTES:
        with contextlib.suppress(ValueError, RecursionError):
            facts = json.loads(said)
    if isinstance(facts, dict):
        return facts
    raise ValueError(
        f"initialize: what process {process} says about itself is not to be "
        "understood.\n"
        f"  {len(said)} bytes  {shown(said)}\n"
        "Hint: let the programs of this job alone connect to its address. "
        "[processes-differ]"
    )
