#!/usr/bin/env python3
"""Runs Keras's own tests, from the installed wheel, with the mesh in force.

    tools/keras_suite.py                      tier 1, all modes, a report
    tools/keras_suite.py --quick              the part of it for `make test`
    tools/keras_suite.py --only 'layers/rnn/*' --modes data,model --again
    tools/keras_suite.py --tier 2 --python build/tier2/bin/python

The modes are those of tests/keras_suite/modes.py; tests/keras_suite/suite.toml
says which files are run. A test that passes in mode `stock` and not in another
is a difference, and needs a reason in tests/keras_suite/expected.toml.

Each mode has two processes, which take file after file. A process that dies or
hangs fails the test it was at, and a new one goes on behind that test. A test
that differs is run a second time, alone in a process: what passes then is
counted and listed apart.

Results are kept in build/keras-suite, one JSON per Keras and mode, and files
that are in there are not run again without --again. The results of `stock` are
the baseline; --record writes what `--quick` compares with into the tree.
"""

import argparse
import collections
import fnmatch
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib

import psutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITE = ROOT / "tests" / "keras_suite"
sys.path.insert(0, str(SUITE))

import modes  # noqa: E402

import keras_suite_report as report  # noqa: E402

# A module that imports one of these is of tier 2, or not run.
_TIER_2 = re.compile(r"^(?:import|from) +(tensorflow|jax|grain)\b", re.M)

_MAX_BYTES = 3 << 30  # of memory of one process, before a new one goes on


def find_keras(python, path=None):
    """Where an interpreter has Keras.

    Args:
        python: Path of the interpreter.
        path: Folder with another Keras. Nightly wheels come without tests: one
            that has none gets those of the interpreter's Keras.

    Returns:
        The folder `keras/src` and the version.
    """
    code = "import importlib.util as u; print(u.find_spec('keras').origin)"
    origin = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    src = pathlib.Path(origin.strip()).resolve().parent / "src"
    if path is not None:
        own, src = src, path.resolve() / "keras" / "src"
        if next(src.rglob("*_test.py"), None) is None:
            for test in own.rglob("*_test.py"):
                to = src / test.relative_to(own)
                if to.parent.is_dir():
                    shutil.copy(test, to)
    text = (src / "version.py").read_text()
    return src, re.search(r'__version__ = "([^"]+)"', text).group(1)


def choose_files(src, tier, quick, only):
    """The files of Keras's tests that are to be run.

    Args:
        src: The folder `keras/src`.
        tier: 1 or 2.
        quick: Whether to leave out `not_quick` of suite.toml.
        only: Patterns; a file must match one of them, if there are any.

    Returns:
        Sorted list of paths relative to `src`.
    """
    config = tomllib.loads((SUITE / "suite.toml").read_text())
    found = []
    for path in sorted(src.rglob("*_test.py")):
        name = path.relative_to(src).as_posix()
        left_out = [entry["files"] for entry in config["excluded"]]
        if quick:
            left_out += config["not_quick"]
        if any(fnmatch.fnmatch(name, pattern) for pattern in left_out):
            continue
        imports_more = _TIER_2.search(path.read_text()) is not None
        of_tier = {2} if imports_more else {1}
        if name in config["both_tiers"]:
            of_tier = {1, 2}
        if tier not in of_tier:
            continue
        if only and not any(fnmatch.fnmatch(name, p) for p in only):
            continue
        found.append(name)
    return found


