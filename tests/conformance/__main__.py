"""The command: `python -m tests.conformance --help`."""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from tests.conformance import SUITES, planted, table
from tests.conformance.pool import Job, run_jobs, units_of
from tests.conformance.record import Options
from tests.conformance.store import Store


def arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--suite", nargs="+", default=SUITES, choices=SUITES)
    parser.add_argument("--mesh", nargs="+", default=["2", "3", "2x2"])
    parser.add_argument(
        "--memories",
        type=int,
        nargs="+",
        default=[],
        help="one for each cpu:<i>, as 0 0 1 1; each case asks whether the "
        "bytes that are counted are those that move, in place of the values",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="that have the devices of each mesh between them",
    )
    parser.add_argument(
        "--transport",
        choices=("shared_memory", "c10d"),
        default="shared_memory",
        help="how they talk",
    )
    parser.add_argument("--only", help="units that this expression finds")
    parser.add_argument("--full", action="store_true", help="every sample")
    parser.add_argument("--quick", action="store_true", help="fewer layouts")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--part", help="i/n: every n-th unit, from the i-th")
    parser.add_argument(
        "--plant",
        choices=("all", *planted.SUITES),
        help="an error to put into each result: is it found?",
    )
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--json", type=Path, help="write every failure there")
    parser.add_argument(
        "--store",
        type=Path,
        help="keep units there as they end; those that were all right in an "
        "earlier run with the same options are not run again",
    )
    parser.add_argument("--show", type=int, default=3, help="failures a unit")
    return parser.parse_args()


def main():
    args = arguments()
    if args.plant:
        return plant(args)
    start = time.monotonic()
    result = run(args, args.suite)
    seconds = time.monotonic() - start
    if args.json:
        args.json.write_text(
            json.dumps([vars(o) for o in result.outcomes], indent=0)
        )
    print(table.as_text(result))
    for why, n in result.reasons()[:20]:
        print(f"skipped {n}: {why}")
    print("open:", *(f"{unit} ({n})" for unit, n in result.open_units()))
    failures = result.failures
    print(
        f"{sum(result.units.values())} units in {seconds:.0f} s: "
        f"{sum(result.right.values())} cases right, {len(failures)} not, in "
        f"{len(result.failing_units())} units"
    )
    if args.markdown:
        command = "make conformance-full" if args.full else "make conformance"
        args.markdown.write_text(table.as_markdown(result, command))
    return 1 if failures else 0


def run(args, suites, plant=None):
    """Runs suites as the command says; the table of what came of it."""
    options = Options(
        meshes=tuple(args.mesh),
        full=args.full,
        samples=args.samples,
        quick=args.quick,
        plant=plant,
        memories=tuple(args.memories),
        processes=args.processes,
        transport=args.transport,
    )
    result = table.Table()
    jobs = jobs_of(suites, options, args.only, args.part)
    store = Store(args.store, options) if args.store else None
    if store:
        found, jobs = store.split(jobs)
        for done in found:
            result.add(done)
    for done in run_jobs(jobs, options, workers=args.jobs):
        result.add(done)
        report(done, 0 if plant else args.show)
        if store:
            store.keep(done)
    if store:
        result.commits = store.commits
    return result


def plant(args):
    """Runs suites with errors planted: 0 if they see 99 % of each kind."""
    names = list(planted.SUITES) if args.plant == "all" else [args.plant]
    all_found = []
    for name in names:
        suites = planted.SUITES[name] if args.plant == "all" else args.suite
        all_found.append(planted.of(run(args, suites, name), name))
        print(planted.as_text(all_found[-1]), flush=True)
    if args.markdown:
        args.markdown.write_text(planted.as_markdown(all_found))
    return 0 if all(f.share >= planted.LEAST for f in all_found) else 1


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


def report(done, show):
    failures = [o for o in done.outcomes if o.is_failure]
    for outcome in failures[:show]:
        print(f"{outcome.kind:6} {outcome.name}: {outcome.text}", flush=True)
    if len(failures) > show > 0:
        print(f"       and {len(failures) - show} more of {done.job.unit}")


if __name__ == "__main__":
    sys.exit(main())
