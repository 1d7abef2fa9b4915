"""`tm.visualize` shows what the devices really hold, as text and as HTML."""

import html.parser
import io
import itertools
import math
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from placing import place

import torch_mesh as tm

SHAPE = st.lists(st.integers(0, 7), min_size=0, max_size=4)


@st.composite
def layouts(draw):
    """A shape, and a layout that fits it."""
    shape = tuple(draw(SHAPE))
    sizes = draw(
        st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(
            lambda sizes: math.prod(sizes) <= 16  # more are not all named
        )
    )
    mesh = tm.Mesh({f"axis{i}": n for i, n in enumerate(sizes)})
    known = ["R", "P+", *(f"S{dim}" for dim in range(len(shape)))]
    placements = [draw(st.sampled_from(known)) for _ in sizes]
    return shape, tm.Layout(mesh, placements)


def holders(picture, indices):
    """The devices that the picture shows for an element, by their numbers."""
    row, column = 0, 0
    if picture.row_dim is not None:
        row = place_of(indices[picture.row_dim], picture.rows)
    if picture.column_dim is not None:
        column = place_of(indices[picture.column_dim], picture.columns)
    found = set()
    names = True
    for line in picture.cells[row][column]:
        # "dim 2 0:4  cpu:0" names devices that hold a range of another dim.
        if line[0].text.startswith("dim"):
            cut = re.findall(r"dim (\d+) ((?:\d+:\d+ ?)+)", line[0].text)
            names = all(
                any(
                    int(begin) <= indices[int(dim)] < int(end)
                    for begin, end in re.findall(r"(\d+):(\d+)", ranges)
                )
                for dim, ranges in cut
            )
        if names:
            found |= {w.device for w in line if w.device is not None}
    return found


def place_of(index, ranges):
    return next(i for i, (a, b) in enumerate(ranges) if a <= index < b)


def truth(layout, shape):
    """Element to the devices that hold it, from the shards themselves."""
    placements = ["R" if p == "P+" else p for p in layout.placements]
    count = torch.Size(shape).numel()
    numbers = torch.arange(count).reshape(shape)
    shards = tm.shards(tm.distribute(numbers, layout.mesh, placements))
    found = {}
    for device, shard in enumerate(shards):
        for element in shard.flatten().tolist():
            found.setdefault(element, set()).add(device)
    return found


@settings(max_examples=150, deadline=None)
@given(layouts())
def test_a_cell_names_the_devices_that_hold_its_elements(drawn):
    shape, layout = drawn
    picture = layout.picture(shape)
    expected = truth(layout, shape)
    for element, indices in enumerate(itertools.product(*map(range, shape))):
        assert holders(picture, indices) == expected[element], str(picture)


@pytest.mark.parametrize("placements", [("S0/4", "R"), ("S0/4", "S0/2")])
def test_blocks_are_drawn_where_they_lie(placements):
    layout = tm.Layout(tm.Mesh({"data": 2, "model": 2}), placements)
    picture = layout.picture((8, 2))
    merged = tm.Mesh({"data": 2, "model": 2})
    x = tm.distribute(torch.arange(16).reshape(8, 2), merged, placements)
    expected = {}
    for device, shard in enumerate(tm.shards(x)):
        for element in shard.flatten().tolist():
            expected.setdefault(element, set()).add(device)
    for element, indices in enumerate(itertools.product(range(8), range(2))):
        assert holders(picture, indices) == expected[element]


def test_text_of_rows_and_columns(mesh):
    x = tm.distribute(torch.zeros(5, 8), mesh, ("S0", "S1"))
    assert (
        str(tm.visualize(x))
        == """\
f32[5, 8] (S0, S1) on data=2 model=2
       dim 1
dim 0  0:4     4:8
       +-------+-------+
0:3    | cpu:0 | cpu:1 |
       +-------+-------+
3:5    | cpu:2 | cpu:3 |
       +-------+-------+
a device holds at most [3, 4], 48 B of 160 B"""
    )


def test_replicas_share_a_cell(mesh):
    picture = tm.Layout(mesh, ("R", "S0")).picture((4,))
    assert "| cpu:0, cpu:2 | cpu:1, cpu:3 |" in str(picture)
    assert picture.notes[-1] == '"," stands between copies'


def test_parts_of_a_sum_have_a_plus_between_them(mesh):
    x = place(torch.ones(4, 2), mesh, ("P+", "R"))
    text = str(tm.visualize(x))
    assert "(cpu:0, cpu:1) + (cpu:2, cpu:3)" in text
    assert "parts of a sum over data that is still to be formed" in text


