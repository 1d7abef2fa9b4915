"""`model.summary()` with the layout and the bytes per device of each layer.

Keras's own function prints the table. It runs with two of its names replaced:
the one that it asks for a layer's output shape, which tells the order of the
rows, and rich's `Table`, which gets two more columns.
"""

from __future__ import annotations

import collections
import functools
import shutil
import types
from typing import Any

import rich.table
from keras.src.utils import summary_utils

import torch_mesh as tm
from torch_mesh.keras.describe import bytes_per_device, bytes_text

# Characters of the two columns, and of the lines around them.
_LAYOUT, _BYTES = 20, 10
_EXTRA = _LAYOUT + _BYTES + 6
_WIDTH = 88 + _EXTRA

# Layers with more weights show how many have each layout.
_FEW = 4


def print_summary(original: Any) -> Any:
    """Wraps `keras.utils.summary_utils.print_summary`."""

    @functools.wraps(original)
    def wrapped(
        model: Any, line_length: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if not any(map(_is_placed, model.variables)):
            return original(model, line_length, *args, **kwargs)
        room = shutil.get_terminal_size().columns - 4
        width = max(line_length or min(_WIDTH, room), _EXTRA + 28)
        columns = _Columns(model, width)
        printing = types.FunctionType(
            original.__code__,
            {
                **original.__globals__,
                "format_layer_shape": columns.format_layer_shape,
                "rich": columns.rich(),
            },
            original.__name__,
            original.__defaults__,
            original.__closure__,
        )
        return printing(model, width - _EXTRA, *args, **kwargs)

    return wrapped


class _Columns:
    """The two columns of one summary."""

    def __init__(self, model: Any, width: int) -> None:
        self._model = model
        self._width = width
        # The layers whose rows were made and not yet added.
        self._layers: collections.deque[Any] = collections.deque()

    def format_layer_shape(self, layer: Any) -> Any:
        self._layers.append(layer)
        return summary_utils.format_layer_shape(layer)

    def rich(self) -> types.SimpleNamespace:
        """A stand-in for the package `rich`, whose tables are wider."""
        table = types.SimpleNamespace(
            Table=self._table, Column=rich.table.Column
        )
        modules = {**vars(rich), "table": table}
        return types.SimpleNamespace(**modules)

    def _table(self, *columns: Any, **kwargs: Any) -> Any:
        mesh = next(
            tm.layout(v._value).mesh
            for v in self._model.variables
            if _is_placed(v)
        )
        axes = " ".join(f"{name}={size}" for name, size in mesh.axes.items())
        total = bytes_text(sum(map(bytes_per_device, self._model.weights)))
        table = rich.table.Table(
            *columns,
            rich.table.Column("Layout", width=_LAYOUT, overflow="fold"),
            rich.table.Column(
                "Bytes per device", width=_BYTES, justify="right"
            ),
            caption=f" Mesh {axes}: {total} of weights per device",
            caption_justify="left",
            **{**kwargs, "width": self._width},
        )
        add_row = table.add_row

        def add_longer_row(*cells: Any) -> None:
            weights = getattr(self._layers.popleft(), "weights", [])
            num_bytes = sum(map(bytes_per_device, weights))
            add_row(
                *cells,
                _layouts_text(weights),
                bytes_text(num_bytes) if weights else "-",
            )

        table.add_row = add_longer_row  # type: ignore[method-assign,assignment]
        return table


def _is_placed(variable: Any) -> bool:
    return variable._value is not None and tm.is_global(variable._value)


def _layout_of(variable: Any) -> str:
    value = variable._value
    if value is None:
        return "not built"
    return repr(tm.layout(value)) if tm.is_global(value) else str(value.device)


def _layouts_text(weights: Any) -> str:
    """The layouts of a layer's weights, in a cell."""
    layouts = [_layout_of(variable) for variable in weights]
    if not layouts:
        return "-"
    if len(set(layouts)) == 1:
        return layouts[0]
    if len(layouts) <= _FEW:
        return "\n".join(
            f"{variable.name} {layout}"
            for variable, layout in zip(weights, layouts, strict=True)
        )
    counts = collections.Counter(layouts)
    return "\n".join(f"{n} x {layout}" for layout, n in counts.items())
