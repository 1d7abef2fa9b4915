"""Counters: collectives, bytes, plans, and ops computed on replicas."""

from __future__ import annotations

from torch_mesh import _C, devices
from torch_mesh.layouts import Mesh


class Counting:
    """What ran inside a `with tm.counting()` block, on all threads.

    Readable while the block runs and afterwards. `c["all_reduce@data"]` is a
    number of collectives, 0 if there was none.
    """

    def __init__(self) -> None:
        self._start = _C.counts()
        self._end: _C.Counts | None = None
        self._first_event = 0
        self._events: list[_C.CollectiveEvent] | None = None

    def __enter__(self) -> Counting:
        self._first_event = _C.keep_events()
        self._start = _C.counts()
        return self

    def __exit__(self, *error: object) -> None:
        self._end = _C.counts()
        self._events = _C.events_since(self._first_event)
        _C.release_events()

    def __getitem__(self, key: str) -> int:
        return self.collectives.get(key, 0)

    @property
    def collectives(self) -> dict[str, int]:
        """Dict of "kind@axis", as "all_reduce@data", to number."""
        return _difference(self._start.collectives, self._now().collectives)

    @property
    def bytes(self) -> dict[str, int]:
        """Dict of "kind@axis" to bytes that a device receives.

        They are those of devices with a memory each: of virtual devices, which
        share one, what several machines or GPUs would move.
        """
        return _difference(self._start.num_bytes, self._now().num_bytes)

    @property
    def calls(self) -> dict[str, int]:
        """Dict of "kind@axis" to number of collectives between memories.

        They are counted where they run, and equal `collectives`, which the
        plans say; where all devices share one memory there are none.
        """
        return _difference(self._start.calls, self._now().calls)

    @property
    def received(self) -> dict[str, int]:
        """Dict of device to bytes that collectives bring from other memories.

        They are those of the plans; devices that share a memory bring each
        other none.
        """
        found = _difference(self._start.received, self._now().received)
        return devices.by_name(found)

    @property
    def moved(self) -> dict[str, int]:
        """Dict of device to bytes that it has read in other memories.

        They are counted where they are read, and equal `received`.
        """
        found = _difference(self._start.moved, self._now().moved)
        return devices.by_name(found)

    @property
    def replicated_ops(self) -> dict[str, int]:
        """Dict of op to number of calls that ran on replicas.

        They did for want of a rule, though a tensor was sharded.
        """
        return _difference(
            self._start.replicated_ops, self._now().replicated_ops
        )

    @property
    def ops(self) -> int:
        """Number of ops that reached the mesh."""
        return self._now().ops - self._start.ops

    @property
    def plans_made(self) -> int:
        """Number of plans that were not in a cache."""
        return self._now().plans_made - self._start.plans_made

    @property
    def events(self) -> list[tuple[str, str, int, str]]:
        """List of `(kind, axis, bytes, op)`, in the order in which they ran.

        Bytes are those that one device received.
        """
        events = self._events
        if events is None:
            events = _C.events_since(self._first_event)
        return [(e.kind, e.axis, e.num_bytes, e.op) for e in events]

    def bytes_per_axis(self) -> dict[str, int]:
        """The bytes of all collectives along each mesh axis.

        Returns:
            Dict of axis name to bytes received per device; an axis without
            collectives is not in it.
        """
        sums: dict[str, int] = {}
        for key, num_bytes in self.bytes.items():
            axis = key.partition("@")[2]
            sums[axis] = sums.get(axis, 0) + num_bytes
        return sums

    def bytes_between_processes(
        self, mesh: Mesh | None = None
    ) -> dict[str, int]:
        """The part of `bytes` that goes along axes between processes.

        Args:
            mesh: whose axes are asked, by their names; None: those of all.

        Returns:
            Dict of "kind@axis" to bytes that a device receives in collectives
            of devices of several processes. What it receives there of devices
            of its own process is in it.
        """
        found = _difference(
            self._start.num_bytes_between_processes,
            self._now().num_bytes_between_processes,
        )
        if mesh is None:
            return found
        axes = mesh.axes_between_processes
        return {k: n for k, n in found.items() if k.split("@")[1] in axes}

    def _now(self) -> _C.Counts:
        return self._end or _C.counts()


def _difference(
    before: dict[str, int], after: dict[str, int]
) -> dict[str, int]:
    changes = {k: v - before.get(k, 0) for k, v in after.items()}
    return {k: v for k, v in changes.items() if v}


def counting() -> Counting:
    """A context manager that counts: `with tm.counting() as c: ...`.

    Blocks may be nested; each counts for itself.

    Returns:
        A `Counting`, which is what the block's `as` gives too.
    """
    return Counting()
