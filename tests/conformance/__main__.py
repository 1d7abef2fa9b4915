"""The command: `python -m tests.conformance --help`."""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from tests.conformance import SUITES, table
from tests.conformance.pool import Job, run_jobs, units_of
from tests.conformance.record import SKIPPED, WRONG, Options


def arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--suite", nargs="+", default=SUITES, choices=SUITES)
    parser.add_argument("--mesh", nargs="+", default=["2", "3", "2x2"])
    parser.add_argument("--only", help="units that this expression finds")
    parser.add_argument("--full", action="store_true", help="every sample")
    parser.add_argument("--quick", action="store_true", help="fewer layouts")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--part", help="i/n: every n-th unit, from the i-th")
    parser.add_argument(
        "--plant",
        choices=("scaled", "lost_write", "doubled_gradient", "swapped"),
        help="an error to put into each result: is it found?",
    )
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--json", type=Path, help="write every failure there")
    parser.add_argument("--show", type=int, default=3, help="failures a unit")
    return parser.parse_args()


def main():
    args = arguments()
    options = Options(
        meshes=tuple(args.mesh),
        full=args.full,
        samples=args.samples,
        quick=args.quick,
        plant=args.plant,
    )
    start = time.monotonic()
    if args.plant:
        args.show = 0
    jobs = jobs_of(args.suite, options, args.only, args.part)
    result = table.Table()
    for done in run_jobs(jobs, options, workers=args.jobs):
        result.add(done)
        report(done, args.show)
    seconds = time.monotonic() - start
    if args.json:
        args.json.write_text(
            json.dumps([vars(o) for o in result.outcomes], indent=0)
        )
    if args.plant:
        return report_plant(result, args.plant)
    print(table.as_text(result))
    for why, n in result.reasons()[:20]:
        print(f"skipped {n}: {why}")
    failures = result.failures
    print(
        f"{len(jobs)} units in {seconds:.0f} s: {sum(result.right.values())} "
        f"cases right, {len(failures)} not, in "
        f"{len(result.failing_units())} units"
    )
    if args.markdown:
        command = "make conformance-full" if args.full else "make conformance"
        args.markdown.write_text(table.as_markdown(result, command))
    return 1 if failures else 0


def jobs_of(suites, options, only=None, part=None):
    """The units of the suites that the command asks for."""
    jobs = [
        Job(suite, unit)
        for suite, unit in units_of(suites, options)
        if only is None or re.search(only, unit)
    ]
    if part:
        i, n = map(int, part.split("/"))
        jobs = jobs[i::n]
    return jobs


def report_plant(result, name):
    """How many units' planted errors were seen; the others by name."""
    caught, missed, nothing = [], [], []
    for unit, (right, outcomes) in sorted(result.by_unit().items()):
        if any(o.kind == WRONG for o in outcomes):
            caught.append(unit)
        elif right:
            missed.append(unit)
        else:
            nothing.append(unit)
    for unit in missed:
        print(f"missed: {unit}")
    for unit in nothing:
        print(f"nothing to plant: {unit}")
    applicable = len(caught) + len(missed)
    share = 100 * len(caught) / max(applicable, 1)
    print(
        f"{name}: caught in {share:.1f} % of {applicable} units; in "
        f"{len(nothing)} the error changes nothing"
    )
    return 0 if share >= 99 else 1


def report(done, show):
    failures = [o for o in done.outcomes if o.kind != SKIPPED]
    for outcome in failures[:show]:
        print(f"{outcome.kind:6} {outcome.name}: {outcome.text}", flush=True)
    if len(failures) > show > 0:
        print(f"       and {len(failures) - show} more of {done.job.unit}")


if __name__ == "__main__":
    sys.exit(main())
