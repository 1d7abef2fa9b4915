"""Runs a program in processes of two hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

from network import Network

PORT = 4100
ADDRESS = f"host-a:{PORT}"

# `stop()` waits until the test has looked.
_PREAMBLE = """
import json, sys
import numpy as np, torch
import torch_mesh as tm
me = int(sys.argv[1])
torch.set_num_threads(1)
def stop(**facts):
    print(json.dumps(facts), flush=True)
    sys.stdin.readline()
tm.initialize({address!r}, {count}, me, timeout=120)
"""


class Job:
    """Processes of one program.

    Args:
        network: with the hosts.
        program: Python text. It has `me`, `np`, `torch`, `tm`, and
            `stop(**facts)`, which waits for `go_on()`.
        hosts: of each process, 0 or 1.
        environment: more variables.
    """

    def __init__(
        self,
        network: Network,
        program: str,
        hosts: tuple[int, ...],
        environment: dict[str, str],
    ) -> None:
        text = _PREAMBLE.format(address=ADDRESS, count=len(hosts))
        text += textwrap.dedent(program)
        env = {
            **os.environ,
            "KERAS_BACKEND": "torch",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            **environment,
        }
        self._processes: list[subprocess.Popen[str]] = [
            network.start(
                host, [sys.executable, "-c", text, str(number)], env=env
            )
            for number, host in enumerate(hosts)
        ]

    def stopped(self) -> list[dict[str, Any]]:
        """What each process says at its next `stop`."""
        lines = [p.stdout.readline() for p in self._processes if p.stdout]
        assert all(lines), "a process has ended; see its stderr"
        return [json.loads(line) for line in lines]

    def go_on(self) -> None:
        """Lets the processes run on from their `stop`."""
        for process in self._processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()

    def end(self) -> None:
        """Lets them run to their end, which must be a good one."""
        self.go_on()
        for process in self._processes:
            assert process.wait(timeout=60) == 0


class LineBytes(NamedTuple):
    """What the relay saw so far, both ways.

    Attributes:
        messages: bytes of the streams between processes.
        store: bytes of the streams to and from the store.
        payload: those of messages, with what was sent again.
        num_bytes: of the packets of messages, with the heads of IP and TCP.
    """

    messages: int
    store: int
    payload: int
    num_bytes: int


def bytes_by_kind(streams: list[dict[str, Any]]) -> LineBytes:
    """The bytes of what `Network.streams` gives."""
    of_store, others = [], []
    for stream in streams:
        is_store = PORT in (stream["source"][1], stream["destination"][1])
        (of_store if is_store else others).append(stream)
    return LineBytes(
        sum(s["unique"] for s in others),
        sum(s["unique"] for s in of_store),
        sum(s["payload"] for s in others),
        sum(s["num_bytes"] for s in others),
    )
