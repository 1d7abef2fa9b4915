"""A picture of which device holds which part of a tensor.

The ends of all shards cut the tensor into cells. Two dims are drawn, as rows
and columns; a cell names the devices that hold it. `Picture` is plain data, and
three functions draw it: as text, in colours for a terminal, as HTML.
"""

from __future__ import annotations

import colorsys
import html
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, TypeAlias

import torch

if TYPE_CHECKING:
    from torch_mesh.layouts import Layout

# First index and the one after the last, along one dim.
Range: TypeAlias = tuple[int, int]

_MOST_RANGES = 16  # rows, and columns
_MOST_DEVICES = 16  # in a cell
_DEVICES_PER_LINE = 4
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SHORT_DTYPES = {"float": "f", "bfloat": "bf", "uint": "u", "int": "i"}


class Word(NamedTuple):
    """A piece of text, and the number of the device that it names, if any."""

    text: str
    device: int | None = None


class Picture:
    """What `torch_mesh.visualize` returns.

    `print(picture)` writes text, `picture.show()` the same in colours, and a
    notebook shows it as HTML. `rich.print(picture)` works too.

    Attributes:
        title: str, as `f32[8, 16] (S0, R) on data=2 model=2`.
        row_dim: the dim that runs down, or None.
        column_dim: the dim that runs to the right, or None.
        rows: list of ranges `(first, end)` of `row_dim`, in elements.
        columns: list of ranges of `column_dim`.
        cells: `cells[r][c]` is the list of lines in a cell, each a list of
            `Word`s. Copies have "," between them, parts of a sum "+".
        notes: list of str, the lines below the picture.
    """

    def __init__(
        self,
        layout: Layout,
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
    ) -> None:
        held = _Holdings(layout, tuple(shape))
        self.title = _title(layout, shape, dtype)
        self._devices = layout.mesh.devices
        drawn = held.most_cut_dims()
        self.row_dim = drawn[0] if len(drawn) == 2 else None
        self.column_dim = drawn[-1] if drawn else None
        rows = held.ranges(self.row_dim)
        columns = held.ranges(self.column_dim)
        self.rows = rows[:_MOST_RANGES]
        self.columns = columns[:_MOST_RANGES]
        self.cells = [
            [self._cell(held, row, column) for column in self.columns]
            for row in self.rows
        ]
        self.notes = [
            *_size_notes(layout, shape, dtype),
            *self._sign_notes(layout),
            *_process_notes(layout),
            *_crop_notes(self.row_dim, len(rows)),
            *_crop_notes(self.column_dim, len(columns)),
        ]
        idle = [
            name
            for number, name in enumerate(self._devices)
            if held.is_empty(number)
        ]
        if idle:
            more = len(idle) - _MOST_DEVICES
            tail = f" and {more} more" if more > 0 else ""
            names = ", ".join(idle[:_MOST_DEVICES])
            self.notes.append(f"empty: {names}{tail}")

    def show(self, file: TextIO | None = None) -> None:
        """Writes the picture, in colours if a terminal reads it.

        Args:
            file: where to; standard output by default. The colours need the
                package `rich`; without it, and in files, it is plain text.
        """
        out = sys.stdout if file is None else file
        out.write((_coloured(self, out) or str(self)) + "\n")

    def __str__(self) -> str:
        return _text(self)

    def __repr__(self) -> str:
        at_prompt = hasattr(sys, "ps1")
        return at_prompt and _coloured(self, sys.stdout) or str(self)

    def __rich__(self) -> Any:
        """The picture as a table of `rich`."""
        return _rich_table(self)

    def _repr_html_(self) -> str:
        """The picture as HTML, for notebooks."""
        return _html(self)

    def _cell(
        self, held: _Holdings, row: Range, column: Range
    ) -> list[list[Word]]:
        drawn = {self.row_dim: row, self.column_dim: column}
        lines = []
        for rest, parts in held.holders(drawn).items():
            words = [Word(f"{rest}  ")] if rest else []
            words += self._names(parts)
            lines += _wrapped(words)
        return lines

    def _names(self, parts: list[list[int]]) -> Iterator[Word]:
        """The devices of a cell: copies in brackets, parts of a sum between."""
        left = _MOST_DEVICES
        for i, copies in enumerate(parts):
            if left == 0:
                break
            if i > 0:
                yield Word(" + ")
            brackets = len(parts) > 1 and len(copies) > 1
            if brackets:
                yield Word("(")
            for j, device in enumerate(copies[:left]):
                if j > 0:
                    yield Word(", ")
                yield Word(self._devices[device], device)
            left -= len(copies[:left])
            if brackets:
                yield Word(")")
        more = sum(map(len, parts)) - _MOST_DEVICES
        if more > 0:
            yield Word(f" and {more} more")

    def _sign_notes(self, layout: Layout) -> Iterator[str]:
        words = {
            word.text
            for row in self.cells
            for cell in row
            for line in cell
            for word in line
        }
        if ", " in words:
            yield '"," stands between copies'
        if " + " in words:
            placed = zip(layout.mesh.axis_names, layout.placements, strict=True)
            axes = [axis for axis, p in placed if p.startswith("P")]
            yield (
                '"+" stands between parts of a sum over '
                f"{' and '.join(axes)} that is still to be formed"
            )


