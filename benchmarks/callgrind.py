"""Instructions per call of a mesh's ops, counted by valgrind's callgrind.

The calls of dispatch.py: f32[8, 16] on two virtual devices, plan hits.
Counting is on only while a loop runs, and each loop runs at two lengths, so
what is paid once cancels out. The counts are the same in every run of one
build, and CI compares them with those stored in results/callgrind.json. The
plain ops on the shards are counted too, so that a processor with other kernels
is not taken for a change of ours.

Run: python benchmarks/callgrind.py [--check | --update]
"""

import argparse
import ctypes
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REFERENCE = HERE / "results" / "callgrind.json"
# Counts before the engine's second design: a step that costs a little more than
# the one before, again and again, shows against these.
FROZEN = HERE / "results" / "callgrind_frozen.json"
TOLERANCE = 0.05
SHORT, LONG = 100, 500
# Replicas share one local op: the counts of these are to be the same.
REPLICAS = (2, 64)
NO_VALGRIND = 77  # exit status

# Callgrind's requests are instructions that only a C compiler writes.
SWITCH = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char* name) {
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
}
"""


# ------------------------------------------------- the process that is counted


def run_loops(library):
    """Runs all loops; callgrind writes a file for each."""
    import mesh_calls
    import torch

    torch.set_num_threads(1)
    switch = ctypes.PyDLL(library)
    mesh = mesh_calls.make_mesh(2)
    with torch.no_grad():
        for name, op in mesh_calls.OPS.items():
            on_mesh, local = mesh_calls.op_arguments(op, mesh)
            for kind, args in (("mesh", [on_mesh]), ("local", local)):
                timer = mesh_calls.call_timer(op.call, args)
                count(switch, f"{name}/{kind}", lambda n, t=timer: (t, n))
        for source, target in mesh_calls.REDISTRIBUTIONS:
            make, redistribute = mesh_calls.redistribution(source, target, mesh)

            def pool(n, make=make, redistribute=redistribute):
                made = [make() for _ in range(n)]
                names = {"op": redistribute, "made": made}
                loop = "for x in made: op(x)"
                return mesh_calls.make_timer(loop, "pass", names), 1

            count(switch, f"{source} to {target}/mesh", pool)
        for name in mesh_calls.LOOPS:
            timer = mesh_calls.loop_timer(name, mesh)
            count(switch, f"{name}/mesh", lambda n, t=timer: (t, n))
        for num_devices in REPLICAS:
            op = mesh_calls.OPS["add"]
            on_mesh, local = mesh_calls.op_arguments(
                op, mesh_calls.make_mesh(num_devices), "replicated"
            )
            for kind, args in (("mesh", [on_mesh]), ("local", local)):
                timer = mesh_calls.call_timer(op.call, args)
                name = f"add of R on {num_devices}"
                count(switch, f"{name}/{kind}", lambda n, t=timer: (t, n))


def count(switch, name, make):
    """Counts the timer and number of turns that `make(length)` gives."""
    for length in (SHORT, SHORT, LONG):  # the first is to warm
        timer, turns = make(length)
        switch.start()
        timer.timeit(turns)
        switch.stop(f"{name}/{length}".encode())


# ------------------------------------------------------- the one that reads it


def measure():
    """Returns {name: {"mesh": ..., "local": ...}}, instructions per call."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "switch.c")
        source.write_text(SWITCH)
        library = f"{folder}/switch.so"
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-o", library, str(source)],
            check=True,
        )
        environment = dict(
            os.environ,
            PYTHONHASHSEED="0",
            OMP_NUM_THREADS="1",
            KERAS_BACKEND="torch",
        )
        result = subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                "--instr-atstart=no",
                f"--callgrind-out-file={folder}/out",
                sys.executable,
                __file__,
                "--loops",
                library,
            ],
            env=environment,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise SystemExit(
                f"callgrind.py: it ended.\n{result.stderr[-4000:]}"
            )
        return per_call(read_counts(folder))


def read_counts(folder):
    """Returns {"add/mesh/100": instructions} from callgrind's files."""
    counts = {}
    for path in pathlib.Path(folder).glob("out.*"):
        text = path.read_text()
        trigger = re.search(
            r"^desc: Trigger: Client Request: (.*)$", text, re.M
        )
        total = re.search(r"^totals: (\d+)$", text, re.M)
        number = int(path.name.rpartition(".")[2])
        if trigger and total:
            # The warming run of a name comes before the one that counts.
            counts.setdefault(trigger[1], {})[number] = int(total[1])
    return {name: runs[max(runs)] for name, runs in counts.items()}


def per_call(counts):
    """Returns {name: {"mesh": ..., "local": ...}} for one call of each."""
    result = {}
    for key in counts:
        name, kind, _ = key.split("/")
        more = (
            counts[f"{name}/{kind}/{LONG}"] - counts[f"{name}/{kind}/{SHORT}"]
        )
        result.setdefault(name, {})[kind] = round(more / (LONG - SHORT))
    return {name: result[name] for name in sorted(result)}


def changes(counts, reference):
    """Returns {name: change of the instructions per call}, 0.05 for 5 % up.

    The local ops count as in the reference; what is not there has no change.
    """
    result = {}
    for name, now in counts.items():
        if name in reference:
            before = reference[name]
            more = now["mesh"] - before["mesh"]
            more -= now.get("local", 0) - before.get("local", 0)
            result[name] = more / before["mesh"]
    return result


def show(counts, reference, frozen):
    print(
        f"{'instructions':28}{'mesh':>9}{'local':>8}{'over':>9}"
        f"{'change':>9}{'frozen':>9}"
    )
    columns = [changes(counts, old) for old in (reference, frozen)]
    for name, now in counts.items():
        local = now.get("local", 0)
        texts = [f"{c[name]:+.1%}" if name in c else "new" for c in columns]
        print(
            f"{name:28}{now['mesh']:9}{local:8}{now['mesh'] - local:9}"
            f"{texts[0]:>9}{texts[1]:>9}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--loops", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loops:
        run_loops(arguments.loops)
        return 0
    if not (shutil.which("valgrind") and shutil.which("cc")):
        print(
            "callgrind.py: nothing is counted without valgrind and cc.\n"
            "Hint: apt-get install valgrind gcc"
        )
        return NO_VALGRIND
    counts = measure()
    reference, frozen = (
        json.loads(path.read_text()) if path.exists() else {}
        for path in (REFERENCE, FROZEN)
    )
    show(counts, reference, frozen)
    if arguments.update:
        REFERENCE.parent.mkdir(exist_ok=True)
        REFERENCE.write_text(json.dumps(counts, indent=1) + "\n")
        print(f"written: {REFERENCE.relative_to(HERE.parent)}")
        return 0
    worse = [
        name
        for name, change in changes(counts, reference).items()
        if change > TOLERANCE
    ]
    unknown = sorted(counts.keys() ^ reference.keys())
    if arguments.check and (worse or unknown):
        print(
            f"callgrind.py: more than {TOLERANCE:.0%} up: "
            f"{', '.join(worse) or 'none'}; not in both: "
            f"{', '.join(unknown) or 'none'}.\n"
            "Hint: find out why; if it is meant, store the counts with "
            "--update."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
