"""Carries packets between the networks of two hosts, late and with losses.

    python relay.py PID PID --delay 0.02 --loss 0.01 --seed 0

Makes a TUN device in the network namespace of each process, and then passes on
what is sent there: a packet waits `delay` seconds, after it had the line to
itself for as long as `rate` says, and is lost with the odds of `loss`. A line
on stdin asks for the counts so far, a line of JSON: for each direction of each
connection its bytes. It ends with its stdin.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

NAME = "line0"
MTU = 1500

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_CLONE_NEWNET = 0x40000000
_TCP = 6
_SYN = 0x02
_HALF = 1 << 31


class Stream:
    """One direction of a connection.

    Attributes:
        packets: that were sent, lost ones included.
        lost: of these.
        num_bytes: of the packets, with the heads of IP and TCP.
        payload: of the packets; what is sent again counts again.
        unique: bytes of the stream that were sent at least once.
    """

    def __init__(self) -> None:
        self.packets = 0
        self.lost = 0
        self.num_bytes = 0
        self.payload = 0
        self.unique = 0
        self._end: int | None = None

    def saw(self, packet: bytes, head: int) -> None:
        """Counts a packet whose TCP head begins at `head`."""
        sequence = struct.unpack_from("!I", packet, head + 4)[0]
        flags = packet[head + 13]
        start = head + (packet[head + 12] >> 4) * 4
        size = len(packet) - start
        self.payload += size
        if flags & _SYN:
            self._end = (sequence + 1) & 0xFFFFFFFF
            return
        if size == 0:  # an answer; behind the last byte it counts one more
            return
        if self._end is None:
            self._end = sequence
        beyond = (sequence + size - self._end) & 0xFFFFFFFF
        if 0 < beyond < _HALF:
            self.unique += beyond
            self._end = (self._end + beyond) & 0xFFFFFFFF


class Relay:
    """Two devices, and the packets that are on their way.

    Args:
        devices: File numbers of the two TUN devices.
        delay: Seconds from one to the other.
        loss: Odds that a packet is lost, in [0, 1).
        rate: Bytes per second in each direction; 0 for no limit.
        seed: Of the losses.
    """

    def __init__(
        self,
        devices: list[int],
        delay: float,
        loss: float,
        rate: float,
        seed: int,
    ) -> None:
        self._devices = devices
        self._delay = delay
        self._loss = loss
        self._rate = rate
        self._random = random.Random(seed)
        self._free = [0.0, 0.0]  # when the line is, by direction
        self._late: list[tuple[float, int, int, bytes]] = []
        self._order = 0
        self._streams: dict[tuple[str, int, str, int], Stream] = (
            collections.defaultdict(Stream)
        )

    def run(self) -> None:
        """Carries packets until stdin ends."""
        while True:
            wait = None
            if self._late:
                wait = max(self._late[0][0] - time.monotonic(), 0)
            ready = select.select([*self._devices, 0], [], [], wait)[0]
            self._deliver()
            for side, device in enumerate(self._devices):
                if device in ready:
                    self._take(side)
            if 0 in ready:
                if not sys.stdin.readline():
                    return
                print(json.dumps(self._counts()), flush=True)

    def _take(self, side: int) -> None:
        """Reads what is there; not for long, since others wait."""
        for _ in range(64):
            try:
                packet = os.read(self._devices[side], 1 << 16)
            except BlockingIOError:
                return
            now = time.monotonic()
            begin = max(now, self._free[side])
            seconds = len(packet) / self._rate if self._rate else 0.0
            self._free[side] = begin + seconds
            if self._is_lost(packet):
                continue
            self._order += 1
            due = begin + seconds + self._delay
            heapq.heappush(self._late, (due, self._order, 1 - side, packet))

    def _deliver(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, _, side, packet = heapq.heappop(self._late)
            with contextlib.suppress(OSError):  # the device is down
                os.write(self._devices[side], packet)

    def _is_lost(self, packet: bytes) -> bool:
        """Counts a packet, and draws whether it arrives."""
        is_lost = self._random.random() < self._loss
        if packet[0] >> 4 != 4 or packet[9] != _TCP:
            return is_lost
        head = (packet[0] & 15) * 4
        ports = struct.unpack_from("!HH", packet, head)
        hosts = [".".join(map(str, packet[i : i + 4])) for i in (12, 16)]
        stream = self._streams[hosts[0], ports[0], hosts[1], ports[1]]
        stream.packets += 1
        stream.lost += is_lost
        stream.num_bytes += len(packet)
        stream.saw(packet, head)
        return is_lost

    def _counts(self) -> list[dict[str, object]]:
        return [
            {
                "source": key[:2],
                "destination": key[2:],
                "packets": stream.packets,
                "lost": stream.lost,
                "num_bytes": stream.num_bytes,
                "payload": stream.payload,
                "unique": stream.unique,
            }
            for key, stream in self._streams.items()
        ]


def _open_tun(namespace: int) -> int:
    """A TUN device in a network namespace; it goes when it is closed."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI
    request = struct.pack("16sH22x", NAME.encode(), flags)
    fcntl.ioctl(device, _TUNSETIFF, request)
    return device


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pids", type=int, nargs=2)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    namespaces = [
        os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in given.pids
    ]
    devices = [_open_tun(namespace) for namespace in namespaces]
    print("ready", flush=True)
    Relay(devices, given.delay, given.loss, given.rate, given.seed).run()


if __name__ == "__main__":
    main()
