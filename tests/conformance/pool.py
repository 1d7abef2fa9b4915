"""Worker processes; one that crashes or hangs fails a case, not the run."""

import contextlib
import dataclasses
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait

from tests.conformance import team as teams
from tests.conformance.record import (
    RAISES,
    Enough,
    Outcome,
    Progress,
    Record,
    describe,
)

# Forked: torch and its databases take ten seconds to import. The parent never
# imports torch_mesh, and starts no thread.
_FORK = multiprocessing.get_context("fork")

MOST_CRASHES = 3


@dataclasses.dataclass
class Job:
    """A unit of a suite; `passed_over` are cases that ended a worker."""

    suite: str
    unit: str
    passed_over: tuple[int, ...] = ()


@dataclasses.dataclass
class Done:
    """What came of a job."""

    job: Job
    right: dict
    outcomes: list
    seconds: float
    ends_worker: bool = False  # its processes no longer do the same


class Worker:
    """A process that runs one job after the other."""

    def __init__(self, options):
        self.progress = Progress()
        self.connection, other = _FORK.Pipe()
        self.job = None
        self.process = _FORK.Process(
            target=work, args=(other, self.progress, options), daemon=True
        )
        self.process.start()
        other.close()
        self._seen = None
        self._idle = 0.0

    def start(self, job):
        self.job = job
        self._seen, self._idle = None, 0.0
        self.connection.send(job)

    def idle_for(self, seconds):
        """Adds to the time without a new case; gives that time."""
        now = (self.progress.index, self.progress.label)
        if now != self._seen:
            self._seen, self._idle = now, 0.0
        self._idle += seconds
        return self._idle

    def stop(self):
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.connection.close()


def work(connection, progress, options):
    """The life of a worker."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence()
    around = contextlib.nullcontext
    if options.memories:
        counted = importlib.import_module("tests.conformance.counted")
        counted.share(options.memories)
        around = counted.moved
    team = teams.begin(options.processes, options.transport)
    if not team.leads:
        progress = Progress()  # that of process 0 says where they are
    is_whole = True
    with contextlib.suppress(EOFError):
        while is_whole:
            job = team.next_job(connection)
            if job.unit is None:
                if team.leads:
                    connection.send(suite_of(job).units(options))
                continue
            progress.begin(0, "before the first case")
            start = time.monotonic()
            record = Record(
                job.suite,
                job.unit,
                progress,
                job.passed_over,
                until_wrong=options.plant is not None,
                around=around,
            )
            try:
                suite_of(job).run(job.unit, options, record)
            except Enough:
                pass
            except Exception as error:
                record.add("-", "the suite itself", RAISES, describe(error))
            seconds = time.monotonic() - start
            is_whole = team.join(record)
            if team.leads:
                connection.send(
                    Done(
                        job,
                        record.right,
                        record.outcomes,
                        seconds,
                        ends_worker=not is_whole,
                    )
                )


def suite_of(job):
    return importlib.import_module(f"tests.conformance.{job.suite}")


def units_of(suites, options):
    """Pairs of a suite and a unit; asked in a process of its own."""
    preload()
    worker = Worker(options)
    try:
        for suite in suites:
            worker.start(Job(suite, None))
            for unit in worker.connection.recv():
                yield suite, unit
    finally:
        worker.stop()


def preload():
    """What all workers import, without the mesh."""
    import torch.testing._internal.common_methods_invocations
    import torch.testing._internal.common_modules
    import torch.testing._internal.common_optimizers  # noqa: F401


def silence():
    """What plain torch warns of is not news; a crash's stack is."""
    import warnings

    warnings.simplefilter("ignore")
    faulthandler.enable()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def run_jobs(jobs, options, *, workers=2, hang_after=120, tell=None):
    """Runs `jobs` in worker processes; gives `Done`s as they come.

    Args:
        hang_after: seconds without a new case, then the worker is killed.
        tell: called with each `Done`.
    """
    waiting = list(reversed(jobs))
    pool = [Worker(options) for _ in range(min(workers, len(jobs) or 1))]
    lost = {}  # outcomes of cases that ended a worker
    try:
        while waiting or any(w.job for w in pool):
            for worker in pool:
                if worker.job is None and waiting:
                    worker.start(waiting.pop())
            busy = [w for w in pool if w.job]
            step = 1.0
            ready = wait(
                [w.connection for w in busy]
                + [w.process.sentinel for w in busy],
                timeout=step,
            )
            for i, worker in enumerate(pool):
                if worker.job is None:
                    continue
                done = finished(worker, worker.connection in ready)
                if done:
                    done.outcomes += lost.pop(key_of(done.job), [])
                    worker.job = None
                    if done.ends_worker:
                        worker.stop()
                        pool[i] = Worker(options)
                    yield done
                    continue
                hung = not ready and worker.idle_for(step) > hang_after
                if hung or not worker.process.is_alive():
                    job = worker.job
                    worker.stop()
                    lost.setdefault(key_of(job), []).append(
                        outcome_of_loss(worker, hung, hang_after)
                    )
                    again = (*job.passed_over, worker.progress.index)
                    if len(again) <= MOST_CRASHES and worker.progress.index:
                        waiting.append(Job(job.suite, job.unit, again))
                    else:
                        yield Done(job, {}, lost.pop(key_of(job)), 0.0)
                    pool[i] = Worker(options)
    finally:
        for worker in pool:
            worker.stop()


def key_of(job):
    return job.suite, job.unit


def finished(worker, ready):
    if not ready and not worker.connection.poll():
        return None
    try:
        return worker.connection.recv()
    except (EOFError, OSError):
        return None


def outcome_of_loss(worker, hung, hang_after):
    mesh, _, label = worker.progress.label.partition("\n")
    if hung:
        text = f"hangs: no end after {hang_after} s"
    else:
        text = f"ends the process: exit status {worker.process.exitcode}"
    return Outcome(worker.job.suite, worker.job.unit, mesh, label, RAISES, text)
