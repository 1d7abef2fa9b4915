"""Keras's words for meshes and layouts, in those of `torch_mesh`.

A `DeviceMesh` becomes a `torch_mesh.Mesh`, a `TensorLayout` (axis names by
tensor dim) a `torch_mesh.Layout` (placements by mesh axis).

Loaded with Keras: the engine and torch.distributed come when they are needed.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch_mesh.keras import devices


def to_backend_mesh(device_mesh: Any) -> Any:
    """Translates a Keras `DeviceMesh`.

    Args:
        device_mesh: A `keras.distribution.DeviceMesh`.

    Returns:
        A `torch_mesh.Mesh` with the same axes and devices.

    Raises:
        ValueError: if two axes have one name, or there is not one of the
            devices. In one process there are as many virtual CPU devices as a
            mesh asks for.
    """
    import torch_mesh as tm

    axes = list(device_mesh.axis_names)
    twice = [name for name in dict.fromkeys(axes) if axes.count(name) > 1]
    if twice:
        raise ValueError(
            f"DeviceMesh: two axes have the name "
            f"{', '.join(map(_quoted, twice))}.\n"
            f"  axis_names  {_axes_text(axes)}\n"
            "Hint: give each axis a name of its own. [mesh-axes]"
        )
    names = [
        devices.to_backend_device(d) for d in device_mesh.devices.flatten()
    ]
    devices.check_there(names)
    return tm.Mesh(
        {
            name: int(size)
            for name, size in zip(
                device_mesh.axis_names, device_mesh.shape, strict=True
            )
        },
        devices=names,
    )


def to_backend_layout(tensor_layout: Any) -> Any:
    """Translates a Keras `TensorLayout`.

    Args:
        tensor_layout: A `keras.distribution.TensorLayout` with a mesh. An
            entry may be a tuple of axes, in the order of the mesh: the dim is
            split over all of them.

    Returns:
        A `torch_mesh.Layout`.

    Raises:
        ValueError: if the layout has no mesh, names an axis that the mesh has
            not, or names one twice.
    """
    import torch_mesh as tm

    if tensor_layout.device_mesh is None:
        raise ValueError(
            "TensorLayout: it has no mesh to be used on.\n"
            f"  axes  {_axes_text(tensor_layout.axes)}\n"
            "Hint: pass device_mesh=, or put the layout into a LayoutMap. "
            "[layout-without-mesh]"
        )
    mesh = tensor_layout.device_mesh.backend_mesh
    placements = dict.fromkeys(mesh.axis_names, "R")
    for dim, entry in enumerate(tensor_layout.axes):
        names = entry if isinstance(entry, (tuple, list)) else (entry,)
        order = [n for n in names if n is not None]
        for name in order:
            check_axis("TensorLayout", name, mesh)
            if placements[name] != "R":
                raise ValueError(
                    f'TensorLayout: axis "{name}" splits two dims, '
                    f"{placements[name][1:]} and {dim}.\n"
                    f"  axes  {_axes_text(tensor_layout.axes)}\n"
                    "Hint: use each mesh axis once. [axis-twice]"
                )
            placements[name] = f"S{dim}"
        if order != sorted(order, key=list(mesh.axis_names).index):
            raise ValueError(
                f"TensorLayout: dim {dim} is split over {order}, the mesh "
                f"has the order {list(mesh.axis_names)}.\n"
                f"  axes  {_axes_text(tensor_layout.axes)}\n"
                "Hint: name the axes in the order of the mesh. [axis-order]"
            )
    return tm.Layout(mesh, tuple(placements[a] for a in mesh.axis_names))


def backend_layout(layout: Any) -> Any:
    """The `torch_mesh.Layout` of a Keras layout, or `layout` itself."""
    return getattr(layout, "backend_layout", layout)


def target_layout(op: str, layout: Any) -> Any:
    """The `torch_mesh.Layout` that an argument stands for.

    Args:
        op: Whom the error is to name.
        layout: A Keras `TensorLayout` or a `torch_mesh.Layout`.

    Returns:
        A `torch_mesh.Layout`.

    Raises:
        TypeError: if `layout` is neither, such as a tuple of axes.
    """
    import torch_mesh as tm

    target = backend_layout(layout)
    if isinstance(target, tm.Layout):
        return target
    raise TypeError(
        f"{op}: {layout!r} is no layout.\n"
        "  expected  keras.distribution.TensorLayout or torch_mesh.Layout\n"
        "Hint: write keras.distribution.TensorLayout(axes, mesh), with the "
        "axes that split each dim. [argument-type]"
    )


def dims_needed(layout: Any) -> int:
    """The number of dims that a `torch_mesh.Layout` speaks of, at least."""
    split = [
        int(p[1:].partition("/")[0]) + 1
        for p in layout.placements
        if p.startswith("S")
    ]
    return max(split, default=0)


def check_axis(op: str, axis: Any, mesh: Any) -> None:
    """Raises ValueError if a `torch_mesh.Mesh` has no such axis."""
    if axis in mesh.axis_names:
        return
    near = difflib.get_close_matches(str(axis), mesh.axis_names, n=1)
    action = f'did you mean "{near[0]}"?' if near else "use one of them."
    raise ValueError(
        f'{op}: uses axis "{axis}", which the mesh does not have.\n'
        f"  mesh  {' '.join(f'{a}={n}' for a, n in mesh.axes.items())}\n"
        f"Hint: {action} [unknown-axis]"
    )


def describe_layout(layout: Any) -> str:
    """A layout of Keras or of ours as an error shows it."""
    axes = getattr(layout, "axes", None)
    return repr(layout) if axes is None else _axes_text(axes)


def _axes_text(axes: Any) -> str:
    names = ("None" if axis is None else _quoted(axis) for axis in axes)
    return f"({', '.join(names)})"


def _quoted(name: Any) -> str:
    return f'"{name}"'
