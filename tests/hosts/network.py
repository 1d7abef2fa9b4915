"""Two hosts on one machine, with a slow line between them.

A host is a process that holds a network, mount and UTS namespace: a /dev/shm,
an /etc/hosts and a host name of its own. Programs enter them. The namespaces
have no names: they are gone when the last process in them ends, and the kernel
ends all of them with the process that made them, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

HERE = pathlib.Path(__file__).parent
NAMES = ("host-a", "host-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

_HOSTS = """127.0.0.1 localhost
10.77.0.1 host-a
10.77.0.2 host-b
"""

_BECOME_HOST = """
set -e
mount -t tmpfs -o size=256m tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt
printf '%s' "$2" > /mnt/hosts
mount --bind /mnt/hosts /etc/hosts
hostname "$1"
ip link set lo up
echo ready
exec cat
"""


def missing() -> str:
    """What this machine lacks for two hosts; "" if it has all."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "to make network namespaces takes root"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun: mknod /dev/net/tun c 10 200"
    for tool, package in (
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
    ):
        if shutil.which(tool) is None:
            return f"no {tool}: apt-get install {package}"
    made = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "true"],
        capture_output=True,
        text=True,
    )
    return made.stderr.strip() and f"no namespaces: {made.stderr.strip()}"


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    """A process that the kernel ends with this one."""
    mine = os.getpid()

    def end_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != mine:
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
        **options,
    )


class Network:
    """Two hosts, while the block runs.

    Args:
        delay: Seconds that a packet takes from one to the other.
        loss: Odds that a packet is lost.
        rate: Bytes per second in each direction; 0 for no limit.
        mtu: Bytes of a packet.
        seed: Of the losses.

    Attributes:
        pids: of the processes that hold the hosts, and of the relay.
    """

    def __init__(
        self,
        delay: float = 0.02,
        loss: float = 0.01,
        rate: float = 0.0,
        mtu: int = 1500,
        seed: int = 0,
    ) -> None:
        self._options = [
            f"--{name}={value}"
            for name, value in (
                ("delay", delay),
                ("loss", loss),
                ("rate", rate),
                ("seed", seed),
            )
        ]
        self._mtu = mtu
        self._hosts: list[subprocess.Popen[str]] = []
        self._relay: subprocess.Popen[str] | None = None
        self._programs: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Network:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        relay = [self._relay] if self._relay else []
        return [p.pid for p in [*self._hosts, *relay]]

    def start(
        self, host: int, command: list[str], **options: Any
    ) -> subprocess.Popen[str]:
        """Starts a program on a host; it is ended with the network.

        Args:
            host: 0 or 1.
            command: and its arguments.
            options: of `subprocess.Popen`.
        """
        enter = ["nsenter", "-t", str(self._hosts[host].pid)]
        enter += ["--net", "--mount", "--uts", f"--wd={os.getcwd()}", "--"]
        program = start([*enter, *command], **options)
        self._programs.append(program)
        return program

    def output(self, host: int, command: list[str]) -> str:
        """What a command writes that runs on a host."""
        program = self.start(host, command)
        out = program.communicate(timeout=30)[0]
        if program.returncode != 0:
            raise RuntimeError(f"{command} on {NAMES[host]}: {out}")
        return out

    def streams(self) -> list[dict[str, Any]]:
        """The counts of the relay: see relay.Stream."""
        relay = self._relay
        assert relay and relay.stdin and relay.stdout
        relay.stdin.write("\n")
        relay.stdin.flush()
        found: list[dict[str, Any]] = json.loads(relay.stdout.readline())
        return found

    def listening(self, host: int) -> set[tuple[str, int]]:
        """Addresses and ports that programs of a host listen at."""
        found = set()
        for name, size in (("tcp", 8), ("tcp6", 32)):
            text = self.output(host, ["cat", f"/proc/net/{name}"])
            for line in text.splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == "0A":
                    address, port = local.split(":")
                    assert len(address) == size
                    found.add((_address(address), int(port, 16)))
        return found

    def close(self) -> None:
        """Ends all that runs there. May be called twice."""
        relay = [self._relay] if self._relay else []
        # Programs first: they use what the others hold.
        for process in [*self._programs, *relay, *self._hosts]:
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout, process.stderr):
                if end is not None and not end.closed:
                    end.close()

    def _begin(self) -> None:
        for name in NAMES:
            enter = ["unshare", "--net", "--mount", "--uts", "sh", "-c"]
            host = start([*enter, _BECOME_HOST, "sh", name, _HOSTS])
            self._hosts.append(host)
        for host in self._hosts:
            _await_ready(host)
        pids = [str(host.pid) for host in self._hosts]
        relay = [sys.executable, str(HERE / "relay.py"), *pids]
        self._relay = start([*relay, *self._options])
        _await_ready(self._relay)
        for host in (0, 1):
            for words in (
                f"ip address add {ADDRESSES[host]} peer {ADDRESSES[1 - host]}"
                " dev line0",
                f"ip link set line0 mtu {self._mtu} up",
            ):
                self.output(host, words.split())


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("a host or the relay did not begin; see stderr")


def _address(text: str) -> str:
    """An address as /proc/net/tcp writes it, words in the host's order."""
    words = [text[i : i + 8] for i in range(0, len(text), 8)]
    packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
    if len(packed) == 4:
        return ".".join(map(str, packed))
    return packed.hex(":", 2)
