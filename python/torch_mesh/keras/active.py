"""Which Keras distribution is in force, and the default device it brings.

Keras keeps the distribution per thread. The mesh needs one for the process
too: autograd recomputes checkpointed layers on a thread of its own, and data
loaders call Keras from theirs. So the last distribution that any thread set is
the process's, and a thread's own comes first.

Loaded with Keras: the engine comes with the first distribution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras.src.backend.common import global_state

from torch_mesh import patching
from torch_mesh.keras import compat
from torch_mesh.keras.device_name import MeshDevice, names_mesh

_process_distribution: Any = None
# What set_distribution(None) puts back: Keras's default device and the mesh of
# new tensors, as they were before the first distribution.
_stock: tuple[Any, Any] | None = None
# What is to be done before the first distribution.
_waiting: list[Callable[[], None]] = []


def current() -> Any:
    """The distribution that this thread works under.

    Returns:
        This thread's `keras.distribution.Distribution`, else the process's,
        else None.
    """
    mine = global_state.get_global_attribute("distribution")
    return mine if mine is not None else _process_distribution


def on_mesh() -> bool:
    """Whether new Keras tensors of this thread go to the mesh device.

    Returns:
        False under `keras.device("cpu")`, while a model is traced with `meta`
        tensors, and without a distribution.
    """
    return names_mesh(compat.core().get_device())


def at_first_distribution(call: Callable[[], None]) -> None:
    """Has `call` called once, before a distribution is put in force."""
    _waiting.append(call)


def switch(distribution: Any) -> None:
    """Puts a distribution in force for the process, or takes it back.

    Args:
        distribution: A `keras.distribution.Distribution`, or None for Keras's
            own default device.

    Raises:
        ValueError: if the mesh names a device that this machine has not.
    """
    global _process_distribution, _stock
    if distribution is None:
        _process_distribution = None
        if _stock is None:
            return
    from torch_mesh import device, in_force  # they load the engine

    core = compat.core()
    if distribution is None:
        assert _stock is not None
        core.DEFAULT_DEVICE, mesh = _stock
        _stock = None
        in_force.use(mesh)
        return
    while _waiting:
        _waiting.pop()()
    mesh = distribution.device_mesh.backend_mesh
    if _stock is None:
        _stock = (core.DEFAULT_DEVICE, in_force.current_mesh())
    in_force.set_mesh(mesh)
    core.DEFAULT_DEVICE = MeshDevice(torch_kind(mesh))
    if not device.is_registered():
        get_device = core.get_device
        asking = _registering(get_device, device.register)
        patching.rebind(get_device, asking, "keras")
    _process_distribution = distribution


def _registering(get_device: Any, register: Any) -> Any:
    """Keras's `get_device`, which registers the mesh where it first names it.

    Beside another accelerator a distribution alone registers nothing: the
    first tensor does, and all of Keras asks here where to put it.
    """

    @functools.wraps(get_device)
    def asked() -> Any:
        name = get_device()
        if names_mesh(name):
            patching.rebind(asked, get_device, "keras")
            register()
        return name

    return asked


def torch_kind(mesh: Any) -> str:
    """The kind of a mesh's devices, as torch names it.

    Args:
        mesh: A `torch_mesh.Mesh`.

    Returns:
        "cpu", "cuda", ...
    """
    kind: str = mesh.devices[0].partition(":")[0]
    return "cuda" if kind == "gpu" else kind
