"""Small facts that the processes of a mesh tell each other.

All processes of the mesh call these, in one order, as they do ops on it.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

from torch_mesh import devices, job, tensors
from torch_mesh.layouts import Mesh

# Bytes of a first message. What says more takes a second one.
_ROOM = 1024
_HEAD = 8  # bytes, of the length


def from_each(mesh: Mesh, value: Tensor) -> dict[int, Tensor]:
    """The plain tensor of each process.

    Args:
        mesh: Whose processes call this.
        value: A plain CPU tensor, of one shape and dtype in all of them.

    Returns:
        Dict from process to its tensor, in the order of the mesh.
    """
    over = _one_device_of_each(mesh)
    members = _members(mesh)
    mine = job.process_id()
    own = value.detach().unsqueeze(0)
    rows = [own if process == mine else None for process in members]
    whole = tensors.full(tensors.from_shards(rows, over, ("S0",)))
    return dict(zip(members, whole, strict=True))


def said_by_each(mesh: Mesh, facts: Any) -> dict[int, Any]:
    """What each process says.

    One small message from each to each, two where somebody says more than a
    kilobyte.

    Args:
        mesh: Whose processes call this.
        facts: What this one says; of what JSON knows.

    Returns:
        Dict from process to what it says, in the order of the mesh. In one
        process, `facts` itself.
    """
    members = _members(mesh)
    if len(members) == 1:
        return {members[0]: facts}
    text = json.dumps(facts).encode()
    text = len(text).to_bytes(_HEAD, "little") + text
    said = _bytes_of_each(mesh, text, _ROOM)
    lengths = {
        process: int.from_bytes(heard[:_HEAD], "little")
        for process, heard in said.items()
    }
    room = _HEAD + max(lengths.values())
    if room > _ROOM:
        said = _bytes_of_each(mesh, text, room)
    return {
        process: json.loads(heard[_HEAD : _HEAD + lengths[process]])
        for process, heard in said.items()
    }


def _bytes_of_each(mesh: Mesh, text: bytes, room: int) -> dict[int, bytes]:
    padded = bytearray(text[:room].ljust(room, b"\0"))
    sent = torch.frombuffer(padded, dtype=torch.uint8)
    return {
        process: bytes(heard.tolist())
        for process, heard in from_each(mesh, sent).items()
    }


@functools.lru_cache(maxsize=64)
def _members(mesh: Mesh) -> list[int]:
    """The processes of a mesh, each once, in the order of its devices."""
    owners = map(devices.process_of, mesh._native.devices)
    return list(dict.fromkeys(owners))


@functools.lru_cache(maxsize=64)
def _one_device_of_each(mesh: Mesh) -> Mesh:
    """A mesh of the first device of each process."""
    first: dict[int, str] = {}
    for name in mesh._native.devices:
        first.setdefault(devices.process_of(name), name)
    return Mesh({"process": len(first)}, list(first.values()))
