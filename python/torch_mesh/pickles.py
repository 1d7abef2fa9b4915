"""Global tensors in pickles, in queues between processes, in `torch.load`.

A pickle keeps the value and the device, and not the layout: what is read is
replicated on the mesh in force.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor

import torch_mesh_autoload
from torch_mesh import _C, registration


def storage_reduce(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `__reduce__` of storages: of the mesh they are plain in a file."""

    @functools.wraps(original)
    def __reduce__(self: Any) -> Any:
        typed = isinstance(self, torch.TypedStorage)
        bytes_ = self._untyped_storage if typed else self
        if bytes_.device.type != "mesh":
            return original(self)
        dtype = self.dtype if typed else torch.uint8
        return _storage_on_mesh, (_typed(bytes_.cpu(), dtype), typed)

    return __reduce__


def _storage_on_mesh(storage: torch.TypedStorage, typed: bool) -> Any:
    """What a pickle calls to bring a storage back."""
    registration.register()
    found = storage._untyped_storage.to(device="mesh")
    return _typed(found, storage.dtype) if typed else found


def _typed(storage: torch.UntypedStorage, dtype: torch.dtype) -> Any:
    return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def load_onto_mesh(storage: Any, location: str) -> Any:
    """`torch.load(map_location="mesh")`; None for all other locations."""
    if torch.device(location.partition(":")[0] or "cpu").type != "mesh":
        return None
    _C.check_device_index(torch.device(location))
    return storage.to(device="mesh")


def queues_hold_plain_tensors() -> None:
    """Queues of `torch.multiprocessing`, and so the workers of a DataLoader.

    They share the memory of a storage, of which a global tensor has none.
    """
    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, _reduce_for_queue)


def _reduce_for_queue(x: torch.Tensor) -> Any:
    if x.device.type != "mesh":
        return reduce_tensor(x)
    if x.requires_grad and not x.is_leaf:
        raise RuntimeError(
            "a queue takes no tensor on the mesh that is a result and"
            " requires grad.\nHint: x.detach(). [queue-grad]"
        )
    plain = x.detach().cpu()
    child = get_spawning_popen()
    if child is not None:
        # It inherits the file of the copy, which is there until it starts.
        vars(child).setdefault("_copies_of_mesh", []).append(plain)
    return _tensor_on_mesh, (plain, type(x), x.requires_grad)


def _tensor_on_mesh(
    plain: torch.Tensor, kind: type[torch.Tensor], requires_grad: bool
) -> torch.Tensor:
    """What the pickle of a queue between processes calls."""
    registration.register()
    x = plain.to("mesh")
    if kind is torch.nn.Parameter:
        return torch.nn.Parameter(x, requires_grad)
    return x.requires_grad_(requires_grad)


def devices_register_the_mesh() -> None:
    """A pickle of `torch.device("mesh")` makes the device exist where it is
    read: in a process that was spawned torch knows no device of that name.
    """
    before = copyreg.dispatch_table.get(torch.device)

    def reduce(device: torch.device) -> Any:
        if device.type == "mesh":
            return torch_mesh_autoload.mesh_device, (device.index,)
        if before is not None:
            return before(device)
        return device.__reduce__()

    copyreg.pickle(torch.device, reduce)
    torch.serialization.add_safe_globals([torch_mesh_autoload.mesh_device])
