"""Bytes of global tensors that each device holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from torch_mesh import _C, devices
from torch_mesh.held import Bytes, of_process
from torch_mesh.layouts import Layout

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Memory:
    """Bytes by device, of a block of a program or of a model; prints a table.

    Of `with tm.memory():` it shows the shards made inside, on all threads,
    while the block runs and afterwards. A replica counts on each of its
    devices, also where devices of one memory share it. Temporaries inside an op
    are not counted. Devices of other processes count in theirs.

    Of a model or an optimizer it shows what that holds, as it was when asked,
    and in `now` and `peak` all that the process holds.

    Attributes:
        now: dict of device to bytes held, of what was made since the start.
        peak: dict of device to the most bytes that were held at once.
        parameters: dict of device to bytes of parameters; empty without a
            model or optimizer.
        gradients: the same of their gradients.
        states: the same of an optimizer's states.
        buffers: the same of a model's buffers.
    """

    def __init__(self, of: Any = None) -> None:
        self._counting: _C.CountingMemory | None = None
        self._now: Bytes = {}
        self._peak: Bytes = {}
        parameters, states, buffers = _tensors_of(of)
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.parameters = bytes_by_device(parameters)
        self.gradients = bytes_by_device(gradients)
        self.states = bytes_by_device(states)
        self.buffers = bytes_by_device(buffers)
        if of is not None:
            self._now, self._peak = of_process()

    def __enter__(self) -> Memory:
        self._counting = _C.CountingMemory()
        return self

    def __exit__(self, *error: object) -> None:
        self._now, self._peak = self.now, self.peak
        self._counting = None

    @property
    def now(self) -> Bytes:
        if self._counting is None:
            return self._now
        return devices.by_name(self._counting.now)

    @property
    def peak(self) -> Bytes:
        if self._counting is None:
            return self._peak
        return devices.by_name(self._counting.peak)

    def __repr__(self) -> str:
        kinds = ("parameters", "gradients", "states", "buffers")
        columns = {
            **{kind: getattr(self, kind) for kind in kinds},
            "now": self.now,
            "peak": self.peak,
        }
        shown = {n: c for n, c in columns.items() if c or n in ("now", "peak")}
        # Of a model or an optimizer, the devices that hold some of it.
        own = {d for kind in kinds for d in columns[kind]}
        names = sorted(own or {*self.now, *self.peak}, key=_key)
        rows = [
            ["device", *shown],
            *(
                [device, *(_text(c.get(device, 0)) for c in shown.values())]
                for device in names
            ),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(
                    zip(row, widths, strict=True)
                )
            )
            for row in rows
        )


def memory(of: Any = None) -> Memory:
    """Counts bytes: of a block, of a model, or of an optimizer.

    Args:
        of: a `torch.nn.Module` (a Keras model is one), a `torch.optim`
            optimizer, a Keras optimizer, or an iterable of tensors; None for a
            block, `with tm.memory() as m: ...`.

    Returns:
        A `Memory`. `print(tm.memory(model))` shows, for each device, the bytes
        of parameters, gradients, states and buffers, and what the process holds
        now and held at most. That is counted from the first question about
        memory on, with what Python can reach then.

    Raises:
        TypeError: if `of` is none of these.

    Example:
        >>> weight = distribute(torch.ones(4, 2), Mesh({"data": 2}), ("S0",))
        >>> memory([weight]).parameters
        {'cpu:0': 16, 'cpu:1': 16}
    """
    return Memory(of)


def bytes_by_device(tensors: Iterable[torch.Tensor]) -> Bytes:
    """Bytes of these tensors by device; what shares a storage counts once.

    Args:
        tensors: global tensors, and plain ones under the name of their device.
    """
    held: Bytes = {}
    seen = set()
    for tensor in tensors:
        key = tensor.untyped_storage()._cdata
        if key in seen:
            continue
        seen.add(key)
        for device, count in _counts(tensor):
            held[device] = held.get(device, 0) + count * tensor.itemsize
    return held


def _counts(tensor: torch.Tensor) -> Iterator[tuple[str, int]]:
    if not _C.is_global(tensor):
        yield str(tensor.device), tensor.numel()
        return
    layout = Layout._of(_C.layout_of(tensor))
    for number, device in enumerate(layout.mesh.devices):
        yield device, math.prod(layout.shard_shape(tensor.shape, number))


def _tensors_of(
    of: Any,
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Parameters, states and buffers of what `memory` takes."""
    if of is None:
        return [], [], []
    if isinstance(of, torch.nn.Module):
        return list(of.parameters()), [], list(of.buffers())
    if isinstance(of, torch.optim.Optimizer):
        parameters = [p for group in of.param_groups for p in group["params"]]
        states = [
            value
            for state in of.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        return parameters, states, []
    if hasattr(of, "apply_gradients") and hasattr(of, "variables"):
        weights = getattr(of, "_trainable_variables", [])
        return (
            [variable.value for variable in weights],
            [variable.value for variable in of.variables],
            [],
        )
    if isinstance(of, Iterable):
        tensors = list(of)
        if all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            return tensors, [], []
    raise TypeError(
        f"memory: this is a {type(of).__name__}, and bytes are counted of a"
        " model, an optimizer, or tensors.\n"
        "Hint: memory(model), or with memory() as m: ... [argument-type]"
    )


def _key(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    return kind, int(index or -1)


def _text(num_bytes: int) -> str:
    """Bytes with a unit: "512 B", "1.5 KiB"."""
    value, unit = float(num_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.{1 if unit else 0}f} {_UNITS[unit]}"
