"""Registers `mesh` as a device of torch, beside the machine's own."""

import torch

from torch_mesh import _C, device_module, registration, torch_patches

# Pickles name these two here.
from torch_mesh.pickles import _storage_on_mesh as _storage_on_mesh
from torch_mesh.pickles import _tensor_on_mesh as _tensor_on_mesh
from torch_mesh.registration import is_registered as is_registered
from torch_mesh.registration import register as register


def register_if_alone() -> None:
    """Registers the device, unless the machine has another accelerator.

    Torch's autograd takes a named extra device for the accelerator of the
    process: backward on another one would end in an assertion. So beside
    another, whoever makes the first global tensor registers the device.
    """
    if not _is_beside_another():
        register()


def _is_beside_another() -> bool:
    """Whether the machine has another accelerator.

    A torch that was built for CUDA names it on any machine. How many devices
    there are it asks of NVML, which starts nothing that a fork would break.
    """
    other = torch.accelerator.current_accelerator()
    if other is None:
        return False
    if other.type == "cuda" and torch.backends.cuda.is_built():
        return torch.cuda.device_count() > 0
    return True


def _make() -> None:
    """Makes `torch.device("mesh")` and `torch.mesh` exist.

    What torch says of the machine's real accelerator stays as it was: a renamed
    device would otherwise take over.
    """
    torch_patches.TABLE.apply(groups=(torch_patches.ACCELERATOR,))
    try:
        _C.register_device()
    except RuntimeError:
        torch_patches.TABLE.put_back(torch_patches.ACCELERATOR)
        raise
    torch.utils.rename_privateuse1_backend("mesh")
    torch._register_device_module("mesh", device_module.make())
    torch.utils.generate_methods_for_privateuse1_backend()
    torch_patches.apply()


registration.made_by(_make)
