"""Networks of this host: which one has an address.

The standard library only. Where the system has no getifaddrs that looks as on
Linux, nothing is known.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import sys
from collections.abc import Iterator


class _Address(ctypes.Structure):
    """`struct ifaddrs` up to the address."""


_Address._fields_ = [
    ("next", ctypes.POINTER(_Address)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]

# Where the bytes of an address stand in `sockaddr_in`, `sockaddr_in6`.
_PLACES = {int(socket.AF_INET): (4, 4), int(socket.AF_INET6): (8, 16)}


def name_of(address: str) -> str | None:
    """The name of the network that has an address, None if none is found.

    Args:
        address: Of IPv4 or IPv6, as `getsockname` gives it.
    """
    wanted = _parsed(address)
    if wanted is None or sys.platform != "linux":
        return None
    for name, found in _all():
        if found == wanted.packed:
            return name
    return None


def is_loopback(address: str) -> bool:
    """Whether an address leads nowhere but to this host."""
    parsed = _parsed(address)
    return parsed is not None and parsed.is_loopback


def _parsed(
    address: str,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped or parsed


def _all() -> Iterator[tuple[str, bytes]]:
    """Names and addresses of all networks."""
    libc = ctypes.CDLL(None)
    first = ctypes.POINTER(_Address)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        return
    try:
        at = first
        while at:
            entry = at.contents
            if entry.address:
                family = ctypes.c_ushort.from_address(entry.address).value
                place, size = _PLACES.get(family, (0, 0))
                if size:
                    data = ctypes.string_at(entry.address + place, size)
                    yield entry.name.decode(), data
            at = entry.next
    finally:
        libc.freeifaddrs(first)
