"""`python -m tests.faults --trials 160 --first 0 --launcher hand`."""

import argparse
import collections
import concurrent.futures
import os
import queue
import sys

from tests.faults import divergent, failures, packets, restarts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=160)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--launcher",
        choices=["hand", "torchrun"],
        default="hand",
        help="who starts the processes that fail",
    )
    parser.add_argument(
        "--what",
        choices=["failures", "divergent", "packets"],
        default="failures",
    )
    options = parser.parse_args()
    if options.what == "packets":
        return packets.main(options.trials, options.first)
    if options.launcher == "torchrun" and options.what == "failures":
        restarts.reference()
    before = set(os.listdir("/dev/shm"))
    seeds = range(options.first, options.first + options.trials)
    rows = collections.defaultdict(Row)
    with (
        Servers(options) as run,
        concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
    ):
        for seed, (kind, wrong, seconds) in zip(
            seeds, pool.map(run, seeds), strict=True
        ):
            rows[kind].add(wrong, seconds)
            if wrong:
                print(f"--- {seed}: {wrong}\n", flush=True)
    left = {n for n in os.listdir("/dev/shm") if "torch_mesh" in n} - before
    print_table(rows)
    if left:
        print(f"left in /dev/shm: {sorted(left)}")
    return bool(left) or any(row.right < row.trials for row in rows.values())


class Row:
    """Of the table: the trials of one kind."""

    def __init__(self):
        self.trials = self.right = 0
        self.slowest = None

    def add(self, wrong, seconds):
        self.trials += 1
        self.right += not wrong
        if seconds is not None:
            self.slowest = max(seconds, self.slowest or 0.0)


class Servers:
    """Runs trials, each with a server of its own while it lasts."""

    def __init__(self, options):
        self.options = options
        self.free = queue.SimpleQueue()
        self.all = []

    def __enter__(self):
        if self.options.launcher == "hand" or self.options.what == "divergent":
            self.all = [failures.Server() for _ in range(self.options.jobs)]
        for server in self.all:
            self.free.put(server)
        return self.run

    def __exit__(self, *error):
        for server in self.all:
            server.close()

    def run(self, seed):
        """Kind of a trial, what is wrong with it, and its seconds."""
        if not self.all:
            trial = failures.trial_of(seed)
            return trial.kind, *restarts.run(trial)
        server = self.free.get()
        try:
            if self.options.what == "divergent":
                return divergent.run(server, seed)
            trial = failures.trial_of(seed)
            wrong, seconds = failures.run_by_hand(server, trial)
            return trial.kind, wrong and f"{trial}: {wrong}", seconds
        finally:
            self.free.put(server)


def print_table(rows):
    print(f"{'kind':14} {'trials':>6} {'right':>6} {'slowest, s':>11}")
    rows = dict(rows)
    for kind, row in rows.items():
        slowest = "" if row.slowest is None else f"{row.slowest:.1f}"
        print(f"{kind:14} {row.trials:6} {row.right:6} {slowest:>11}")
    trials = sum(row.trials for row in rows.values())
    right = sum(row.right for row in rows.values())
    print(f"{'all':14} {trials:6} {right:6}")


if __name__ == "__main__":
    sys.exit(main())
