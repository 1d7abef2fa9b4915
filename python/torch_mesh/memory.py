"""Bytes of global tensors that each device holds."""

from __future__ import annotations

from torch_mesh import _C


class Memory:
    """Shards made inside a `with tm.memory()` block, on all threads.

    Readable while the block runs and afterwards. A replica counts on each of
    its devices, also where devices of one memory share it. Temporaries inside
    an op are not counted.

    Attributes:
        now: dict of device to bytes held, of what was made since the start.
        peak: dict of device to the most bytes that were held at once.
    """

    def __init__(self) -> None:
        self._counting: _C.CountingMemory | None = None
        self._now: dict[str, int] = {}
        self._peak: dict[str, int] = {}

    def __enter__(self) -> Memory:
        self._counting = _C.CountingMemory()
        return self

    def __exit__(self, *error: object) -> None:
        self._now, self._peak = self.now, self.peak
        self._counting = None

    @property
    def now(self) -> dict[str, int]:
        return self._now if self._counting is None else self._counting.now

    @property
    def peak(self) -> dict[str, int]:
        return self._peak if self._counting is None else self._counting.peak


def memory() -> Memory:
    """A context manager that counts bytes: `with tm.memory() as m: ...`."""
    return Memory()
