"""Global tensors to and from `torch.distributed.tensor.DTensor`.

A DTensor has one shard in each process; a global tensor has all of them in one.
So these functions take a process's own shard out of the whole, or bring the
whole into it. Nothing else of torch_mesh needs `torch.distributed`.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
from torch import Tensor

from torch_mesh import _C, in_force, moves, tensors
from torch_mesh.devices import list_local_devices
from torch_mesh.layouts import Layout, Mesh, Placements, as_layout


def to_dtensor(x: Tensor, device_mesh: Any = None) -> Any:
    """The DTensor of a global tensor; layouts are taken over axis by axis.

    Each process takes its own shard, so nothing is sent: all processes call
    this with the same value, as all hold the whole of it. Where the shard is a
    piece of memory on a CPU and no sum is pending, the DTensor's local tensor
    *is* that memory; what is written to the one is then seen in the other.
    `x.clone()` first has a copy. With one process the local tensor is the
    whole, and shares memory if the first device holds all of it.

    Args:
        x: a global tensor.
        device_mesh: `torch.distributed.device_mesh.DeviceMesh` with one dim
            for each axis of the mesh of `x`, of the same sizes, or all of size
            1. None makes one over all processes, with the names of the axes.

    Returns:
        A DTensor with the sizes, value and requires_grad of `x`: `S<dim>`
        becomes `Shard(dim)`, `P+` `Partial()` (`Replicate()` with one process),
        `R` and blocks such as `S0/2` become `Replicate()`. Differentiable.

    Raises:
        ValueError: if `x` is not global, or `device_mesh` does not fit.
        RuntimeError: if there is no process group.
    """
    layout = tensors.layout(x)
    dist = _distributed("to_dtensor")
    if len(layout.mesh.processes) > 1 and _has_partial(layout):
        layout = _reduced(layout)
        x = moves.redistribute(x, layout)
    device_mesh = _device_mesh_for(layout.mesh, device_mesh, dist)
    return _ToDTensor.apply(x, device_mesh, _places_out(layout, device_mesh))


def from_dtensor(
    x: Any,
    mesh: Mesh | Layout | None = None,
    placements: Placements | None = None,
) -> Tensor:
    """The global tensor of a DTensor.

    With one process, and for a DTensor that is replicated, the local tensor is
    the whole: on a CPU its memory is borrowed until somebody writes to the
    result, and must not be written meanwhile. Else all processes gather the
    whole, so all of its mesh must call this.

    Args:
        x: a DTensor.
        mesh: a `Mesh`, or a `Layout`. None takes the mesh in force if it has
            as many axes as the DTensor's mesh has dims, else makes one with
            the sizes and names of those dims.
        placements: as for `distribute`. None takes over those of `x` (the
            forms that have a counterpart) if the mesh has as many axes.

    Returns:
        A global tensor with the sizes, value and requires_grad of `x`.
        Differentiable.

    Raises:
        ValueError: if `x` is no DTensor, the layout does not fit it, or its
            shards are in no process (a fake process group).
        RuntimeError: if this torch has no DTensor.
    """
    _distributed("from_dtensor", initialized=False)
    if not is_dtensor(x):
        raise ValueError(
            f"from_dtensor: {type(x).__name__} is no DTensor.\n"
            "Hint: use distribute for a plain tensor. [no-dtensor]"
        )
    if not isinstance(mesh, Layout):
        if mesh is None:
            mesh = _mesh_for(x.device_mesh)
        if placements is None and len(mesh.axis_names) == x.device_mesh.ndim:
            placements = _places_in(x)
    return _FromDTensor.apply(x, as_layout(mesh, placements))


def is_dtensor(x: Any) -> bool:
    """Whether `x` is a DTensor; imports nothing to find out."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


class _ToDTensor(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, device_mesh: Any, places: tuple[Any, ...]
    ) -> Any:
        context.layout = tensors.layout(x)
        context.set_materialize_grads(False)
        return _to_dtensor(x, device_mesh, places)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        if gradient is None:
            return None, None, None
        return _from_dtensor(gradient, _reduced(context.layout)), None, None


class _FromDTensor(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Any, layout: Layout) -> Tensor:
        context.device_mesh = x.device_mesh
        # The gradient of a sum is the same for each of its parts.
        context.places = tuple(
            _replicate() if p.is_partial() else p for p in x.placements
        )
        context.set_materialize_grads(False)
        return _from_dtensor(x, layout)

    @staticmethod
    def backward(context: Any, gradient: Tensor | None) -> Any:
        if gradient is None:
            return None, None
        return (
            _to_dtensor(gradient, context.device_mesh, context.places),
            None,
        )