def test_a_device_without_elements_is_named(line):
    picture = tm.Layout(line, ("S0",)).picture((2,))
    assert "empty: cpu:2" in picture.notes
    assert "cpu:2" not in str(picture).partition("empty")[0]


def test_a_tensor_without_elements_is_held_by_nobody(mesh):
    picture = tm.Layout(mesh, ("S0", "R")).picture((0, 3))
    assert picture.cells == [[[]]]
    assert "empty: cpu:0, cpu:1, cpu:2, cpu:3" in picture.notes


def test_a_number_is_one_cell(line):
    x = tm.distribute(torch.tensor(3.0), line, ("R",))
    assert "| cpu:0, cpu:1, cpu:2 |" in str(tm.visualize(x))


def test_the_two_dims_that_are_cut_most_are_drawn():
    mesh = tm.Mesh({"a": 3, "b": 2, "c": 3})
    picture = tm.Layout(mesh, ("S3", "S0", "S1")).picture((4, 6, 5, 9))
    assert (picture.row_dim, picture.column_dim) == (1, 3)
    assert "dim 0 0:2  cpu:0" in str(picture)


def test_a_long_dim_is_cropped_and_the_picture_says_so():
    picture = tm.Layout(tm.Mesh({"data": 40}), ("S0",)).picture((40,))
    assert len(picture.columns) == 16
    note = "dim 0: the first 16 of 40 ranges are drawn"
    assert note in picture.notes


def test_many_copies_are_counted():
    picture = tm.Layout(tm.Mesh({"data": 40}), ("R",)).picture((4,))
    assert "cpu:15 and 24 more" in str(picture)


def test_a_tensor_of_no_mesh_stands_on_one_device():
    assert "f32[3] () on cpu:0" in str(tm.visualize(torch.ones(3).to("mesh")))


def test_a_picture_moves_nothing(mesh):
    x = place(torch.ones(4, 2), mesh, ("P+", "R"))
    with tm.counting() as counts:
        str(tm.visualize(x))
    assert (counts.ops, counts.collectives) == (0, {})
    assert str(tm.layout(x)) == "(P+, R)"


def test_a_plain_tensor_is_refused():
    with pytest.raises(ValueError, match="not-global"):
        tm.visualize(torch.ones(2))


class Table(html.parser.HTMLParser):
    """The cells of HTML, and the colour under each word in a span."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.colours, self.open = [], {}, []
        self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag == "br":
            return
        self.open.append(tag)
        self.style = dict(attributes).get("style", "")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if self.open[-1:] == ["span"]:
            colour = re.search(r"background:(#\w{6})", self.style)[1]
            self.colours.setdefault(data, set()).add(colour)


def test_html_has_the_same_cells_as_the_text(mesh):
    x = place(torch.ones(5, 8), mesh, ("P+", "S1"))
    table = Table(tm.visualize(x)._repr_html_())
    assert table.open == []
    assert table.rows == [
        ["dim 0", "dim 1 0:4", " 4:8"],
        ["0:5", "cpu:0 + cpu:2", "cpu:1 + cpu:3"],
    ]


def test_each_device_has_one_colour_of_its_own():
    layout = tm.Layout(tm.Mesh({"data": 4, "model": 4}), ("S0", "R"))
    table = Table(layout.picture((4, 2))._repr_html_())
    assert len(table.colours) == 16
    assert all(len(colours) == 1 for colours in table.colours.values())
    assert len(set.union(*table.colours.values())) == 16


def test_html_escapes_nothing_away(mesh):
    x = place(torch.ones(4), mesh, ("P+", "R"))
    shown = tm.visualize(x)._repr_html_()
    assert "&quot;+&quot; stands between parts of a sum" in shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_colours(mesh, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    picture = tm.Layout(mesh, ("S0", "S1")).picture((4, 4))
    out = Terminal()
    picture.show(out)
    plain = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    assert plain != out.getvalue()
    cells = re.findall(r"cpu:\d", plain)
    assert cells == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]


def test_a_narrow_terminal_and_a_file_get_text(mesh, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    picture = tm.Layout(mesh, ("S0", "S1")).picture((4, 4))
    for out in (Terminal(), io.StringIO()):
        picture.show(out)
        assert out.getvalue() == f"{picture}\n"


def test_without_rich_there_is_text():
    program = """
import io, sys
sys.modules["rich"] = None
import torch_mesh as tm
class Terminal(io.StringIO):
    def isatty(self):
        return True
out = Terminal()
picture = tm.Layout(tm.Mesh({"data": 2}), ("S0",)).picture((4,))
picture.show(out)
assert out.getvalue() == f"{picture}\\n", out.getvalue()
assert "cpu:1" in out.getvalue()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