class _Holdings:
    """Which ranges of each dim each device holds."""

    def __init__(self, layout: Layout, shape: tuple[int, ...]) -> None:
        layout.shard_shape(shape)  # raises if the layout does not fit
        mesh = layout.mesh
        self.shape = shape
        places = list(itertools.product(*map(range, mesh.shape)))
        self.pieces = [_pieces(layout, shape, place) for place in places]
        partial = [
            i for i, p in enumerate(layout.placements) if p.startswith("P")
        ]
        # Devices with equal coordinates here hold the same part of the sum.
        self.parts = [tuple(place[i] for i in partial) for place in places]
        self._ranges = [self._cut(dim) for dim in range(len(shape))]

    def ranges(self, dim: int | None) -> list[Range]:
        """What the ends of all shards cut a dim into; one for no dim."""
        return [(0, 1)] if dim is None else self._ranges[dim]

    def most_cut_dims(self) -> list[int]:
        """At most two dims, in rising order."""
        dims = range(len(self.shape))
        order = sorted(dims, key=lambda d: (-len(self._ranges[d]), d))
        return sorted(order[:2])

    def is_empty(self, device: int) -> bool:
        return any(not pieces for pieces in self.pieces[device])

    def holders(
        self, drawn: dict[int | None, Range]
    ) -> dict[str, list[list[int]]]:
        """The devices that hold a cell.

        Returns:
            Text of the ranges of the dims that are not drawn ("" if none is
            cut) to the devices, grouped by the part of the sum they hold.
        """
        found: dict[str, dict[tuple[int, ...], list[int]]] = {}
        for device, pieces in enumerate(self.pieces):
            holds = all(
                _contains(pieces[dim], cell)
                for dim, cell in drawn.items()
                if dim is not None
            )
            if not holds or self.is_empty(device):
                continue
            rest = ", ".join(
                f"dim {dim} {_ranges_text(pieces[dim])}"
                for dim in range(len(self.shape))
                if dim not in drawn and len(self._ranges[dim]) > 1
            )
            parts = found.setdefault(rest, {})
            parts.setdefault(self.parts[device], []).append(device)
        return {rest: list(parts.values()) for rest, parts in found.items()}

    def _cut(self, dim: int) -> list[Range]:
        ends = {0, self.shape[dim]}
        for pieces in self.pieces:
            ends.update(itertools.chain.from_iterable(pieces[dim]))
        return list(itertools.pairwise(sorted(ends))) or [(0, 0)]


def _pieces(
    layout: Layout, shape: Sequence[int], place: Sequence[int]
) -> list[list[Range]]:
    """For each dim, the ranges that the device at `place` holds."""
    pieces = [[(0, size)] if size else [] for size in shape]
    for n, i, placement in zip(
        layout.mesh.shape, place, layout.placements, strict=True
    ):
        if not placement.startswith("S"):
            continue
        dim, _, block = placement[1:].partition("/")
        pieces[int(dim)] = _share(pieces[int(dim)], n, i, int(block or 0))
    return pieces


