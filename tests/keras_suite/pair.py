"""Two processes that run each test as one job, for mode `processes`.

The worker is process 0 and starts process 1, which runs the same files. Both
have the same random numbers and the same names of temporary folders in a test:
one script that is run twice would have them from its arguments. A test has
passed if it has in both.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib

import numpy as np
import torch

# In the environment of process 1: the addresses of both.
_ADDRESSES = "KERAS_SUITE_ADDRESSES"

# What one process says of the other: no test after it would be right.
_OF_THE_JOB = ("[processes-differ]", "[peer-", "[process-timeout]")


def index():
    """Which of the two this process is."""
    return 1 if _ADDRESSES in os.environ else 0


class Peer:
    """Process 1, as process 0 sees it; it ends with process 0.

    Attributes:
        addresses: Of both processes, for `initialize`.
    """

    def __init__(self, mode):
        self.addresses = _free_addresses()
        readable, writable = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, sys.argv[0], mode, str(writable)],
            stdin=subprocess.PIPE,
            env={**os.environ, _ADDRESSES: self.addresses},
            pass_fds=[writable],
            text=True,
        )
        os.close(writable)
        self._events = os.fdopen(readable)

    def send(self, command):
        """Passes on a command."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def await_event(self, kind):
        """The next event that has the key `kind`.

        Returns:
            dict; {"died": True} if process 1 has ended before.
        """
        for line in self._events:
            event = json.loads(line)
            if kind in event:
                return event
        return {"died": True}

    def joined(self, event):
        """The end of a test in process 0 with that in process 1.

        Returns:
            The event, and whether the next test needs two new processes.
        """
        other = self.await_event("end")
        if "died" in other:
            return {**event, "outcome": "failed", "why": "process 1 died"}, True
        if other["end"] != event["end"]:
            why = f"process 1 was at {other['end']}"
            return {**event, "outcome": "failed", "why": why}, True
        whys = event["why"] + other["why"]
        is_broken = any(text in whys for text in _OF_THE_JOB)
        if other["outcome"] != event["outcome"]:
            why = f"0: {event['why']} | 1: {other['why']}"
            return {**event, "outcome": "failed", "why": why}, True
        return event, is_broken


def addresses_of_environment():
    """What process 1 was started with."""
    return os.environ[_ADDRESSES]


class SameInBoth:
    """Random numbers and temporary folders that two processes share."""

    def __init__(self):
        self._test = 0
        self._asked = {}
        self._made = set()
        self._seed = np.random.seed
        self._mkdtemp = tempfile.mkdtemp
        self._mkdir = os.mkdir
        self._symlink = os.symlink
        self._remove = os.remove
        self._rmtree = shutil.rmtree
        np.random.seed = self._seed_numpy
        tempfile.mkdtemp = self._make_folder
        os.mkdir = self._make_one_folder
        os.symlink = self._make_one_link
        os.remove = os.unlink = self._remove_file
        shutil.rmtree = self._remove_folder
        self.begin_test()

    def begin_test(self):
        """To be called before each test."""
        self._asked.clear()
        self._test += 1
        random.seed(self._test)
        np.random.seed(self._test)
        torch.manual_seed(self._test)

    def end_test(self):
        """To be called when the test has ended in both processes."""
        for path in self._made if index() == 0 else ():
            self._rmtree(path, ignore_errors=True)
        self._made.clear()

    def _seed_numpy(self, seed=None):
        # None asks for numbers of no seed, which would be others in each.
        self._seed(self._test if seed is None else seed)

    def _make_folder(self, suffix=None, prefix=None, dir=None):
        # Of tests alone: Keras's own, as it makes to write a file, is for the
        # process that writes.
        frame = sys._getframe(1)
        while frame.f_code.co_filename == tempfile.__file__:
            frame = frame.f_back
        asks = pathlib.Path(frame.f_code.co_filename).stem
        if asks != "test_case" and not asks.endswith("_test"):
            return self._mkdtemp(suffix, prefix, dir)
        count = self._asked[asks] = self._asked.get(asks, 0) + 1
        path = os.path.join(
            dir or tempfile.gettempdir(),
            f"{prefix or 'tmp'}{self._test}-{asks}-{count}{suffix or ''}",
        )
        os.makedirs(path, mode=0o700, exist_ok=True)
        self._made.add(path)
        return path

    def _is_of_a_test(self, path):
        return any(str(path).startswith(made) for made in self._made)

    def _make_one_folder(self, path, *arguments, **options):
        try:
            self._mkdir(path, *arguments, **options)
        except FileExistsError:
            if not self._is_of_a_test(path):
                raise

    def _make_one_link(self, source, path, **options):
        try:
            self._symlink(source, path, **options)
        except FileExistsError:
            if not self._is_of_a_test(path):
                raise

    def _remove_file(self, path, **options):
        # Both remove what is one file, when both have done with it.
        if not self._is_of_a_test(path):
            return self._remove(path, **options)
        meet()
        with contextlib.suppress(FileNotFoundError):
            self._remove(path, **options)

    def _remove_folder(self, path, *arguments, **options):
        # The other process may not have read it yet.
        if str(path) not in self._made:
            self._rmtree(path, *arguments, **options)


def left_out():
    """Patterns of the tests that suite.toml leaves out in this mode."""
    path = pathlib.Path(__file__).with_name("suite.toml")
    config = tomllib.loads(path.read_text())
    return [entry["tests"] for entry in config["not_in_processes"]]


def meet():
    """Waits for the other process to come here."""
    from torch_mesh import job

    job.meet("the test", [0, 1])


def write_by_one(module, name):
    """Lets process 0 write where a test writes a file by a private function.

    The public ones do so by themselves.
    """
    original = getattr(module, name)

    def write(model, path, *arguments, **options):
        asks = pathlib.Path(sys._getframe(1).f_code.co_filename).stem
        if not asks.endswith("_test") or not isinstance(path, str):
            return original(model, path, *arguments, **options)
        try:
            with tempfile.TemporaryDirectory() as folder:
                own = os.path.join(folder, os.path.basename(path))
                where = path if index() == 0 else own
                return original(model, where, *arguments, **options)
        finally:
            meet()

    setattr(module, name, write)


def _free_addresses():
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    found = ",".join(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    for s in sockets:
        s.close()
    return found
