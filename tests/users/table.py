"""The table: a row for each program, and what it is held to."""

import concurrent.futures
import dataclasses
import multiprocessing
import statistics
import textwrap
import traceback

import torch

from .measure import WARM_UP, differences, distance, run
from .place import Place
from .registry import PROGRAMS

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
LARGE_STEP = 0.020  # seconds; from here on the ratio is held to its limit
HALF = 2.0**-8  # a rounding of bfloat16, for losses under autocast
RATIO = 1.5
NUDGES = 60  # a kink may be met by one in ten
REPLICATED = 10

# Why no rule can exist for an op that runs on replicas.
REASONS = {
    "nonzero": "the size of the result depends on the values",
    "masked_select": "the size of the result depends on the values",
    "_unique2": "the size of the result depends on the values",
    "multinomial": "its random numbers are drawn for the whole tensor in order",
    "equal": "its result is a Python bool, for which all have to wait",
}

HEAD = (
    f"{'program':24}{'plain ms':>9}{'data':>7}{'tensor':>7}"
    f"{'f32 loss':>9}{'weight':>9}{'f64 loss':>9}{'weight':>9}  on replicas"
)


@dataclasses.dataclass
class Row:
    """What was measured of a program; a number is None where it was not."""

    name: str
    family: str
    plain: float | None = None
    ratios: dict = dataclasses.field(default_factory=dict)
    # dtype -> (largest difference of results, of weights)
    errors: dict = dataclasses.field(default_factory=dict)
    replicated: set = dataclasses.field(default_factory=set)
    rounded: bool = False  # held to plain's own distance from float64
    failures: list = dataclasses.field(default_factory=list)

    def text(self):
        ratios = [number(self.ratios.get(m), "7.2f") for m in MESH_MODES]
        errors = [
            number(value, "9.0e")
            for dtype in TOLERANCE
            for value in self.errors.get(dtype, (None, None))[:2]
        ]
        if self.rounded:
            errors[1] = f"{errors[1].strip() + '*':>9}"
        plain = number(self.plain and 1e3 * self.plain, "9.1f")
        ops = " ".join(sorted(self.replicated))
        lines = [f"{self.name:24}{plain}{''.join(ratios + errors)}  {ops}"]
        return "\n".join(
            lines + [f"    {failure}" for failure in self.failures]
        )


MESH_MODES = ("data", "tensor")


def number(value, how):
    """The number so written, or a dash."""
    width = how.split(".")[0]
    return f"{'-':>{width}}" if value is None else f"{value:{how}}"


def measured_apart(program, *, quick=False):
    """`measured` in a process of its own, so that one crash is one row."""
    try:
        return apart(measured_by_name, program.name, quick)
    except concurrent.futures.process.BrokenProcessPool:
        crashed = "the process ended by a signal"
        return Row(program.name, program.family, failures=[crashed])


