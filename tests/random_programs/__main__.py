"""`python -m tests.random_programs --count 1000 --first 0 --jobs 2`.

With `--processes 2` each mesh is of the devices of two processes.
"""

import argparse
import collections
import concurrent.futures
import functools
import multiprocessing
import os
import sys

from tests.random_programs import teams
from tests.random_programs.program import check_many

CHUNK = 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--transport", default="", choices=["", "c10d"])
    options = parser.parse_args()
    last = options.first + options.count
    chunks = [
        (first, min(CHUNK, last - first))
        for first in range(options.first, last, CHUNK)
    ]
    differ = []
    for found in run(chunks, options):
        for seed, text in found:
            print(f"--- seed {seed}\n{text}\n", flush=True)
        differ += found
    kinds = collections.Counter(
        text.splitlines()[0][:120] for _, text in differ
    )
    for kind, number in kinds.most_common():
        print(f"{number:6}  {kind}")
    print(
        f"seeds {options.first} to {last - 1}: {options.count - len(differ)}"
        f" right, {len(differ)} differ"
    )
    return bool(differ)


def run(chunks, options):
    """What is found in each chunk, in order."""
    if options.processes > 1:
        check = functools.partial(
            teams.check_many,
            num_processes=options.processes,
            transport=options.transport,
        )
        jobs = max(1, options.jobs // options.processes)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(check, *zip(*chunks, strict=True))
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        options.jobs, mp_context=context
    ) as pool:
        yield from pool.map(check_many, *zip(*chunks, strict=True))


if __name__ == "__main__":
    sys.exit(main())
