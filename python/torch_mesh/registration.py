"""Makes `torch.device("mesh")` exist where something first needs it.

At the bottom, so that all may ask. What is to be done for it is at the top, in
`device`, which the package imports.
"""

from __future__ import annotations

from collections.abc import Callable

_make: Callable[[], None] | None = None
_is_registered = False


def made_by(make: Callable[[], None]) -> None:
    """Says what makes the device exist.

    Args:
        make: called once per process.
    """
    global _make
    _make = make


def is_registered() -> bool:
    """Whether `torch.device("mesh")` exists."""
    return _is_registered


def register() -> None:
    """Makes `torch.device("mesh")` and `torch.mesh` exist. Once per process.

    Raises:
        RuntimeError: if another library owns torch's extra device.
    """
    global _is_registered
    if _is_registered:
        return
    assert _make is not None, "torch_mesh.device is not loaded"
    _make()
    _is_registered = True
