"""Jobs that torchrun starts again when a process fails."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import tempfile

from tests.faults import failures

MOST_RESTARTS = 3
PATIENCE = 240.0


@functools.cache
def reference():
    """What each process computes without a failure, by their number."""
    server = failures.Server()
    found = {}
    for num in range(2, failures.MOST_PROCESSES + 1):
        with tempfile.TemporaryDirectory() as folder:
            tasks = failures.tasks_of(folder, num)
            ends = server.run(tasks, victim=None, patience=PATIENCE)
            if ends != [0] * num:
                raise RuntimeError(
                    pathlib.Path(tasks[0]["log"]).read_text("utf-8")
                )
            found[num] = results(folder, num)
    server.close()
    return found


def results(folder, num):
    return [pathlib.Path(folder, f"result{i}").read_text() for i in range(num)]


def run(trial):
    """Runs a trial under torchrun.

    The failure comes in the first attempt. The next one must go on from the
    backup, and end with the bits of a job without a failure.

    Returns:
        What is wrong, "" if nothing is; and the seconds of the slowest
        survivor that torchrun did not end before, None if there is none.
    """
    task = dataclasses.asdict(trial)
    del task["num_processes"]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(trial.num_processes)),
            *("--max-restarts", str(MOST_RESTARTS)),
            *("--redirects", "3", "--log-dir", f"{folder}/logs"),
            *(failures.WORKER, json.dumps({**task, "folder": folder})),
        ]
        try:
            done = subprocess.run(
                command,
                env=failures.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return f"{trial}: hung", None
        if done.returncode != 0:
            return f"{trial}: it failed\n{done.stdout[-3000:]}", None
        found = results(folder, trial.num_processes)
        logs = logs_of(folder)
    if found != reference()[trial.num_processes]:
        return f"{trial}: other bits than without a failure", None
    if len(logs) != 2:
        return f"{trial}: {len(logs)} attempts", None
    return judged(trial, logs[0])


def logs_of(folder):
    """What each process of each attempt wrote: a dict by number."""
    attempts = sorted(pathlib.Path(folder, "logs").glob("*/attempt_*"))
    return [
        {
            int(log.parent.name): log.read_text("utf-8", "replace")
            for log in attempt.glob("*/stderr.log")
        }
        for attempt in attempts
    ]


def judged(trial, logs):
    """What is wrong with the survivors of an attempt, and their seconds."""
    struck = failures.times(logs[trial.victim], "struck")
    if not struck:
        return f"{trial}: the failure did not come", None
    slowest = None
    for i, log in logs.items():
        ended = failures.times(log, "ended")
        if i == trial.victim or not ended:
            continue
        wrong = failures.survivor_fault(trial, 1, log)
        if wrong:
            return f"{trial}: process {i}: {wrong}\n{log[-3000:]}", None
        slowest = max(slowest or 0.0, ended[0] - struck[0])
    limit = failures.KINDS[trial.kind][0]
    if slowest is not None and slowest > limit:
        return f"{trial}: {slowest:.1f} s is more than {limit:g} s", slowest
    return "", slowest