def _share(pieces: list[Range], n: int, i: int, block: int) -> list[Range]:
    """Share `i` of `n` of a row of ranges, as a placement cuts it."""
    length = sum(end - begin for begin, end in pieces)
    if block == 0:
        most = -(-length // n)
        return _window(pieces, i * most, (i + 1) * most)
    part = block // n
    shares = [
        _window(pieces, start + i * part, start + (i + 1) * part)
        for start in range(0, length, block)
    ]
    joined: list[Range] = []
    for begin, end in itertools.chain.from_iterable(shares):
        if joined and joined[-1][1] == begin:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return joined


def _window(pieces: list[Range], first: int, last: int) -> list[Range]:
    """Elements `first` to `last` of what a row of ranges holds."""
    found = []
    start = 0
    for begin, end in pieces:
        low, high = max(first - start, 0), min(last - start, end - begin)
        if low < high:
            found.append((begin + low, begin + high))
        start += end - begin
    return found


def _contains(pieces: list[Range], cell: Range) -> bool:
    return any(begin <= cell[0] and cell[1] <= end for begin, end in pieces)


def _wrapped(words: list[Word]) -> list[list[Word]]:
    """Lines with at most a few devices each."""
    lines: list[list[Word]] = [[]]
    devices = 0
    for word in words:
        if word.device is not None:
            if devices == _DEVICES_PER_LINE:
                lines.append([])
                devices = 0
            devices += 1
        lines[-1].append(word)
    return lines


# ------------------------------------------------------------------- words


def _title(
    layout: Layout, shape: Sequence[int], dtype: torch.dtype | None
) -> str:
    kind = "" if dtype is None else str(dtype).removeprefix("torch.")
    for long, short in _SHORT_DTYPES.items():
        if kind.startswith(long) and kind[len(long) :].isdigit():
            kind = short + kind[len(long) :]
    axes = " ".join(f"{a}={n}" for a, n in layout.mesh.axes.items())
    where = axes or layout.mesh.devices[0]
    return f"{kind}{list(shape)} {layout} on {where}"


def _size_notes(
    layout: Layout, shape: Sequence[int], dtype: torch.dtype | None
) -> Iterator[str]:
    shapes = {
        layout.shard_shape(shape, device) for device in range(layout.mesh.size)
    }
    largest = max(shapes, key=_num_elements)
    text = "each device holds" if len(shapes) == 1 else "a device holds at most"
    text += f" {list(largest)}"
    if dtype is not None:
        held = _bytes_text(_num_elements(largest) * dtype.itemsize)
        whole = _bytes_text(_num_elements(shape) * dtype.itemsize)
        text += f", {held} of {whole}"
    yield text


def _process_notes(layout: Layout) -> Iterator[str]:
    text = layout.mesh.processes_text()
    if text:
        yield text


def _crop_notes(dim: int | None, count: int) -> Iterator[str]:
    if count > _MOST_RANGES:
        yield f"dim {dim}: the first {_MOST_RANGES} of {count} ranges are drawn"


def _num_elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _bytes_text(num_bytes: int) -> str:
    size, unit = float(num_bytes), 0
    while size >= 1024 and unit + 1 < len(_UNITS):
        size, unit = size / 1024, unit + 1
    return f"{size:.4g} {_UNITS[unit]}"


def _range_text(dim: int | None, cell: Range) -> str:
    return "" if dim is None else f"{cell[0]}:{cell[1]}"


def _ranges_text(pieces: list[Range]) -> str:
    shown = " ".join(f"{begin}:{end}" for begin, end in pieces[:4])
    return shown + (" ..." if len(pieces) > 4 else "")


def _dim_text(dim: int | None) -> str:
    return "" if dim is None else f"dim {dim}"


def _colour(device: int) -> str:
    """The colour of a device, "#rrggbb": light, and unlike its neighbours'."""
    hue = device * 0.618034 % 1  # the golden section never comes back
    rgb = colorsys.hls_to_rgb(hue, 0.75, 0.7)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


# ----------------------------------------------------------------- drawing


def _text(picture: Picture) -> str:
    left = [_range_text(picture.row_dim, row) for row in picture.rows]
    head = [_range_text(picture.column_dim, c) for c in picture.columns]
    texts = [
        [["".join(w.text for w in line) for line in cell] for cell in row]
        for row in picture.cells
    ]
    widths = [
        max(len(line) for line in ["", *(x for row in texts for x in row[c])])
        for c in range(len(head))
    ]
    # A range that stands above its column is never longer than the column.
    widths = [max(w, len(h)) for w, h in zip(widths, head, strict=True)]
    margin = max(len(text) for text in [_dim_text(picture.row_dim), *left])
    gap = "  " if margin else ""
    rule = " " * margin + gap + "+" + "+".join("-" * (w + 2) for w in widths)
    lines = [picture.title]
    if picture.column_dim is not None:
        lines.append(" " * margin + gap + _dim_text(picture.column_dim))
        ranges = "".join(
            text.ljust(w + 3) for text, w in zip(head, widths, strict=True)
        )
        lines.append(_dim_text(picture.row_dim).ljust(margin) + gap + ranges)
    for label, row in zip(left, texts, strict=True):
        lines.append(rule + "+")
        for i in range(max(1, *map(len, row))):
            inside = " | ".join(
                (cell[i] if i < len(cell) else "").ljust(w)
                for cell, w in zip(row, widths, strict=True)
            )
            start = (label if i == 0 else "").ljust(margin) + gap
            lines.append(f"{start}| {inside} |")
    lines += [rule + "+", *picture.notes]
    return "\n".join(line.rstrip() for line in lines)


def _coloured(picture: Picture, out: TextIO) -> str | None:
    """The picture for a terminal; None if `out` is none, or without `rich`."""
    if not out.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    # A wider table than the terminal would be folded: text is clearer then.
    width = max(len(line) for line in _text(picture).splitlines()) + 4
    if Console(file=out).width < width:
        return None
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with console.capture() as capture:
        console.print(picture)
    return capture.get().rstrip("\n")


def _rich_table(picture: Picture) -> Any:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SQUARE,
        show_lines=True,
        show_header=picture.column_dim is not None,
    )
    if picture.row_dim is not None:
        table.add_column(f"{_dim_text(picture.row_dim)} ", style="dim")
    for i, column in enumerate(picture.columns):
        name = f"{_dim_text(picture.column_dim)}  " if i == 0 else ""
        table.add_column(
            Text(name + _range_text(picture.column_dim, column)), no_wrap=True
        )
    for row, cells in zip(picture.rows, picture.cells, strict=True):
        label = _range_text(picture.row_dim, row)
        texts = []
        for cell in cells:
            text = Text("\n").join(
                Text.assemble(*((w.text, _rich_style(w)) for w in line))
                for line in cell
            )
            texts.append(text)
        table.add_row(*([label] if picture.row_dim is not None else []), *texts)
    notes = Text("\n".join(picture.notes), style="dim")
    return Group(Text(picture.title, style="bold"), table, notes)


