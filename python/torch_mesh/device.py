"""Registers `mesh` as a device of torch, beside the machine's own."""

import copyreg
import functools
import threading
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import torch.utils.dlpack
from torch.multiprocessing.reductions import reduce_tensor

import torch_mesh_autoload
from torch_mesh import (
    _C,
    archive,
    arrays,
    device_module,
    in_force,
    late_modules,
    moves,
    registration,
    tensor_file,
)
from torch_mesh.registration import is_registered as is_registered
from torch_mesh.registration import register as register

# Of the packages that torch.load asks in turn, torch's first has 10.
_BEFORE_TORCHS_OWN = 9


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

    What torch says of the machine's real accelerator stays as it was:
    `torch.accelerator`, pinned memory and `init_process_group()` ask
    `_get_accelerator`, which a renamed device would otherwise take over.
    """
    keep = {
        name: getattr(torch._C, name)
        for name in ("_get_accelerator", "_accelerator_getAccelerator")
        if hasattr(torch._C, name)
    }
    answers = {name: _answer(function) for name, function in keep.items()}
    _C.register_device()
    torch.utils.rename_privateuse1_backend("mesh")
    torch._register_device_module("mesh", device_module.make())
    torch.utils.generate_methods_for_privateuse1_backend()
    for name, answer in answers.items():
        setattr(torch._C, name, answer)
    _repr_shows_layout()
    archive.install()
    tensor_file.install()
    arrays.install()
    late_modules.install()
    moves.install()
    _pickles_hold_plain_storages()
    _pickles_register_the_device()
    _queues_hold_plain_tensors()
    torch.serialization.register_package(
        _BEFORE_TORCHS_OWN, lambda storage: None, _load_onto_mesh
    )
    _no_capsule_holds_an_address()
    _autocast_of_the_cpu_reaches_the_mesh()
    _losses_in_chunks_are_those_of_the_devices()
    _averages_of_integers_are_those_of_the_cpu()


registration.made_by(_make)


def _answer(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that goes on giving what `function` gave before."""
    try:
        value = function()
    except RuntimeError:
        return function
    return lambda *args, **kwargs: value


def _storage_on_mesh(storage: torch.TypedStorage, typed: bool) -> Any:
    """What a pickle calls to bring a storage back."""
    register()
    found = storage._untyped_storage.to(device="mesh")
    return _typed(found, storage.dtype) if typed else found


def _load_onto_mesh(storage: Any, location: str) -> Any:
    """`torch.load(map_location="mesh")`; None for all other locations."""
    if torch.device(location.partition(":")[0] or "cpu").type != "mesh":
        return None
    _C.check_device_index(torch.device(location))
    return storage.to(device="mesh")


def _tensor_on_mesh(
    plain: torch.Tensor, kind: type[torch.Tensor], requires_grad: bool
) -> torch.Tensor:
    """What the pickle of a queue between processes calls."""
    register()
    x = plain.to("mesh")
    if kind is torch.nn.Parameter:
        return torch.nn.Parameter(x, requires_grad)
    return x.requires_grad_(requires_grad)


def _queues_hold_plain_tensors() -> None:
    """Queues of `torch.multiprocessing`, and so the workers of a DataLoader.

    They share the memory of a storage, of which a global tensor has none.
    """

    def reduce(x: torch.Tensor) -> Any:
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

    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, reduce)


def _typed(storage: torch.UntypedStorage, dtype: torch.dtype) -> Any:
    return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _pickles_hold_plain_storages() -> None:
    """`pickle` of a global tensor keeps its value and its device.

    The layout is not kept: the tensor is replicated on the mesh in force.
    """

    def reducing(reduce: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reduce)
        def checked(storage: Any) -> Any:
            typed = isinstance(storage, torch.TypedStorage)
            bytes_ = storage._untyped_storage if typed else storage
            if bytes_.device.type != "mesh":
                return reduce(storage)
            dtype = storage.dtype if typed else torch.uint8
            return _storage_on_mesh, (_typed(bytes_.cpu(), dtype), typed)

        return checked

    for kind in (torch.TypedStorage, torch.UntypedStorage):
        setattr(kind, "__reduce__", reducing(kind.__reduce__))  # noqa: B010


def _pickles_register_the_device() -> None:
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


