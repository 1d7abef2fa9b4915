"""Runs the programs and prints their table.

python -m tests.users                        all of them
python -m tests.users mnist keras_lstm       some
python -m tests.users --markdown docs/users.md
python -m tests.users --quick                small sizes, no times
python -m tests.users --parity mnist         each op beside plain torch's
"""

import argparse
import os
import pathlib
import pickle
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TORCH_MESH_CPU_DEVICES", "4")

import torch

from . import parity, table
from .programs import load
from .registry import PROGRAMS


def read(path):
    """The rows that an earlier run left in a file."""
    rows = []
    if path.exists():
        with path.open("rb") as file:
            while file.peek(1):
                rows.append(pickle.load(file))
    return rows


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.users")
    parser.add_argument("names", nargs="*", help="programs, or families")
    parser.add_argument("--markdown", type=pathlib.Path, help="a page to write")
    parser.add_argument("--quick", action="store_true", help="small, no times")
    parser.add_argument(
        "--rows",
        type=pathlib.Path,
        help="a file of rows: kept, and gone on with",
    )
    parser.add_argument(
        "--parity", action="store_true", help="check_parity at small sizes"
    )
    parser.add_argument("--list", action="store_true", help="names alone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    load()
    chosen = [
        program
        for program in PROGRAMS.values()
        if not options.names
        or {program.name, program.family} & {*options.names}
    ]
    if options.list:
        print(*(f"{p.family:12} {p.name}" for p in chosen), sep="\n")
        return 0
    if options.parity:
        return 1 if parity.report(chosen) else 0
    print(table.HEAD, flush=True)
    rows = [] if not options.rows else read(options.rows)
    known = {row.name for row in rows}
    for program in chosen:
        if program.name in known:
            continue
        row = table.measured_apart(program, quick=options.quick)
        rows.append(row)
        print(row.text(), flush=True)
        if options.rows:
            with options.rows.open("ab") as file:
                pickle.dump(row, file)
    problems = table.problems(rows)
    print(table.summary(rows), *problems, sep="\n")
    if options.markdown:
        options.markdown.write_text(table.page(rows))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
