"""Waiting for the other processes of a job, with a line that says so.

torch's store prints traces of C++ for attempts to connect, and for a wait that
was in vain. Here process 0 is asked by a socket until it listens, and its store
in short questions until all are there.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

_log = logging.getLogger("torch_mesh")

# Seconds: before the line is written, and the longest between two attempts.
PATIENCE = 1.0
_PAUSE = 0.5


def until_listening(host: str, port: int, seconds: float) -> float:
    """Returns when somebody listens at an address.

    Args:
        host: Name or address.
        port: Of TCP.
        seconds: To wait at most. After `PATIENCE` a line in the log says what
            is waited for.

    Returns:
        The seconds that are left, at least 1.

    Raises:
        OSError: the last attempt's, if nobody does in time.
    """
    start = time.monotonic()
    told = False
    pause = 0.02
    while True:
        left = start + seconds - time.monotonic()
        try:
            socket.create_connection((host, port), max(left, 0.01)).close()
            return max(left, 1.0)
        except OSError:
            if left <= pause:
                raise
        if not told and time.monotonic() - start >= PATIENCE:
            told = True
            _say(f"process 0 at {host}:{port}", seconds)
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE)


def until_come(
    missing: Callable[[], list[int]], count: int, seconds: float
) -> list[int]:
    """Returns when all processes have come, or it has waited long enough.

    Args:
        missing: The processes that have not.
        count: Number of processes.
        seconds: To wait at most. After `PATIENCE` a line in the log says who
            is waited for.

    Returns:
        The processes that have not come; none if all have.
    """
    start = time.monotonic()
    told = False
    pause = 0.005
    while late := missing():
        waited = time.monotonic() - start
        if waited >= seconds:
            break
        if not told and waited >= PATIENCE:
            told = True
            numbers = ", ".join(map(str, late))
            _say(f"process {numbers} of {count}", seconds)
        time.sleep(min(pause, seconds - waited))
        pause = min(2 * pause, _PAUSE)
    return late


def _say(whom: str, seconds: float) -> None:
    """Writes one line to the log: on stderr, unless the program has another."""
    _log.warning("initialize: waiting for %s, at most %.3g s", whom, seconds)