class Worker:
    """A process of tests/keras_suite/worker.py and what it is at.

    Args:
        python: The interpreter.
        mode: One of `modes.MODES`.
        log: File object for its output.
        path: Folders to put before PYTHONPATH.
    """

    def __init__(self, python, mode, log, path=()):
        readable, writable = os.pipe()
        self.temporary = tempfile.TemporaryDirectory(prefix="keras-suite-")
        environment = {
            **os.environ,
            **modes.environment(mode),
            "PYTHONPATH": os.pathsep.join(
                [*path, os.environ.get("PYTHONPATH", "")]
            ).strip(os.pathsep),
            "TMPDIR": self.temporary.name,
        }
        self.process = subprocess.Popen(
            [python, str(SUITE / "worker.py"), mode, str(writable)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[writable],
            text=True,
        )
        os.close(writable)
        self.events = collections.deque()
        self.arrived = threading.Condition()
        self._reader = threading.Thread(
            target=self._read, args=[readable], daemon=True
        )
        self._reader.start()

    def send(self, command):
        """Sends a command; one that cannot be sent is found out by `next`."""
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def next(self, limit_s):
        """The next event.

        Args:
            limit_s: Seconds of CPU time, and four times that of wall time
                while this program is not paused itself.

        Returns:
            An event, or {"died": why}.
        """
        cpu_start, waited = self._cpu_s(), 0.0
        while True:
            with self.arrived:
                before = time.monotonic()
                if not self.events and self.process.poll() is None:
                    self.arrived.wait(0.5)
                if self.events:
                    return self.events.popleft()
            waited += min(time.monotonic() - before, 1.0)
            if self.process.poll() is not None:
                self._reader.join(1.0)
                if self.events:
                    continue
                return {"died": _how_it_ended(self.process.returncode)}
            if self._cpu_s() - cpu_start > limit_s or waited > 4 * limit_s:
                self.process.send_signal(signal.SIGUSR1)  # prints the stacks
                time.sleep(0.5)
                self.stop()
                return {"died": f"no end within {limit_s} s"}

    def too_large(self):
        """Whether the process should give way to a new one."""
        try:
            memory = psutil.Process(self.process.pid).memory_info()
        except psutil.NoSuchProcess:
            return True
        return memory.rss > _MAX_BYTES

    def stop(self):
        """Ends the process and its children."""
        try:
            family = psutil.Process(self.process.pid)
            for child in family.children(recursive=True):
                child.kill()
        except psutil.NoSuchProcess:
            pass
        self.process.kill()
        self.process.wait()
        self.temporary.cleanup()

    def _read(self, descriptor):
        with os.fdopen(descriptor) as stream:
            for line in stream:
                with self.arrived:
                    self.events.append(json.loads(line))
                    self.arrived.notify()

    def _cpu_s(self):
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system + times.children_user


def _how_it_ended(code):
    if code < 0:
        return f"the process died of signal {-code}"
    return f"the process ended with {code}"


class Lane(threading.Thread):
    """Takes files from a queue and runs them in a worker of its own."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self.run_ = run
        self.worker = None
        self.error = None

    def run(self):
        try:
            while (file := self.run_.take()) is not None:
                self.run_.done(file, self._run_file(file))
        except BaseException as error:
            self.error = error
        finally:
            self._drop()

    def _run_file(self, file):
        tests, why = self._run_tests(file, None)
        baseline = self.run_.baseline.get(file)
        if baseline is None:
            return {"why": why, "tests": tests}
        again = report.differing(baseline, {"why": why, "tests": tests})
        if again and len(again) <= 40:
            self._drop()
            second, _ = self._run_tests(file, again)
            for name, result in second.items():
                if result["outcome"] == "passed":
                    tests[name] = {**result, "first": tests[name]["why"]}
            self._drop()
        return {"why": why, "tests": tests}

    def _run_tests(self, file, only):
        """Runs a file to its end, in as many processes as it takes."""
        tests = {}
        fresh_deaths = 0
        while True:
            worker = self._ready_worker()
            if worker is None:
                return tests, "the worker does not start; see the log"
            worker.send({"file": file, "skip": list(tests), "only": only})
            current = None
            while True:
                event = worker.next(self.run_.limit_s)
                if "start" in event:
                    current = event["start"]
                elif "end" in event:
                    tests[event.pop("end")] = event
                    current = None
                elif "file" in event:
                    return tests, event["why"]
                elif "died" in event or "replace" in event:
                    break
            self._drop()
            if "replace" in event:
                continue
            if current is not None:
                tests[current] = {
                    "outcome": "failed",
                    "why": event["died"],
                    "seconds": 0.0,
                    "on_mesh": False,
                }
                continue
            fresh_deaths += 1
            if fresh_deaths > 2:
                return tests, event["died"]

    def _ready_worker(self):
        if self.worker is not None and self.worker.too_large():
            self._drop()
        if self.worker is None:
            run = self.run_
            worker = Worker(run.python, run.mode, run.log, run.path)
            if "ready" not in worker.next(120):
                worker.stop()
                return None
            self.worker = worker
        return self.worker

    def _drop(self):
        if self.worker is not None:
            self.worker.stop()
            self.worker = None


class Run:
    """All files of one mode.

    Args:
        python: The interpreter.
        mode: One of `modes.MODES`.
        files: Paths relative to `keras/src`.
        store: Path of the JSON with the results.
        baseline: {file: results of stock}; empty for stock itself.
        limit_s: For one test.
        path: Folders to put before PYTHONPATH.
    """

    def __init__(self, python, mode, files, store, baseline, limit_s, path=()):
        self.path = path
        self.python, self.mode, self.limit_s = python, mode, limit_s
        self.baseline, self.store = baseline, store
        self.results = report.load(store)
        self.waiting = collections.deque(files)
        self.total = len(files)
        self.lock = threading.Lock()
        store.parent.mkdir(parents=True, exist_ok=True)
        self.log = None

    def take(self):
        """The next file, or None."""
        with self.lock:
            return self.waiting.popleft() if self.waiting else None

    def done(self, file, result):
        """Keeps the results of a file."""
        with self.lock:
            self.results[file] = result
            report.save(self.store, self.results)
            count = collections.Counter(
                test["outcome"] for test in result["tests"].values()
            )
            tally = " ".join(f"{n} {o}" for o, n in sorted(count.items()))
            left = len(self.waiting)
            baseline = self.baseline.get(file)
            differ = ""
            if baseline is not None:
                number = len(report.differing(baseline, result))
                differ = f"  DIFFER {number}" if number else ""
            print(
                f"{self.mode:9} {left:3} left  {file}: {tally} "
                f"{result['why']}{differ}",
                flush=True,
            )

    def execute(self, num_workers):
        """Runs the files in `num_workers` processes."""
        lanes = [Lane(self) for _ in range(num_workers)]
        with self.store.with_suffix(".log").open("w") as self.log:
            for lane in lanes:
                lane.start()
            for lane in lanes:
                lane.join()
        for lane in lanes:
            if lane.error is not None:
                raise lane.error


def main(arguments=None):
    """The program; returns its exit status.

    1 if a difference is unexplained, or an entry of expected.toml needless; 2
    if there is no baseline.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--modes", default=",".join(modes.MODES))
    parser.add_argument("--tier", type=int, default=1, choices=(1, 2))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="PATTERN")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--keras", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--report", type=pathlib.Path)
    options = parser.parse_args(arguments)

    src, version = find_keras(options.python, options.keras)
    files = choose_files(src, options.tier, options.quick, options.only)
    chosen = options.modes.split(",")
    out = options.out or ROOT / "build" / "keras-suite"
    out = out / f"keras-{version}-tier{options.tier}"
    recorded = SUITE / "baseline" / f"keras-{version}-tier{options.tier}.json"

    stock = report.load_baseline(recorded)
    stock |= report.load(out / "stock.json")
    for mode in chosen:
        store = out / f"{mode}.json"
        there = {} if options.again else report.load(store)
        if mode == "stock" and not options.again:
            there = stock
        to_run = [file for file in files if file not in there]
        baseline = {} if mode == "stock" else stock
        if mode != "stock":
            unknown = [file for file in files if file not in stock]
            if unknown:
                print(f"no baseline of {len(unknown)} files: run mode stock")
                return 2
        if to_run:
            run = Run(
                options.python,
                mode,
                to_run,
                store,
                baseline,
                options.limit,
                [] if options.keras is None else [str(options.keras)],
            )
            run.execute(min(options.workers, len(to_run)))
        if mode == "stock":
            stock |= report.load(store)

    if options.record:
        quick = choose_files(src, options.tier, True, None)
        report.save_baseline(recorded, {file: stock[file] for file in quick})
    results = {mode: report.load(out / f"{mode}.json") for mode in chosen}
    results["stock"] = stock
    expected = report.load_expected(SUITE / "expected.toml")
    summary = report.Summary(version, files, results, expected)
    print(summary.text())
    if options.report:
        summary.write(options.report, options.tier)
    return 1 if summary.unexplained or summary.needless else 0


if __name__ == "__main__":
    sys.exit(main())
