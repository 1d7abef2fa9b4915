"""Runs files of Keras's tests in one mode and reports each test's outcome.

    worker.py MODE EVENT_FD

Started by tools/keras_suite.py. Commands come as lines of JSON on stdin:

    {"file": "layers/layer_test.py", "skip": [...], "only": [...] or null}

and events go as lines of JSON to the file descriptor EVENT_FD:

    {"ready": "3.15.1"}
    {"start": "layers/layer_test.py::LayerTest::test_x"}
    {"end": "layers/...", "outcome": "passed", "why": "", "seconds": 0.1,
     "on_mesh": true}
    {"file": "layers/layer_test.py", "why": ""}
    {"replace": "the two processes are no longer one job"}

The process may die or hang at any moment; whoever reads the events knows from
them which test it was.
"""

import faulthandler
import fnmatch
import json
import os
import pathlib
import queue
import re
import signal
import sys
import threading
import types

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import modes
import pair
import pytest

_OPTIONS = (
    "-q",
    "--no-header",
    "--tb=native",
    "--assert=plain",
    "--show-capture=no",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:hypothesispytest",
    "-p",
    "no:timeout",
    "-c",
    os.devnull,
    "-W",
    "ignore",
)


def supply_conftest():
    """Some tests import Keras's own conftest, which the wheel does not have."""

    def skip_if_backend(given_backend, reason):
        return pytest.mark.skipif(given_backend == "torch", reason=reason)

    conftest = types.ModuleType("conftest")
    conftest.skip_if_backend = skip_if_backend
    sys.modules["conftest"] = conftest


# Of a function among the parameters of a test: another one in each process.
_ADDRESS = re.compile(r"at ?0x[0-9a-f]+")


class Reporter:
    """A pytest plugin: selects tests, and turns reports into events.

    Attributes:
        root: The folder `keras/src`.
        emit: Called with an event.
    """

    def __init__(self, root, emit, begin_test, on_mesh):
        self.root = root
        self.emit = emit
        self.begin_test = begin_test
        self.on_mesh = on_mesh
        self.skip = frozenset()
        self.left_out = ()
        self.only = None
        self.why_no_tests = ""
        self._outcome = ""
        self._why = ""
        self._seconds = 0.0
        self._on_mesh = False

    def name(self, item):
        """`layers/layer_test.py::LayerTest::test_x`."""
        path = item.path.relative_to(self.root).as_posix()
        test = item.nodeid.partition("::")[2]
        return f"{path}::{_ADDRESS.sub('at 0x', test)}"

    def pytest_configure(self, config):
        for marker in ("requires_trainable_backend", "multi_device"):
            config.addinivalue_line("markers", marker)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        def wanted(item):
            if item.get_closest_marker("multi_device"):
                return False  # counts the devices of JAX
            name = self.name(item)
            return name not in self.skip and (
                self.only is None or name in self.only
            )

        items[:] = [item for item in items if wanted(item)]

    def pytest_collectreport(self, report):
        if report.failed:
            self.why_no_tests = _last_line(report.longreprtext)
        elif report.skipped:
            self.why_no_tests = "skipped: " + _last_line(report.longreprtext)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if any(fnmatch.fnmatch(self.name(item), p) for p in self.left_out):
            item.add_marker(pytest.mark.skip("suite.toml"))
        self._outcome, self._why, self._seconds = "passed", "", 0.0
        self._on_mesh = False
        self.emit({"start": self.name(item)})
        result = yield
        self.emit(
            {
                "end": self.name(item),
                "outcome": self._outcome,
                "why": self._why,
                "seconds": round(self._seconds, 3),
                "on_mesh": self._on_mesh,
            }
        )
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self):
        self.begin_test()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self):
        try:
            return (yield)
        finally:
            self._on_mesh = self.on_mesh()

    def pytest_runtest_logreport(self, report):
        self._seconds += report.duration
        if report.failed:
            self._outcome = "failed"
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash else _last_line(report.longreprtext)
            self._why = self._why or _shortened(str(why))
        elif report.skipped and self._outcome == "passed":
            xfail = hasattr(report, "wasxfail")
            is_left_out = "suite.toml" in str(report.longrepr)
            self._outcome = (
                "left out" if is_left_out else "xfailed" if xfail else "skipped"
            )


def _shortened(text):
    """The first lines of a message, at most 600 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines)[:600]


def _last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _commands():
    """Yields commands; the process ends when whoever sends them does."""
    waiting = queue.SimpleQueue()
    stream = os.fdopen(os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def read():
        for line in stream:
            waiting.put(json.loads(line))
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def _as_one_of_two(commands, emit):
    """What `main` needs in mode `processes`: its own, for both processes.

    Args:
        commands: Of process 0; process 1 gets them from there.
        emit: Called with an event of this process.

    Returns:
        Commands; `begin_test` and `on_mesh`, as `modes.enter` has them; a
        function that emits the events of both as one.
    """
    same = pair.SameInBoth()
    peer = pair.Peer("processes") if pair.index() == 0 else None
    addresses = peer.addresses if peer else pair.addresses_of_environment()
    switch, on_mesh = modes.enter("processes", addresses)
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.saving import saving_lib

    pair.write_by_one(saving_lib, "save_model")
    pair.write_by_one(legacy_h5_format, "save_model_to_hdf5")

    def begin_test():
        switch()
        same.begin_test()

    def passed_on():
        for command in commands:
            if peer:
                peer.send(command)
            yield command

    def emit_both(event):
        is_broken = False
        if peer and "end" in event:
            event, is_broken = peer.joined(event)
        elif peer and ("ready" in event or "file" in event):
            peer.await_event(next(iter(event)))
        if "end" in event:
            same.end_test()
        emit(event)
        if is_broken:
            emit({"replace": event["why"]})
            os._exit(4)

    return passed_on(), begin_test, on_mesh, emit_both


def main(mode, event_fd):
    """Serves commands until stdin ends.

    Args:
        mode: One of `modes.MODES`.
        event_fd: File descriptor to write events to.
    """
    events = os.fdopen(event_fd, "w")
    owner = os.getpid()

    def emit(event):
        if os.getpid() == owner:  # not in a fork of a data loader
            events.write(json.dumps(event) + "\n")
            events.flush()

    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    commands = _commands()
    if mode == "processes":
        commands, begin_test, on_mesh, emit = _as_one_of_two(commands, emit)
    else:
        begin_test, on_mesh = modes.enter(mode)
    supply_conftest()
    import keras

    root = pathlib.Path(keras.__file__).resolve().parent / "src"
    os.chdir(os.environ.get("TMPDIR", "/tmp"))
    emit({"ready": keras.__version__})
    for command in commands:
        reporter = Reporter(root, emit, begin_test, on_mesh)
        reporter.skip = frozenset(command.get("skip") or ())
        if mode == "processes":
            reporter.left_out = pair.left_out()
        only = command.get("only")
        reporter.only = None if only is None else frozenset(only)
        path = root / command["file"]
        print(f"==== {mode} {command['file']}", flush=True)
        code = pytest.main(
            [*_OPTIONS, "--rootdir", str(root), str(path)], plugins=[reporter]
        )
        why = reporter.why_no_tests
        if not why and code not in (0, 1, 5):
            why = f"pytest ended with {code}"
        emit({"file": command["file"], "why": why})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
