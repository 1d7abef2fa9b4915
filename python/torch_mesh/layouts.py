"""Meshes and layouts."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias

from torch_mesh import _C, job
from torch_mesh import devices as _devices

if TYPE_CHECKING:
    from torch_mesh.picture import Picture

# "S0", None for "R", or a placement of DTensor's.
Placement: TypeAlias = Any
# ("S0", "R"), or "(S0, R)", or {"data": "S0"}.
Placements: TypeAlias = Iterable[Placement] | Mapping[str, Placement]

# What torch.distributed asks of a DeviceMesh first.
_OF_DEVICE_MESHES = frozenset(
    {
        "device_type",
        "get_all_groups",
        "get_coordinate",
        "get_group",
        "get_local_rank",
        "mesh",
        "mesh_dim_names",
        "ndim",
    }
)

_MOST_NAMED = 8  # processes in a text, and devices of each

_FROM_THE_END = re.compile(r"S-(\d+)")


class Mesh:
    """Devices arranged along named axes, row-major.

    Meshes compare by content: axes, sizes and devices.

    Args:
        axes: dict of axis name to size, in order; the last one runs fastest.
        devices: names such as "cpu:0", "gpu:1", as many as the product of the
            sizes. None takes the first of `list_devices()`; in one process,
            virtual CPU devices `cpu:0`, `cpu:1`, ... if those do not suffice.
            "null" is a mesh that nobody has but its first device: plans, counts
            and the memory of that device are those of a real one, values are
            not. In a job of several processes a mesh may have devices of
            several, or of some: those without a device cannot use it.

    Raises:
        ValueError: on sizes, names or a number of devices that do not fit;
            on memories that are not shared axis by axis, as one for each
            process, host or row of devices is; if the job has no such device.
        TypeError: if `axes` is no dict of text to int.

    Example:
        >>> Mesh({"data": 2, "model": 2})
        Mesh(data=2 model=2)
    """

    def __init__(
        self,
        axes: Mapping[str, int],
        devices: Iterable[str] | str | None = None,
    ) -> None:
        pairs = _pairs_of(axes)
        job.warn_if_alone("Mesh")
        if devices is None:
            devices = _default_devices(pairs)
        elif devices == "null":
            devices = [f"null:{i}" for i in range(_count_of(pairs))]
        elif isinstance(devices, str):
            raise ValueError(
                f'Mesh: devices is the text "{devices}", and takes a list of'
                ' names, or "null" for devices that nobody has.\n'
                'Hint: devices=["cpu:0", "cpu:1"], with a name for each place'
                " of the mesh. [mesh-devices]"
            )
        names = _devices.engine_names("Mesh", map(str, devices))
        self._native = _C.Mesh(pairs, names)

    @classmethod
    def _of(cls, native: _C.Mesh) -> Mesh:
        mesh = cls.__new__(cls)
        mesh._native = native
        return mesh

    def __getattr__(self, name: str) -> Any:
        """Says what to use instead where a `DeviceMesh` is expected."""
        text = f"'{type(self).__name__}' object has no attribute {name!r}"
        if name in _OF_DEVICE_MESHES:
            text += (
                ".\nparallelize_module, fully_shard and other functions of"
                " torch.distributed take a DeviceMesh, and are not needed on a"
                " torch_mesh.Mesh.\nHint: torch_mesh.parallelize(model, mesh,"
                " layouts) cuts weights, torch_mesh.use(mesh, batch=...)"
                " batches. [not-needed]"
            )
        raise AttributeError(text)

    @property
    def axes(self) -> dict[str, int]:
        """Dict of axis name to size."""
        return dict(self._native.axes)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Tuple of axis names."""
        return tuple(name for name, _ in self._native.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Tuple of axis sizes."""
        return tuple(size for _, size in self._native.axes)

    @property
    def size(self) -> int:
        """Number of devices."""
        return self._native.size

    @property
    def devices(self) -> list[str]:
        """Device names, row-major, as `list_devices` gives them."""
        return _devices.names_of(self._native.devices)

    @property
    def processes(self) -> list[int]:
        """The processes of the job that have devices of it, in order."""
        return list(processes_of(self._native))

    @property
    def axes_between_processes(self) -> tuple[str, ...]:
        """Tuple of the axes along which devices of several processes lie.

        What moves along the others stays in its process.
        """
        return tuple(
            name
            for i, name in enumerate(self.axis_names)
            if self._native.is_between_processes(i)
        )

    def processes_text(self) -> str:
        """Which process has which devices, on one line.

        Returns:
            Text, as "process 0 has cpu:0, cpu:1; process 1 has cpu:2, cpu:3";
            "" for a mesh of one process.
        """
        if not spans_processes(self._native):
            return ""
        held: dict[int, list[str]] = {}
        for native, name in zip(
            self._native.devices, self.devices, strict=True
        ):
            held.setdefault(_devices.process_of(native), []).append(name)
        texts = []
        for process, names in sorted(held.items())[:_MOST_NAMED]:
            more = len(names) - _MOST_NAMED
            text = ", ".join(names[:_MOST_NAMED])
            text += f" and {more} more" if more > 0 else ""
            texts.append(f"process {process} has {text}")
        left = len(held) - _MOST_NAMED
        return "; ".join(texts) + (f"; and {left} more" if left > 0 else "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and self._native == other._native

    def __hash__(self) -> int:
        return hash(self._native)

    def __repr__(self) -> str:
        return f"Mesh({self._native})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Mesh, (self.axes, self.devices))


class Layout:
    """A mesh, and one placement for each of its axes.

    `R` replicates, `S<dim>` shards a dim in ceil-sized chunks, `P+` is a sum
    over the devices that is still to be formed.

    Args:
        mesh: a `Mesh`.
        placements: one for each axis, e.g. `("S0", "R")`; or a dict of axis
            name to placement, where axes left out are `R`; or the text of a
            layout, `"(S0, R)"`. None stands for `R`, and DTensor's `Shard(0)`,
            `Replicate()` and `Partial()` are taken. Where a tensor comes with
            them, `S-1` and `Shard(-1)` are its last dim.

    Raises:
        ValueError: if the placements do not fit the mesh.
        TypeError: if `mesh` is no `Mesh`.

    Example:
        >>> Layout(Mesh({"data": 2, "model": 2}), ("S0", "R"))
        (S0, R)
    """

    def __init__(self, mesh: Mesh, placements: Placements) -> None:
        if not isinstance(mesh, Mesh):
            raise TypeError(
                f"Layout: a Mesh is due, and this is a {type(mesh).__name__}:"
                f" {mesh!r}.\nHint: torch_mesh.Mesh({{'data': 2}}) makes one."
                " [argument-type]"
            )
        placed = _texts_of(placements)
        if isinstance(placed, str):
            self._native = _C.Layout.parse(mesh._native, placed)
        else:
            self._native = _C.Layout(mesh._native, placed)

    @classmethod
    def _of(cls, native: _C.Layout) -> Layout:
        layout = cls.__new__(cls)
        layout._native = native
        return layout

    @property
    def mesh(self) -> Mesh:
        """The `Mesh`."""
        return Mesh._of(self._native.mesh)

    @property
    def placements(self) -> tuple[str, ...]:
        """Tuple of texts, one for each axis."""
        return tuple(self._native.placements)

    def shard_shape(
        self, shape: Sequence[int], device: int = 0
    ) -> tuple[int, ...]:
        """Shape of what one device holds of a tensor.

        Args:
            shape: global shape.
            device: number of the device, row-major.

        Returns:
            Tuple of ints, as many as `shape` has.

        Raises:
            ValueError: if the layout does not fit the shape, or there is no
                such device.
        """
        if not 0 <= device < self.mesh.size:
            raise ValueError(
                f"shard_shape: there is no device {device}.\n"
                f"  mesh  {self.mesh._native}\n"
                f"Hint: devices count from 0 to {self.mesh.size - 1},"
                " row-major. [no-such-device]"
            )
        return tuple(_C.shard_sizes(self._native, list(shape), device))

    def picture(self, shape: Sequence[int]) -> Picture:
        """Draws what each device would hold of a tensor.

        Args:
            shape: global shape.

        Returns:
            A `Picture`, as `visualize` gives it for a tensor.

        Raises:
            ValueError: if the layout does not fit the shape.
        """
        from torch_mesh.picture import Picture  # loaded by those who draw

        return Picture(self, shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._native == other._native

    def __hash__(self) -> int:
        return hash(self._native)

    def __repr__(self) -> str:
        return str(self._native)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Layout, (self.mesh, self.placements))


def as_layout(
    mesh_or_layout: Mesh | Layout,
    placements: Placements | None = None,
    ndim: int | None = None,
) -> Layout:
    """A `Layout` from `(mesh, placements)` or from a layout.

    Args:
        mesh_or_layout: a `Mesh`, or a `Layout`.
        placements: as for `Layout`; None replicates.
        ndim: number of dims of the tensor that it is for, from whose end
            negative dims count.

    Raises:
        ValueError: if placements are given twice.
        TypeError: if the first argument is neither mesh nor layout.
    """
    if isinstance(mesh_or_layout, Layout):
        if placements is not None:
            raise ValueError(
                "the layout has placements already.\n"
                f"  layout      {mesh_or_layout}\n"
                f"  placements  {placements}\n"
                "Hint: give a mesh and placements, or a layout."
                " [layout-twice]"
            )
        return mesh_or_layout
    if not isinstance(mesh_or_layout, Mesh):
        raise TypeError(
            "a Mesh or a Layout is due, and this is a"
            f" {type(mesh_or_layout).__name__}: {mesh_or_layout!r}.\n"
            'Hint: torch_mesh.Mesh({"data": 2}) makes one. [argument-type]'
        )
    if placements is None:
        return Layout._of(_C.Layout.replicated(mesh_or_layout._native))
    placed = _texts_of(placements, ndim)
    if isinstance(placed, str):
        return Layout(mesh_or_layout, placed)
    return Layout._of(_C.Layout(mesh_or_layout._native, placed))


def _texts_of(
    placements: Placements, ndim: int | None = None
) -> str | list[str]:
    """Placements as the text of a layout, or as a text for each axis."""
    if type(placements) is tuple:
        try:
            return _texts_of_tuple(placements, ndim)
        except TypeError:
            pass  # not hashable, or wrong: then it is said below

    def from_the_start(text: str) -> str:
        def dim(found: re.Match[str]) -> str:
            counted = -1 if ndim is None else ndim - int(found[1])
            return found[0] if counted < 0 else f"S{counted}"

        return _FROM_THE_END.sub(dim, text)

    if isinstance(placements, Mapping):
        pairs = (f"{a}: {_text_of(p)}" for a, p in placements.items())
        return from_the_start("{" + ", ".join(pairs) + "}")
    if isinstance(placements, str):
        return from_the_start(placements)
    try:
        return [from_the_start(_text_of(p)) for p in placements]
    except TypeError:
        raise TypeError(
            "Layout: a placement for each axis is due, and this is a"
            f" {type(placements).__name__}.\n"
            'Hint: write ("S0", "R"). [argument-type]'
        ) from None


@functools.lru_cache(maxsize=1024)
def _texts_of_tuple(
    placements: tuple[Placement, ...], ndim: int | None
) -> list[str]:
    """The usual case, once for each tuple. Nobody writes the list."""
    found = _texts_of(list(placements), ndim)
    assert isinstance(found, list)
    return found


def _text_of(placement: Placement) -> str:
    """A placement as text: of None, of DTensor's, of all that prints so."""
    if placement is None:
        return "R"
    kind = type(placement).__name__
    if type(placement).__module__.startswith("torch.distributed."):
        if kind == "Shard":
            return f"S{placement.dim}"
        if kind == "Replicate":
            return "R"
        if kind == "Partial" and placement.reduce_op == "sum":
            return "P+"
    return str(placement)


def _pairs_of(axes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and sizes of the axes, in order."""
    pairs = []
    try:
        for name, size in axes.items():
            if not isinstance(name, str):
                raise TypeError(name)
            pairs.append((name, index(size)))
    except (AttributeError, TypeError):
        raise TypeError(
            "Mesh: axes are due as a dict of name to integer size, and this is"
            f" {axes!r}.\nHint: torch_mesh.Mesh({{'data': 2}}) makes a mesh."
            " [argument-type]"
        ) from None
    return pairs


def _count_of(pairs: Sequence[tuple[str, int]]) -> int:
    """How many devices axes of these sizes have."""
    return math.prod(max(size, 0) for _, size in pairs)


def _default_devices(pairs: Sequence[tuple[str, int]]) -> list[str]:
    count = _count_of(pairs)
    if count > 1024:
        return []  # More than a mesh may have: the constructor says so.
    offered = _devices.list_devices()
    if len(offered) >= count:
        return offered[:count]
    if job.devices_by_process() is not None:
        raise ValueError(
            f"Mesh: it has {count} places, and the job {len(offered)} devices."
            f"\n  devices  {', '.join(offered)}\n"
            f"Hint: set TORCH_MESH_CPU_DEVICES in each of the "
            f"{job.num_processes()} processes, or make the mesh smaller. "
            "[mesh-devices]"
        )
    return [f"cpu:{i}" for i in range(count)]


@functools.lru_cache(maxsize=256)
def processes_of(native: _C.Mesh) -> tuple[int, ...]:
    """The processes that have devices of a mesh, in order."""
    return tuple(sorted({_devices.process_of(d) for d in native.devices}))


def spans_processes(native: _C.Mesh) -> bool:
    """Whether a mesh has devices of several processes."""
    return len(processes_of(native)) > 1


def coordinates_of(mesh: Mesh, device: int) -> tuple[int, ...]:
    """The place of a device, by its number, along each axis of its mesh."""
    coordinates = []
    for size in reversed(mesh.shape):
        device, coordinate = divmod(device, size)
        coordinates.append(coordinate)
    return tuple(reversed(coordinates))


def check_member(op: str, where: Mesh | Layout) -> None:
    """Checks that this process has a device of a mesh.

    Args:
        op: whom the error is to name.
        where: the mesh that is about to be used, or a layout on it.

    Raises:
        RuntimeError: if all its devices are of other processes.
    """
    if job.devices_by_process() is None:
        return
    mesh = where.mesh if isinstance(where, Layout) else where
    mine, members = job.process_id(), processes_of(mesh._native)
    if mine in members or mesh._native.devices[0].startswith("null"):
        return
    raise RuntimeError(
        f"{op}: this process has no device of the mesh.\n"
        f"  mesh     {mesh._native}\n"
        f"  devices  {', '.join(mesh.devices)}\n"
        f"  they are of process {', '.join(map(str, members))}, this is "
        f"process {mine} of {job.num_processes()}\n"
        "Hint: make the mesh of devices of all processes, or leave out in this "
        "process what works on it. [not-on-mesh]"
    )