def _to_dtensor(x: Tensor, device_mesh: Any, places: tuple[Any, ...]) -> Any:
    """The DTensor; `places` are its placements."""
    from torch.distributed.tensor import DTensor

    layout = tensors.layout(x)
    if device_mesh.size() == 1:
        local = _whole(x)
    elif (
        places == _places_out(layout, device_mesh)
        and device_mesh.shape == layout.mesh.shape
        and len(layout.mesh.processes) == 1
    ):
        local = _shard(x, device_mesh)
    else:  # a gradient in another layout, or a mesh over several processes
        local = _cut(tensors.full(x), device_mesh, places)
    return DTensor.from_local(
        local.to(device_mesh.device_type),
        device_mesh,
        places,
        run_check=False,
        shape=x.shape,
        stride=_contiguous_strides(x.shape),
    )


def _from_dtensor(x: Any, layout: Layout) -> Tensor:
    """The global tensor, in memory that is borrowed where it can be."""
    mine = x.device_mesh.get_coordinate() is not None
    alone = x.device_mesh.size() == 1
    if mine and (alone or all(p.is_replicate() for p in x.placements)):
        whole = x.to_local()
    elif _is_fake() or not mine:
        raise ValueError(
            "from_dtensor: this process has not all shards, and cannot gather "
            "them.\n"
            f"  placements  {tuple(map(str, x.placements))}\n"
            f"  mesh        {tuple(x.device_mesh.shape)}\n"
            "Hint: give a replicated DTensor, or call this in all processes "
            "of its mesh. [no-dtensor]"
        )
    else:
        whole = x.full_tensor()
    whole = whole.detach()
    if whole.device.type == "cpu":
        return tensors.borrow(whole, layout)
    return tensors.distribute(whole, layout)


# Shards


def _shard(x: Tensor, device_mesh: Any) -> Tensor:
    """What this process's device holds."""
    coordinate = device_mesh.get_coordinate()
    if coordinate is None:  # not part of the mesh: DTensor wants none of it
        return torch.empty(0, dtype=x.dtype)
    layout = tensors.layout(x)
    device = 0
    for position, size in zip(coordinate, layout.mesh.shape, strict=True):
        device = device * size + position
    if any("/" in p for p in layout.placements):
        x = moves.redistribute(x, _without_blocks(layout))
        layout = tensors.layout(x)
    if not any(p.startswith("P") for p in layout.placements):
        held, lane = _held(x), _lane_of(layout, device)
        if len(held) == layout.mesh.size:
            return held[device].contiguous()
        if len(held) == 1 + max(
            _lane_of(layout, d) for d in range(layout.mesh.size)
        ):
            return held[lane].contiguous()
    return _C.shards(x)[device]


def _whole(x: Tensor) -> Tensor:
    """The value as a plain tensor: the first device's memory if it is all."""
    layout = tensors.layout(x)
    if all(p == "R" for p in layout.placements):
        return _held(x)[0].contiguous()
    cut = [
        n
        for n, p in zip(layout.mesh.shape, layout.placements, strict=True)
        if p != "R"
    ]
    if all(n == 1 for n in cut) and not _has_partial(layout):
        return _held(x)[0].contiguous()
    return tensors.full(x)


def _cut(whole: Tensor, device_mesh: Any, places: tuple[Any, ...]) -> Tensor:
    """This process's shard of a plain tensor, as DTensor cuts it."""
    coordinate = device_mesh.get_coordinate()
    for axis, place in enumerate(places):
        if place.is_shard():
            parts = whole.chunk(device_mesh.shape[axis], place.dim)
            position = coordinate[axis]
            whole = (
                parts[position]
                if position < len(parts)
                else whole.narrow(place.dim, 0, 0)
            )
    return whole.contiguous()


def _lane_of(layout: Layout, device: int) -> int:
    """Which copy a device reads, with all devices in one memory.

    Devices at the same coordinates of the cut axes share one; the copies are
    numbered in the order of their first devices.
    """
    lane, rest = 0, device
    scale = 1
    for size, placement in zip(
        reversed(layout.mesh.shape), reversed(layout.placements), strict=True
    ):
        if placement.startswith("S"):
            lane += (rest % size) * scale
            scale *= size
        rest //= size
    return lane


# An op whose kernel sees each lane's own tensor: so a shard is handed out
# without a copy. It returns nothing of use.
_seen = threading.local()
_library: Any = None


