"""What the C library keeps of freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from typing import Any


def _find_malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return None


_malloc_trim = _find_malloc_trim()


def trim() -> None:
    """Gives freed memory back to the system, where the C library is glibc.

    glibc learns from each large block that is freed to take the next one from
    its heap. After a model was streamed in blocks, a quarter of its size stays
    there in pieces; after a model was dropped, most of it. Takes milliseconds:
    for once per large weight.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
