"""Where things live: a table for a module, a picture for a tensor."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module

from torch_mesh import _C, tensors
from torch_mesh.layouts import Layout
from torch_mesh.picture import Picture

# A module's attribute: what gave each of its tensors its layout, by name.
PATTERNS = "_torch_mesh_patterns"

_HEAD = ("name", "pattern", "dtype", "layout", "shape", "shard", "bytes")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Row(NamedTuple):
    """One parameter or buffer.

    Attributes:
        name: as `named_parameters` and `named_buffers` give it.
        pattern: the key, and the word if it is one, that gave the layout; "="
            and a name for a tensor that is tied to that one; "" for none.
        dtype: e.g. "float32".
        layout: in torch-mesh's notation, or the name of a plain device.
        shape: of the whole.
        shard_shape: of the largest shard.
        num_bytes: held per device, at most; 0 for a tied one.
    """

    name: str
    pattern: str
    dtype: str
    layout: str
    shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    num_bytes: int


class Batch(NamedTuple):
    """Batches of one kind that `use(mesh, batch=...)` has cut.

    Attributes:
        shape: of the whole batch.
        dtype: e.g. "float32".
        layout: the `Layout` that it took.
        times: how often.
    """

    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    times: int


class Table:
    """What `describe` returns; prints as a table.

    Attributes:
        name: the module's class.
        mesh: the mesh, as "data=2 model=2"; "" if nothing is on one.
        rows: a `Row` for each parameter and buffer, in the module's order.
        batches: a `Batch` for each kind of batch that was moved last.
        processes: which process has which devices; "" for one process.
    """

    def __init__(
        self,
        name: str,
        mesh: str,
        rows: list[Row],
        batches: list[Batch],
        processes: str = "",
    ) -> None:
        self.name = name
        self.mesh = mesh
        self.rows = rows
        self.batches = batches
        self.processes = processes

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters and buffers per device."""
        return sum(row.num_bytes for row in self.rows)

    @property
    def num_bytes_whole(self) -> int:
        """Bytes of all of them on one device."""
        return sum(
            row.num_bytes
            // max(math.prod(row.shard_shape), 1)
            * math.prod(row.shape)
            for row in self.rows
        )

    def __str__(self) -> str:
        cells = [
            (
                row.name,
                row.pattern or "-",
                row.dtype,
                row.layout,
                _shape_text(row.shape),
                _shape_text(row.shard_shape),
                _bytes_text(row.num_bytes),
            )
            for row in self.rows
        ]
        widths = [
            max(map(len, column)) for column in zip(_HEAD, *cells, strict=True)
        ]
        lines = [f"{self.name} on {self.mesh or 'no mesh'}"]
        lines += [self.processes] if self.processes else []
        lines.append(_line(_HEAD, widths))
        lines.append("  ".join("-" * width for width in widths))
        lines += [_line(line, widths) for line in cells]
        lines.append(
            f"total {_bytes_text(self.num_bytes)} per device, of"
            f" {_bytes_text(self.num_bytes_whole)}"
        )
        lines += [
            f"batch {b.dtype}{_shape_text(b.shape)} {b.layout}, {b.times} x"
            for b in self.batches
        ]
        return "\n".join(lines)

    __repr__ = __str__


def describe(model: Any) -> Any:
    """Tells where each parameter and buffer of a module lives.

    Args:
        model: any `torch.nn.Module`, on the mesh or not, or a Keras model.

    Returns:
        A `Table`. It prints name, pattern, dtype, layout, shape, shard shape
        and bytes per device, the total, and the batches that
        `use(mesh, batch=...)` cut last, and has all of it in `rows` and
        `batches`. Of a Keras model, what `torch_mesh.keras.describe` gives.

    Raises:
        TypeError: if `model` is no module.

    Example:
        >>> mesh = Mesh({"data": 2, "model": 2})
        >>> model = torch.nn.Linear(4, 6)
        >>> model = parallelize(model, mesh, {"weight": ("R", "S0")})
        >>> describe(model).rows[0].layout
        '(R, S0)'
    """
    if "keras" in sys.modules and hasattr(model, "variables"):
        from torch_mesh.keras import describe as of_keras  # Keras is there

        return of_keras(model)
    if not isinstance(model, Module):
        raise TypeError(
            f"describe: a module is due, and this is a {type(model).__name__}."
            "\nHint: torch_mesh.layout(x) has that of a tensor."
            " [argument-type]"
        )
    patterns: dict[str, str] = getattr(model, PATTERNS, {})
    mesh, processes, rows, seen = "", "", [], dict[int, str]()
    for name, tensor in named_tensors(model):
        if tensors.is_global(tensor) and not mesh:
            of_tensor = tensors.layout(tensor).mesh
            mesh, processes = str(of_tensor._native), of_tensor.processes_text()
        first = seen.setdefault(id(tensor), name)
        rows.append(_row(name, tensor, patterns.get(name, ""), first))
    batches = [
        Batch(tuple(sizes), _dtype_text(dtype), Layout._of(layout), times)
        for sizes, dtype, layout, times in _C.batch_moves()
    ]
    return Table(type(model).__name__, mesh, rows, batches, processes)


def visualize(x: Tensor) -> Picture:
    """Draws which part of a tensor each device holds.

    Of a tensor with more than two dims the two that are cut most are drawn;
    what is cut besides stands in the cells. Ranges count elements from 0, the
    end not included. Moves no data. `Layout.picture(shape)` draws the same
    before there is a tensor.

    Args:
        x: a global tensor.

    Returns:
        A `Picture`: `print` it, or `show()` it in colours; a notebook draws
        it.

    Raises:
        ValueError: if `x` is a plain tensor.

    Example:
        >>> mesh = Mesh({"data": 2, "model": 2})
        >>> print(visualize(distribute(torch.zeros(5, 8), mesh, ("S0", "S1"))))
        f32[5, 8] (S0, S1) on data=2 model=2
               dim 1
        dim 0  0:4     4:8
               +-------+-------+
        0:3    | cpu:0 | cpu:1 |
               +-------+-------+
        3:5    | cpu:2 | cpu:3 |
               +-------+-------+
        a device holds at most [3, 4], 48 B of 160 B
    """
    return Picture(tensors.layout(x), x.shape, x.dtype)


def named_tensors(model: Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, those with several names under each of them.

    Args:
        model: any module.
    """
    return [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]


def _row(name: str, tensor: Tensor, pattern: str, first: str) -> Row:
    shape = shard_shape = tuple(tensor.shape)
    layout = str(tensor.device)
    if tensors.is_global(tensor):
        placed = tensors.layout(tensor)
        layout, shard_shape = repr(placed), placed.shard_shape(shape)
    return Row(
        name,
        pattern if first == name else f"= {first}",
        _dtype_text(tensor.dtype),
        layout,
        shape,
        shard_shape,
        math.prod(shard_shape) * tensor.element_size() if first == name else 0,
    )


def _bytes_text(num_bytes: int) -> str:
    """A number of bytes with its unit: "24 B", "1.5 MiB"."""
    size, unit = float(num_bytes), 0
    while size >= 1024 and unit + 1 < len(_UNITS):
        size, unit = size / 1024, unit + 1
    return f"{size:.4g} {_UNITS[unit]}"


def _dtype_text(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(
        cell.ljust(width) for cell, width in zip(cells, widths, strict=True)
    ).rstrip()