def _held(x: Tensor) -> list[Tensor]:
    """The tensors that the lanes of `x` hold, not copied."""
    global _library
    if _library is None:
        library = torch.library.Library("torch_mesh_dtensor", "FRAGMENT")
        library.define("show_shards(Tensor x) -> Tensor")
        library.impl("show_shards", _show, "CPU")
        library.impl("show_shards", _show, "CUDA")
        library.impl("show_shards", lambda x: x.new_empty(()), "Meta")
        _C.register_rule("torch_mesh_dtensor::show_shards", "x* -> .")
        _library = library
    _seen.tensors = []
    try:
        with torch.no_grad():
            torch.ops.torch_mesh_dtensor.show_shards(x.detach())
        held: list[Tensor] = _seen.tensors
    finally:
        del _seen.tensors
    return held


def _show(x: Tensor) -> Tensor:
    _seen.tensors.append(x)
    return x.new_zeros(())


# Meshes and placements


def _device_mesh_for(mesh: Mesh, device_mesh: Any, dist: Any) -> Any:
    """A DeviceMesh that fits a mesh; checks the one that is given."""
    world = dist.get_world_size()
    if device_mesh is None:
        if world in (1, mesh.size):
            shape = mesh.shape if world > 1 else (1,) * len(mesh.shape)
            kind = "cpu"
            if not mesh.devices[0].startswith("cpu"):
                kind = "cuda"
            return dist.device_mesh.init_device_mesh(
                kind, shape, mesh_dim_names=mesh.axis_names
            )
        shown = f"{world} processes"
    else:
        shape = tuple(device_mesh.shape)
        if shape in (mesh.shape, (1,) * len(mesh.shape)):
            return device_mesh
        shown = f"a DeviceMesh of sizes {shape}"
    raise ValueError(
        f"to_dtensor: a mesh of sizes {mesh.shape} does not fit {shown}.\n"
        f"  mesh  {mesh}\n"
        "Hint: redistribute onto a mesh with the sizes of the DeviceMesh, one "
        "device for each process. [dtensor-mesh]"
    )


def _mesh_for(device_mesh: Any) -> Mesh:
    """The mesh in force if it fits, else one like a DeviceMesh."""
    now = in_force.current_mesh()
    if now is not None and len(now.axis_names) == device_mesh.ndim:
        return now
    names = device_mesh.mesh_dim_names or tuple(
        f"axis{i}" for i in range(device_mesh.ndim)
    )
    # In a job of several processes each has the whole, on its own devices.
    own = list_local_devices()[: device_mesh.size()]
    return Mesh(
        dict(zip(names, device_mesh.shape, strict=True)),
        own if len(own) == device_mesh.size() else None,
    )


def _places_out(layout: Layout, device_mesh: Any) -> tuple[Any, ...]:
    """DTensor's placements for a layout of ours."""
    from torch.distributed.tensor import Partial, Shard

    alone = device_mesh.size() == 1
    result: list[Any] = []
    for placement in layout.placements:
        if placement.startswith("S") and "/" not in placement:
            result.append(Shard(int(placement[1:])))
        elif placement.startswith("P") and not alone:
            result.append(Partial())
        else:
            result.append(_replicate())
    return tuple(result)


def _places_in(x: Any) -> tuple[str, ...]:
    """Our placements for a DTensor's; what has no counterpart is R."""
    from torch.distributed.tensor import Shard

    return tuple(
        f"S{p.dim % x.ndim}" if type(p) is Shard else "R" for p in x.placements
    )


def _replicate() -> Any:
    from torch.distributed.tensor import Replicate

    return Replicate()


def _has_partial(layout: Layout) -> bool:
    return any(p.startswith("P") for p in layout.placements)


def _reduced(layout: Layout) -> Layout:
    """The layout with its sums formed: what a gradient has."""
    return Layout(
        layout.mesh,
        ["R" if p.startswith("P") else p for p in layout.placements],
    )


def _without_blocks(layout: Layout) -> Layout:
    return Layout(
        layout.mesh, ["R" if "/" in p else p for p in layout.placements]
    )


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def _is_fake() -> bool:
    import torch.distributed as dist

    return dist.is_initialized() and dist.get_backend() == "fake"


def _distributed(op: str, initialized: bool = True) -> Any:
    """`torch.distributed`, with DTensor loaded.

    Raises:
        RuntimeError: if this torch lacks it, or there is no process group.
    """
    try:
        import torch.distributed as dist
        import torch.distributed.device_mesh

        available = dist.is_available()
        if available:
            import torch.distributed.tensor  # noqa: F401
    except ImportError:
        available = False
    if not available:
        raise RuntimeError(
            f"{op}: this torch has no torch.distributed.\n"
            "Hint: everything but DTensors and several processes works "
            "without. [no-distributed]"
        )
    if initialized and not dist.is_initialized():
        raise RuntimeError(
            f"{op}: a DTensor needs a process group, and there is none.\n"
            "Hint: call keras.distribution.initialize in each process, or "
            "torch.distributed.init_process_group. [no-process-group]"
        )
    return dist