def _no_capsule_holds_an_address() -> None:
    """DLPack of a global tensor raises: its address is none to read from."""

    def refusing(export: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(export)
        def checked(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if isinstance(tensor, torch.Tensor) and _C.is_global(tensor):
                raise BufferError(
                    "dlpack: the tensor is on the mesh, in "
                    f"{_C.layout_of(tensor)}, and has no memory of its own to"
                    " share.\nHint: export x.cpu(), or one of"
                    " torch_mesh.shards(x). [no-dlpack]"
                )
            return export(tensor, *args, **kwargs)

        return checked

    for owner, name in (
        (torch.Tensor, "__dlpack__"),
        (torch.Tensor, "__dlpack_device__"),
        (torch.utils.dlpack, "to_dlpack"),
        (torch, "to_dlpack"),
    ):
        if hasattr(owner, name):
            setattr(owner, name, refusing(getattr(owner, name)))


class _Follows(threading.local):
    """Whether this thread's autocast of the mesh is one of the CPU's."""

    cpu = False


def _autocast_of_the_cpu_reaches_the_mesh() -> None:
    """`with torch.autocast("cpu"):` means the mesh too, whose devices are CPUs.

    It casts what `torch.autocast("mesh")` casts. A context that switches the
    CPU's autocast off does so for the mesh only if one of the CPU switched it
    on: checkpointing enters one beside that of the device it works on.
    """
    autocast = torch.amp.autocast_mode.autocast
    enter, leave = autocast.__enter__, autocast.__exit__
    follows = _Follows()

    @functools.wraps(enter)
    def entered(self: Any) -> Any:
        before = (
            torch.is_autocast_enabled("mesh"),
            torch.get_autocast_dtype("mesh"),
            follows.cpu,
        )
        result = enter(self)
        self._mesh_before = before
        enabled = torch.is_autocast_enabled(self.device)
        if self.device == "mesh":
            follows.cpu = False
        elif self.device == "cpu" and (enabled or follows.cpu):
            follows.cpu = enabled
            torch.set_autocast_enabled("mesh", enabled)
            torch.set_autocast_dtype("mesh", torch.get_autocast_dtype("cpu"))
        return result

    @functools.wraps(leave)
    def left(self: Any, *error: Any) -> Any:
        result = leave(self, *error)
        enabled, dtype, follows.cpu = self._mesh_before
        torch.set_autocast_enabled("mesh", enabled)
        torch.set_autocast_dtype("mesh", dtype)
        return result

    for name, method in (("__enter__", entered), ("__exit__", left)):
        setattr(autocast, name, method)


def _repr_shows_layout() -> None:
    """`print(x)` of a global tensor ends with its layout."""
    import torch._tensor_str as tensor_str

    original = tensor_str._str

    def with_layout(
        self: torch.Tensor, *, tensor_contents: str | None = None
    ) -> str:
        text = original(self, tensor_contents=tensor_contents)
        if type(self) in (torch.Tensor, torch.nn.Parameter) and _C.is_global(
            self
        ):
            shown = str(_C.layout_of(self))
            text = text.replace("device='mesh:0'", f"layout={shown}", 1)
        return text

    tensor_str._str = with_layout


def _losses_in_chunks_are_those_of_the_devices() -> None:
    """`linear_cross_entropy(options=)` chooses by the kind of device.

    Chunks and the dtype of sums come from a table of torch that knows no mesh:
    for half precision it would take the coarser ones. The mesh in force says
    what its devices are; without one they are CPUs.
    """
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    adjust = getattr(options, "_adjust", None)
    if options is None or adjust is None:
        return

    @functools.wraps(adjust)
    def adjusted(self: Any, *args: Any, device: Any = None, **more: Any) -> Any:
        if device is not None and torch.device(device).type == "mesh":
            mesh = in_force.current_mesh()
            on_gpus = mesh is not None and mesh.devices[0].startswith("gpu")
            device = torch.device("cuda" if on_gpus else "cpu")
        return adjust(self, *args, device=device, **more)

    options._adjust = adjusted


def _averages_of_integers_are_those_of_the_cpu() -> None:
    """`AveragedModel` averages integers one tensor after the other.

    Torch does so on the CPU. Its function for lists, which it takes for other
    devices, divides integers in place, which all devices refuse.
    """
    swa_utils = torch.optim.swa_utils
    of_lists = swa_utils.get_swa_multi_avg_fn

    @functools.wraps(of_lists)
    def get_swa_multi_avg_fn() -> Callable[..., None]:
        update = of_lists()
        average = swa_utils.get_swa_avg_fn()

        @functools.wraps(update)
        def swa_update(averaged: Any, current: Any, count: Any) -> None:
            first = averaged[0]
            if first.device.type != "mesh" or (
                first.is_floating_point() or first.is_complex()
            ):
                update(averaged, current, count)
                return
            for mine, theirs in zip(averaged, current, strict=True):
                mine.copy_(average(mine, theirs, count))

        return swa_update

    swa_utils.get_swa_multi_avg_fn = get_swa_multi_avg_fn
