"""Which Keras distribution is in force, and the default device it brings.

Keras keeps the distribution per thread. The mesh needs one for the process
too: autograd recomputes checkpointed layers on a thread of its own, and data
loaders call Keras from theirs. So the last distribution that any thread set is
the process's, and a thread's own comes first.
"""

from __future__ import annotations

import functools
from typing import Any

from keras.src.backend.common import global_state

import torch_mesh as tm
from torch_mesh import device, in_force
from torch_mesh.keras import install
from torch_mesh.keras.device_name import MeshDevice, names_mesh

core = install.core()

_process_distribution: Any = None
# What set_distribution(None) puts back: Keras's default device and the mesh of
# new tensors, as they were before the first distribution.
_stock: tuple[Any, Any] | None = None


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
    return names_mesh(core.get_device())


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
        if _stock is not None:
            core.DEFAULT_DEVICE, mesh = _stock
            _stock = None
            tm.use(mesh)
        return
    install.complete()
    mesh = distribution.device_mesh.backend_mesh
    if _stock is None:
        _stock = (core.DEFAULT_DEVICE, tm.current_mesh())
    in_force.set_mesh(mesh)
    core.DEFAULT_DEVICE = MeshDevice(torch_kind(mesh))
    if not device.is_registered():
        install.rebind(core.get_device, _registering(core.get_device))
    _process_distribution = distribution


def _registering(get_device: Any) -> Any:
    """Keras's `get_device`, which registers the mesh where it first names it.

    Beside another accelerator a distribution alone registers nothing: the
    first tensor does, and all of Keras asks here where to put it.
    """

    @functools.wraps(get_device)
    def asked() -> Any:
        name = get_device()
        if names_mesh(name):
            install.rebind(asked, get_device)
            device.register()
        return name

    return asked


def torch_kind(mesh: Any) -> str:
    """The kind of a mesh's devices, as torch names it.

    Args:
        mesh: A `torch_mesh.Mesh`.

    Returns:
        "cpu", "cuda", ...
    """
    kind = mesh.devices[0].partition(":")[0]
    return "cuda" if kind == "gpu" else kind
