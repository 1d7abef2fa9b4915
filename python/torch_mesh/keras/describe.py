"""A table of where each variable of a model lives."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch_mesh.keras import compat, layouts, torch_module

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Row(NamedTuple):
    """One variable.

    Attributes:
        path: Keras's path, or PyTorch's name for the parameter of a torch
            module.
        pattern: The LayoutMap's key that found it, "layout=" for a layout of
            its own, "" for none.
        layout: In torch-mesh's notation, or the name of a plain device.
        shape: Of the whole variable.
        shard_shape: Of the largest shard.
        num_bytes: Held per device, at most.
    """

    path: str
    pattern: str
    layout: str
    shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    num_bytes: int


class Description:
    """What `describe` returns; prints as a table.

    Attributes:
        name: The model's name.
        mesh: The mesh, as "data=2 model=2"; "" if nothing is on one.
        rows: A `Row` per variable, in the model's order.
        processes: Which process has which devices; "" for one process.
    """

    def __init__(
        self, name: str, mesh: str, rows: list[Row], processes: str = ""
    ) -> None:
        self.name = name
        self.mesh = mesh
        self.rows = rows
        self.processes = processes

    @property
    def num_bytes(self) -> int:
        """Bytes of all variables per device."""
        return sum(row.num_bytes for row in self.rows)

    def __str__(self) -> str:
        head = ("variable", "pattern", "layout", "shape", "shard", "bytes")
        cells = [
            (
                row.path,
                row.pattern or "-",
                row.layout,
                _shape_text(row.shape),
                _shape_text(row.shard_shape),
                bytes_text(row.num_bytes),
            )
            for row in self.rows
        ]
        widths = [
            max(len(line[i]) for line in [head, *cells]) for i in range(6)
        ]
        title = f"{self.name} on {self.mesh or 'no mesh'}"
        lines = [title, *([self.processes] if self.processes else [])]
        lines.append(_line(head, widths))
        lines.append("  ".join("-" * width for width in widths))
        lines += [_line(line, widths) for line in cells]
        lines.append(f"total {bytes_text(self.num_bytes)} per device")
        return "\n".join(lines)

    __repr__ = __str__

    def __rich__(self) -> Any:
        """The same as a table of `rich`, for its `print`."""
        from rich.table import Table

        table = Table(
            title=f"{self.name} on {self.mesh or 'no mesh'}",
            caption=f"total {bytes_text(self.num_bytes)} per device"
            + (f"\n{self.processes}" if self.processes else ""),
        )
        for column in ("variable", "pattern", "layout", "shape", "shard"):
            table.add_column(column, overflow="fold")
        table.add_column("bytes", justify="right")
        for row in self.rows:
            table.add_row(
                row.path.replace("[", r"\["),
                (row.pattern or "-").replace("[", r"\["),
                row.layout,
                _shape_text(row.shape).replace("[", r"\["),
                _shape_text(row.shard_shape).replace("[", r"\["),
                bytes_text(row.num_bytes),
            )
        return table


def describe(model: Any) -> Description:
    """Tells where each variable of a model lives.

    Args:
        model: A built Keras model, layer or optimizer: anything with
            `variables`.

    Returns:
        A `Description`. It prints as a table of path, pattern, layout, shape,
        shard shape and bytes per device, and keeps them in `rows`.
    """
    import torch_mesh as tm

    mesh = processes = ""
    rows = []
    for variable in model.variables:
        value = variable._value
        shape = tuple(variable.shape)
        path = torch_module.path_of(variable)
        if value is None:
            rows.append(Row(path, "", "not built", shape, shape, 0))
            continue
        shard_shape, layout = shape, str(value.device)
        if tm.is_global(value):
            placed = tm.layout(value)
            layout = repr(placed)
            shard_shape = placed.shard_shape(shape)
            axes = placed.mesh.axes.items()
            processes = processes or placed.mesh.processes_text()
            mesh = mesh or " ".join(f"{a}={n}" for a, n in axes)
        rows.append(
            Row(
                path,
                pattern_of(variable),
                layout,
                shape,
                shard_shape,
                math.prod(shard_shape) * value.element_size(),
            )
        )
    name = getattr(model, "name", type(model).__name__)
    return Description(name, mesh, rows, processes)


def line(model: Any, patterns: Any = None) -> str:
    """One line on a model, for the log.

    Args:
        model: A built Keras model.
        patterns: What `pattern_report.report` gave for it; None without a
            LayoutMap.

    Returns:
        Name, mesh, number of variables, bytes per device and of the whole, and
        what became of the patterns.
    """
    found = describe(model)
    whole = sum(
        math.prod(v.shape) * v._value.element_size()
        for v in model.variables
        if v._value is not None
    )
    count = sum(math.prod(row.shard_shape) for row in found.rows)
    text = (
        f'"{found.name}" on {found.mesh or "no mesh"}: {len(found.rows)} '
        f"variables, {count:,} parameters and {bytes_text(found.num_bytes)} "
        f"per device, {bytes_text(whole)} in all"
    )
    if patterns is None:
        return text
    from torch_mesh.keras import pattern_report

    return f"{text}; {pattern_report.line(patterns)}"


def bytes_text(num_bytes: int) -> str:
    """A number of bytes with its unit: "24 B", "1.5 MiB".

    Args:
        num_bytes: A number of bytes, at least 0.

    Returns:
        Text in the largest unit that leaves at least 1 of it.
    """
    size, unit = float(num_bytes), 0
    while size >= 1024 and unit + 1 < len(_UNITS):
        size, unit = size / 1024, unit + 1
    return f"{size:.4g} {_UNITS[unit]}"


def placement_text(variable: Any) -> str:
    """One line on where a variable goes, for the log.

    Args:
        variable: A Keras `Variable` with a layout. It need not have a value.

    Returns:
        Path, shape, layout, shard, bytes per device, and what gave the layout.
    """
    shape = tuple(variable.shape)
    layout = layouts.backend_layout(variable._layout)
    shard = layout.shard_shape(shape)
    dtype = compat.core().to_torch_dtype(variable.dtype)
    num_bytes = math.prod(shard) * dtype.itemsize
    pattern = pattern_of(variable)
    return (
        f'"{torch_module.path_of(variable)}" {_shape_text(shape)} {layout!r}, '
        f"shard {_shape_text(shard)}, {bytes_text(num_bytes)} per device, "
        + (f'by "{pattern}"' if pattern else "by no pattern")
    )


def bytes_per_device(variable: Any) -> int:
    """Bytes that a device holds of a variable, at most.

    Args:
        variable: A Keras `Variable`; one on a plain device, or without a value,
            holds none of a mesh's memory.
    """
    import torch_mesh as tm

    value = variable._value
    if value is None or not tm.is_global(value):
        return 0
    shard_shape = tm.layout(value).shard_shape(value.shape)
    return int(math.prod(shard_shape) * value.element_size())


def repr_with_layout(variable: Any, text: str) -> str:
    """The `repr` of a variable on the mesh, with its layout.

    Args:
        variable: A Keras `Variable` whose value is global.
        text: Keras's own `repr`.
    """
    import torch_mesh as tm

    head = f"shape={variable.shape}, dtype={variable.dtype}"
    return text.replace(head, f"{head}, layout={tm.layout(variable._value)}", 1)


def pattern_of(variable: Any) -> str:
    """What gave a variable its layout.

    Args:
        variable: A Keras `Variable`.

    Returns:
        A LayoutMap's key, "layout=" for a layout of its own, or "".
    """
    own = "" if getattr(variable, "_layout", None) is None else "layout="
    pattern: str = getattr(variable, "_torch_mesh_pattern", own)
    return pattern


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _line(cells: Any, widths: list[int]) -> str:
    return "  ".join(
        c.ljust(w) for c, w in zip(cells, widths, strict=True)
    ).rstrip()
