"""What the installed package adds to the time of `import torch`.

torch loads the entry points of the group `torch.backends` as the last step of
its import. Three kinds of process take turns:

- with: as installed;
- without: the same, but the list of entry points that torch reads lacks ours;
- off: TORCH_DEVICE_BACKEND_AUTOLOAD=0, so torch does not even read the list.

"with" over "without" is what the package costs; torch reads the list whoever
is installed. Within "with" the package's own step is timed too, free of the
scatter of all the rest.

Run: python benchmarks/import_time.py [--rounds 20]
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys

TARGET_MS = 2.0
KINDS = ("with", "without", "off")

PROGRAM = """
import importlib.metadata, json, sys, time
spent = {"list": 0.0, "ours": 0.0}
find = importlib.metadata.entry_points
load = importlib.metadata.EntryPoint.load

def timed(name, function):
    def call(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start
    return call

def is_ours(entry):
    return entry.value.partition(":")[0] == "torch_mesh_autoload"

def find_all(**group):
    found = timed("list", find)(**group)
    return [e for e in found if KIND == "with" or not is_ours(e)]

def load_any(entry):
    if not is_ours(entry):
        return load(entry)
    return timed("ours", timed("ours", load)(entry))

importlib.metadata.entry_points = find_all
importlib.metadata.EntryPoint.load = load_any
wall, cpu = time.perf_counter(), time.process_time()
import torch
print(json.dumps({
    "wall": (time.perf_counter() - wall) * 1e3,
    "cpu": (time.process_time() - cpu) * 1e3,
    **{name: seconds * 1e3 for name, seconds in spent.items()},
    "loaded": "torch_mesh_autoload" in sys.modules,
}))
"""


def import_torch(kind):
    """Returns milliseconds of `import torch` in a new process."""
    environment = dict(
        os.environ, TORCH_DEVICE_BACKEND_AUTOLOAD="0" if kind == "off" else "1"
    )
    out = subprocess.run(
        [sys.executable, "-c", f"KIND = {kind!r}\n{PROGRAM}"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(out)


def measure(num_rounds):
    """Returns {kind: answers}; the rounds go through all orders."""
    answers = {kind: [] for kind in KINDS}
    import_torch("with")  # fills the disk cache and __pycache__
    orders = itertools.cycle(itertools.permutations(KINDS))
    for order in itertools.islice(orders, num_rounds):
        for kind in order:
            answers[kind].append(import_torch(kind))
    return answers


def differences(answers, kind, clock):
    """Returns the quartiles of "with" less `kind` within a round."""
    pairs = zip(answers["with"], answers[kind], strict=True)
    return statistics.quantiles([a[clock] - b[clock] for a, b in pairs], n=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    answers = measure(parser.parse_args().rounds)
    if not all(answer["loaded"] for answer in answers["with"]):
        sys.exit(
            "import_time.py: torch does not load torch_mesh_autoload.\n"
            "Hint: install the package; an entry point is what is measured."
        )
    print(f"import torch, median of {len(answers['with'])} rounds, in ms")
    print(f"{'':34}{'wall':>9}{'processor':>11}")
    for kind in KINDS:
        wall, cpu = (
            statistics.median(answer[clock] for answer in answers[kind])
            for clock in ("wall", "cpu")
        )
        print(f"  {kind:32}{wall:9.1f}{cpu:11.1f}")
    for kind in KINDS[1:]:
        low, wall, high = differences(answers, kind, "wall")
        _, cpu, _ = differences(answers, kind, "cpu")
        print(
            f"  with less {kind:22}{wall:9.2f}{cpu:11.2f}"
            f"   (wall: half within {low:.1f} to {high:.1f})"
        )
    for name, label in (("ours", "the package's step"), ("list", "the list")):
        value = statistics.median(a[name] for a in answers["with"])
        print(f"  {label:32}{value:9.2f}")
    print(f"The package's step, and with less without: aim {TARGET_MS:g} ms.")


if __name__ == "__main__":
    main()