def apart(function, *args):
    """What a function gives in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("fork")
    ) as pool:
        return pool.submit(function, *args).result()


def measured_by_name(name, quick):
    return measured(PROGRAMS[name], quick=quick)


def measured(program, *, quick=False):
    """The row of a program.

    Values in float32, in float64 with the small sizes, then times: the runs in
    float32 are the first half of those, as many again the second.
    """
    row = Row(program.name, program.family)
    times = {}
    for dtype in [torch.float32] + [torch.float64] * program.float64:
        small = quick or dtype == torch.float64
        try:
            runs = compare(program, dtype, small, row)
        except Exception as error:
            row.failures.append(f"{name_of(dtype)} plain: {short(error)}")
            continue
        if dtype == torch.float32:
            times = runs
    if quick or len(times) < 1 + len(program.modes):
        return row
    again = {m: run(program, Place(m)).seconds for m in times}
    seconds = {
        m: statistics.median(times[m][WARM_UP:] + again[m][WARM_UP:])
        for m in times
    }
    row.plain = seconds["plain"]
    row.ratios = {m: seconds[m] / row.plain for m in program.modes}
    return row


def compare(program, dtype, small, row):
    """Enters differences into the row; gives the seconds of steps by mode."""
    expected = run(program, Place("plain", dtype, small))
    times = {"plain": expected.seconds}
    worst = (0.0, 0.0)
    for mode in program.modes:
        try:
            actual = run(program, Place(mode, dtype, small))
            of_results, of_weights, name = differences(actual, expected, dtype)
        except Exception as error:
            row.failures.append(f"{name_of(dtype)} {mode}: {short(error)}")
            continue
        times[mode] = actual.seconds
        row.replicated |= {plain_name(op) for op in actual.replicated}
        limit = TOLERANCE[dtype]
        of_losses = HALF if program.half else limit
        fits = of_results <= of_losses and of_weights <= limit
        if not fits and dtype == torch.float32:
            fits = as_near(program, small, actual, expected)
            row.rounded |= fits
        if not fits:
            row.failures.append(
                f"{name_of(dtype)} {mode}: results differ by {of_results:.0e},"
                f" weight {name} by {of_weights:.0e}"
            )
        worst = (max(worst[0], of_results), max(worst[1], of_weights))
    row.errors[dtype] = worst
    return times


def as_near(program, small, actual, expected):
    """Whether the mesh is as near to float64 as plain float32 is.

    Where sums in another order put a value on the other side of a kink (a ReLU,
    a maximum), float32 gives another gradient. A run in float64 with the
    numbers of float32 tells whether plain torch is off it as far: itself, or
    where its weights begin one rounding beside.
    """
    if not program.float64:
        return False
    exact = run(
        program, Place("plain", torch.float64, small, drawn=torch.float32)
    )
    of_mesh = distance(actual, exact)

    def is_off_as_far(run_of_plain):
        of_plain = distance(run_of_plain, exact)
        return all(m <= 2 * p for m, p in zip(of_mesh, of_plain, strict=True))

    return is_off_as_far(expected) or any(
        is_off_as_far(run(program, Place("plain", small=small), nudge=nudge))
        for nudge in range(NUDGES)
    )


def plain_name(op):
    """The op without its library and overload."""
    return op.removeprefix("aten::").split(".")[0]


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def short(error):
    """Type, first line, and where in the program it was raised."""
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if "/tests/users/programs/" in frame.filename:
            where = f" at line {frame.lineno}: {frame.line}"
    first = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {first}{where}"


def problems(rows):
    """What the rows fall short in, a line each."""
    found = [f"{row.name}: {row.failures[0]}" for row in rows if row.failures]
    for row in rows:
        if row.plain and row.plain >= LARGE_STEP:
            found += [
                f"{row.name}: {mode} takes {ratio:.2f} x plain"
                for mode, ratio in row.ratios.items()
                if ratio > RATIO
            ]
    replicated = set().union(*(row.replicated for row in rows))
    found += [
        f"{op} runs on replicas, and no reason is given"
        for op in sorted(replicated - REASONS.keys())
    ]
    if len(replicated) > REPLICATED:
        found.append(f"{len(replicated)} distinct ops run on replicas")
    return found


def summary(rows):
    large = sum((row.plain or 0) >= LARGE_STEP for row in rows)
    wrong = sum(bool(row.failures) for row in rows)
    replicated = set().union(*(row.replicated for row in rows))
    return (
        f"{len(rows)} programs, {wrong} with a difference or an error;"
        f" {large} have a plain step of {1e3 * LARGE_STEP:.0f} ms or more;"
        f" {len(replicated)} distinct ops run on replicas."
    )


def page(rows):
    """docs/users.md."""
    lines = [INTRODUCTION, summary(rows), ""]
    lines += [
        "| program | family | plain ms | data | tensor | f32 losses"
        " | f32 weights | f64 losses | f64 weights | on replicas |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.family, row.name)):
        cells = [row.name, row.family]
        cells.append(number(row.plain and 1e3 * row.plain, ".1f").strip())
        cells += [number(row.ratios.get(m), ".2f").strip() for m in MESH_MODES]
        cells += [
            number(value, ".0e").strip()
            for dtype in TOLERANCE
            for value in row.errors.get(dtype, (None, None))[:2]
        ]
        if row.rounded:
            cells[6] += "*"
        cells.append(", ".join(f"`{op}`" for op in sorted(row.replicated)))
        lines.append("| " + " | ".join(cells) + " |")
    found = problems(rows)
    if found:
        lines += ["", "## What falls short", ""]
        lines += [f"- {line}".replace("|", "\\|") for line in found]
    missing = sorted(PROGRAMS.keys() - {row.name for row in rows})
    if missing:
        lines += ["", "## Not measured", ""]
        lines.append("The run that wrote this page left out these programs:")
        lines += textwrap.wrap(", ".join(missing) + ".", 79)
    replicated = sorted(set().union(*(row.replicated for row in rows)))
    if replicated:
        lines += ["", "## Ops on replicas", ""]
        lines += [
            f"- `{op}`: {REASONS.get(op, 'a rule is still missing')}"
            for op in replicated
        ]
    return "\n".join(lines) + "\n"


INTRODUCTION = """# Programs in the manner of users

`make users` writes this page. Each program of `tests/users/programs` is written
once and run three ways: on plain torch, data parallel (`data=4`, batches split)
and tensor parallel (`data=2 model=2`, weights split too). Five steps each, on
synthetic data, one thread; float64 with the small sizes of the tests. *plain
ms* is the CPU time of a step, the median of those after the first two, runs
taken in turn; *data* and *tensor* are what the mesh takes of it. A file of rows
(`--rows`) is gone on with: they may be of several runs. The
differences are the largest of all losses and of all weights, each as a part of
its own scale: they are held to 1e-4 in float32 and
to 1e-10 in float64. A layer's weight and bias have one scale. Programs under
autocast have no float64 form, and their losses are held to one rounding of
bfloat16 (2**-8). At a star float32 is further off, and plain float32 is as far
from a run in float64 with the same numbers, by itself or with weights that
begin one rounding beside: sums in another order put a value on the other side
of a kink (a ReLU, a maximum), and the gradient is another.

`python -m tests.users --parity` (or with names of programs) runs two steps of
each at its small size under what `torch_mesh.check_parity` compares with: each
op of the mesh beside plain torch's answer to it, then all that is left behind.
It has to raise no alarm.
"""
