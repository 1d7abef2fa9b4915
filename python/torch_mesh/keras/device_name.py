"""The name of the mesh device, as Keras's default device.

Light: the standard library only, so that it loads while Keras does.
"""

from __future__ import annotations

from typing import Any

MESH = "mesh"

# The types of the torch.devices seen: to read one costs torch a new string, and
# Keras compares devices at every conversion of a tensor.
_types: dict[Any, str] = {}


def _type_of(device: Any) -> str | None:
    """The type of a `torch.device`; None for what is none."""
    try:
        return _types[device]
    except (KeyError, TypeError):
        kind: str | None = getattr(device, "type", None)
        if type(device).__name__ == "device" and kind is not None:
            _types[device] = kind
        return kind


class MeshDevice(str):
    """The string "mesh" that also answers to the kind of devices below it.

    Keras's torch backend chooses by `get_device() == "cpu"` whether to upcast
    float16, and by `get_device() == "cuda"` whether int8 products have a
    kernel. Those questions are about the devices that compute, so a mesh of
    CPUs equals "cpu" here, and a mesh of GPUs equals "cuda". It also equals
    the `torch.device` of the mesh, which spares a `.to()` per conversion.

    Args:
        kind: The kind of the devices below, as torch names it: "cpu", "cuda".
        name: The text of this string.
    """

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, kind: str, name: str = MESH) -> MeshDevice:
        self = super().__new__(cls, name)
        self.kind = kind
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str.__eq__(self, other) or str.__eq__(self.kind, other)
        kind = _type_of(other)
        return kind is not None and str.__eq__(self, kind)

    def __ne__(self, other: object) -> bool:
        try:  # first the question of every conversion, about a torch.device
            return str.__ne__(self, _types[other])
        except (KeyError, TypeError):
            pass
        if isinstance(other, str):
            return not self.__eq__(other)
        kind = _type_of(other)
        return kind is None or str.__ne__(self, kind)

    def __hash__(self) -> int:
        return str.__hash__(self)

    def lower(self) -> MeshDevice:
        """Itself: Keras lowers a name when it enters a device scope."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return MeshDevice, (self.kind, str(self))


def names_mesh(device: object) -> bool:
    """Whether `device`, as Keras's `get_device()` gives it, is the mesh.

    Args:
        device: A string or a `torch.device`.

    Returns:
        True for a `MeshDevice`, and for the plain names "mesh" and "mesh:0".
    """
    if isinstance(device, MeshDevice):
        return True
    return str(device).partition(":")[0] == MESH