def _rich_style(word: Word) -> str:
    return "" if word.device is None else f"black on {_colour(word.device)}"


_CELL = "border:1px solid #888;padding:4px 8px;text-align:left"
_CHIP = "color:#000;border-radius:3px;padding:0 3px;background:"


def _html(picture: Picture) -> str:
    has_rows = picture.row_dim is not None
    lines = [
        '<div style="font-family:monospace;line-height:1.6">',
        f"<b>{html.escape(picture.title)}</b>",
        '<table style="border-collapse:collapse;margin:4px 0">',
    ]
    if picture.column_dim is not None:
        # The name of the dim stands above its first range.
        names = itertools.chain(
            [_dim_text(picture.column_dim)], itertools.repeat("")
        )
        corner = f"<th>{_dim_text(picture.row_dim)}</th>" if has_rows else ""
        lines.append(
            f"<tr>{corner}"
            + "".join(
                f'<th style="text-align:left">{name} {column[0]}:{column[1]}'
                "</th>"
                for name, column in zip(names, picture.columns, strict=False)
            )
            + "</tr>"
        )
    for row, cells in zip(picture.rows, picture.cells, strict=True):
        label = _range_text(picture.row_dim, row)
        lines.append(
            "<tr>"
            + (f"<th>{label}</th>" if has_rows else "")
            + "".join(
                f'<td style="{_CELL}">'
                + "<br>".join("".join(map(_html_word, line)) for line in cell)
                + "</td>"
                for cell in cells
            )
            + "</tr>"
        )
    lines.append("</table>")
    lines += [f"{html.escape(note)}<br>" for note in picture.notes]
    return "\n".join([*lines, "</div>"])


def _html_word(word: Word) -> str:
    text = html.escape(word.text)
    if word.device is None:
        return text
    return f'<span style="{_CHIP}{_colour(word.device)}">{text}</span>'
