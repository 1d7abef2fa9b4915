"""Mistakes in meshes, layout maps and distributions, found when they are made.

Replacements for what Keras finds late, or not at all; `patches.py` lists them.
Light: the standard library only, so that it loads while Keras does.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import warnings
from typing import Any

_DISTRIBUTION = "keras.src.distribution.distribution_lib"


def layout_map_setitem(original: Any) -> Any:
    """Wraps `LayoutMap.__setitem__`: the key is a regular expression."""

    @functools.wraps(original)
    def __setitem__(self: Any, key: Any, layout: Any) -> None:
        if isinstance(key, str):
            _check_pattern(key)
        self.__dict__.pop("_torch_mesh_lookups", None)
        original(self, key, layout)

    return __setitem__


def layout_map_delitem(original: Any) -> Any:
    """Wraps `LayoutMap.__delitem__`: the map is asked anew."""

    @functools.wraps(original)
    def __delitem__(self: Any, key: str) -> Any:
        self.__dict__.pop("_torch_mesh_lookups", None)
        return original(self, key)

    return __delitem__


def layout_map_repr(original: Any) -> Any:
    """`LayoutMap.__repr__`: the mesh, and a line for each pattern."""

    def __repr__(self: Any) -> str:
        rows = [
            (f'"{key}"', layout.axes)
            for key, layout in self._layout_map.items()
        ]
        width = max((len(key) for key, _ in rows), default=0)
        lines = [f"<LayoutMap on {mesh_text(self.device_mesh)}"]
        lines += [f"  {key.ljust(width)}  {axes}" for key, axes in rows]
        return "\n".join(lines) + ">"

    return __repr__


def device_mesh_init(original: Any) -> Any:
    """Wraps `DeviceMesh.__init__`: how to have as many devices."""

    @functools.wraps(original)
    def __init__(
        self: Any, shape: Any, axis_names: Any, devices: Any = None
    ) -> None:
        try:
            original(self, shape, axis_names, devices)
        except ValueError as error:
            if "number of devices" not in str(error):
                raise
            raise ValueError(
                _other_number(str(error), shape, devices)
            ) from None

    return __init__


def data_parallel_init(original: Any) -> Any:
    """Wraps `DataParallel.__init__`: no devices are not all devices.

    `shard_optimizer=` is an argument of ours.
    """

    @functools.wraps(original)
    def __init__(
        self: Any,
        device_mesh: Any = None,
        devices: Any = None,
        *args: Any,
        shard_optimizer: bool = False,
        **kwargs: Any,
    ) -> None:
        self.shard_optimizer = bool(shard_optimizer)
        if device_mesh is None and devices is not None and len(devices) == 0:
            raise ValueError(
                "DataParallel: the list of devices is empty.\n"
                f"  list_devices()  {', '.join(_devices()) or 'none'}\n"
                "Hint: this machine has no device of the kind asked for; leave "
                "devices out, or pass those of another kind. [no-such-device]"
            )
        original(self, device_mesh, devices, *args, **kwargs)

    return __init__


def initialize_with_device_mesh(original: Any) -> Any:
    """Wraps `DataParallel._initialize_with_device_mesh`: its warning works."""

    @functools.wraps(original)
    def _initialize_with_device_mesh(
        self: Any, device_mesh: Any, *args: Any
    ) -> None:
        try:
            original(self, device_mesh, *args)
        except TypeError:
            # The last thing it does is the warning: all else is set up.
            axes: Any = getattr(device_mesh, "axis_names", ())
            if len(axes) < 2 or not hasattr(self, "_device_mesh"):
                raise
            warnings.warn(
                f"DataParallel: the mesh has {len(axes)} axes, 1 is used.\n"
                f'  batch  is split over "{axes[0]}", all else is replicated\n'
                "Hint: give a mesh with one axis to split the batch over all "
                "devices. [mesh-axes]",
                stacklevel=3,
            )

    return _initialize_with_device_mesh


def distribution_init(original: Any) -> Any:
    """Wraps `Distribution.__init__`: several processes run one program.

    Each takes its rows of the batch (`feeding.py`), so that Keras has no data
    to deal out, and any kind will do.
    """

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._is_multi_process = False

    return __init__


def model_parallel_init(original: Any) -> Any:
    """Wraps `ModelParallel.__init__`: `batch_dim_name` is an axis.

    `shard_optimizer=` is an argument of ours.
    """

    @functools.wraps(original)
    def __init__(
        self: Any, *args: Any, shard_optimizer: bool = False, **kwargs: Any
    ) -> None:
        self.shard_optimizer = bool(shard_optimizer)
        original(self, *args, **kwargs)
        mesh = self.device_mesh
        if mesh is not None and self.batch_dim_name not in mesh.axis_names:
            raise ValueError(
                f'ModelParallel: batch_dim_name="{self.batch_dim_name}" is no '
                f"axis of the mesh.\n  mesh  {mesh_text(mesh)}\n"
                "Hint: name one of its axes; without batch_dim_name it is "
                f'"{mesh.axis_names[0]}". [unknown-axis]'
            )

    return __init__


def check_distribution(value: Any) -> None:
    """Checks what `set_distribution` is given.

    Args:
        value: A `keras.distribution.Distribution`.

    Raises:
        TypeError: if it is none.
        ValueError: if a layout of its LayoutMap is for another mesh.
    """
    if not hasattr(value, "get_variable_layout"):
        raise TypeError(
            f"set_distribution: a {type(value).__name__} is no distribution.\n"
            "Hint: pass DataParallel(device_mesh=mesh), or "
            "ModelParallel(layout_map=LayoutMap(mesh)). [argument-type]"
        )
    layout_map = getattr(value, "_layout_map", None)
    if layout_map is None:
        return
    mesh = value.device_mesh
    for pattern, layout in layout_map._layout_map.items():
        other = layout.device_mesh
        if other is None or other is mesh or _same_mesh(other, mesh):
            continue
        raise ValueError(
            f'set_distribution: the layout of "{pattern}" is for another '
            "mesh.\n"
            f"  layout        {layout.axes} on {mesh_text(other)}\n"
            f"  distribution  {mesh_text(mesh)}\n"
            "Hint: give the axes alone, as in "
            f'layout_map["{pattern}"] = {layout.axes}. [mixed-meshes]'
        )


def mesh_text(device_mesh: Any) -> str:
    """A Keras `DeviceMesh` as "batch=2 model=4"."""
    if device_mesh is None:
        return "no mesh"
    axes = zip(device_mesh.axis_names, device_mesh.shape, strict=True)
    return " ".join(f"{name}={size}" for name, size in axes)


def _same_mesh(a: Any, b: Any) -> bool:
    return (
        tuple(a.axis_names) == tuple(b.axis_names)
        and tuple(a.shape) == tuple(b.shape)
        and list(map(str, a.devices.flat)) == list(map(str, b.devices.flat))
    )


def _check_pattern(pattern: str) -> None:
    """Raises ValueError for a pattern that `re` does not compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f'LayoutMap: "{pattern}" is no regular expression.\n'
            f"  re  {error}\n"
            "Hint: write a backslash before characters that stand for "
            "themselves; re.escape(path) does. [pattern-text]"
        ) from error


def _other_number(error: str, shape: Any, devices: Any) -> str:
    """The words about a mesh of another number of devices than there are."""
    names = _devices() if devices is None else [str(d) for d in devices]
    wanted = math.prod(shape)
    if 0 < wanted < len(names):
        way = f"pass {wanted} of them, devices=list_devices()[:{wanted}]."
    elif all(name.lower().startswith("cpu") for name in names):
        way = (
            f"TORCH_MESH_CPU_DEVICES={wanted} in the environment, or "
            f"torch_mesh.set_cpu_devices({wanted}), makes "
            f"list_devices('cpu') offer {wanted} virtual devices."
        )
    else:
        way = (
            "make the mesh smaller, or take virtual CPU devices from "
            "list_devices('cpu')."
        )
    return (
        f"{error}\n"
        f"  shape    {tuple(shape)}, {wanted} devices\n"
        f"  devices  {', '.join(names) or 'none'}\n"
        f"Hint: {way} [mesh-devices]"
    )


def _devices() -> list[str]:
    lib: Any = sys.modules[_DISTRIBUTION]
    return [str(device) for device in lib.list_devices()]
