"""Random failures of one process, and what the others must say of each."""

import dataclasses
import json
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile

WORKER = pathlib.Path(__file__).with_name("worker.py")
TIMEOUT = 5.0  # seconds for a collective
# Seconds until each survivor must know, and the code of what it says.
DEATH = (4.0, {"peer-lost"})
KINDS = {
    "kill": DEATH,
    "stop": DEATH,
    "term": DEATH,
    "os._exit": DEATH,
    "exception": (2.0, {"peer-failed"}),
    "memory": (2.0, {"peer-failed"}),
    "torch memory": (2.0, {"peer-failed"}),
    "exit": (4.0, {"peer-left"}),
    "loop": (TIMEOUT + 5, {"peer-late"}),
    "late": (TIMEOUT + 5, {"peer-late"}),
}
PHASES = ("fit", "evaluate", "predict", "save", "load")
MOST_PROCESSES = 4
PATIENCE = 90.0


@dataclasses.dataclass
class Trial:
    """A job of which one process fails.

    Attributes:
        kind: Of the failure, one of `KINDS`.
        num_processes: Of the job.
        victim: The process that fails.
        phase: Of the program, in which it fails.
        step: Of the phase, from 1.
        delay: Seconds from there, for a failure that comes at any moment.
        transport: How the processes talk.
    """

    kind: str
    num_processes: int
    victim: int
    phase: str
    step: int
    delay: float
    transport: str

    def __str__(self):
        return (
            f"{self.kind} of process {self.victim} of {self.num_processes} in "
            f"{self.phase}, step {self.step} + {1000 * self.delay:.0f} ms, "
            f"{self.transport}"
        )


def trial_of(seed):
    """The trial of a number: kinds come in turn, all else is drawn."""
    rng = random.Random(seed)
    num = rng.randint(2, MOST_PROCESSES)
    return Trial(
        kind=list(KINDS)[seed % len(KINDS)],
        num_processes=num,
        # Process 0 keeps the store.
        victim=rng.choice([0, rng.randrange(num)]),
        phase=rng.choice(PHASES),
        step=rng.randint(1, 4),
        delay=rng.uniform(0, 0.02),
        transport=rng.choice(["shared_memory", "c10d"]),
    )


def environment(**more):
    return {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "TORCH_MESH_CPU_DEVICES": "1",
        "TORCH_MESH_TIMEOUT": f"{TIMEOUT:g}",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        **more,
    }


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Server:
    """Starts processes by forking one that has loaded all they need."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, WORKER, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def run(self, tasks, victim, patience=PATIENCE):
        """How each of some processes ended (worker.py)."""
        request = {"tasks": tasks, "victim": victim, "patience": patience}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def tasks_of(folder, num_processes, **task):
    """A task for each process of a job, and the files of their output."""
    address = free_address()
    return [
        {
            **task,
            "process": i,
            "num_processes": num_processes,
            "address": address,
            "folder": folder,
            "log": os.path.join(folder, f"log{i}"),
        }
        for i in range(num_processes)
    ]


def run_by_hand(server, trial):
    """Runs a trial.

    Returns:
        What is wrong, "" if nothing is; and the seconds of the slowest
        survivor, None if there was no failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = dataclasses.asdict(trial)
        tasks = tasks_of(folder, **task)
        ends = server.run(tasks, trial.victim)
        logs = [
            pathlib.Path(t["log"]).read_text("utf-8", "replace") for t in tasks
        ]
    struck = times(logs[trial.victim], "struck")
    if not struck:
        return "the failure did not come: " + logs[trial.victim][-500:], None
    slowest = 0.0
    for i, (end, log) in enumerate(zip(ends, logs, strict=True)):
        if i == trial.victim:
            continue
        ended = times(log, "ended")
        wrong = survivor_fault(trial, end, log)
        if wrong or not ended:
            return f"process {i}: {wrong or 'no error'}\n{log[-3000:]}", None
        slowest = max(slowest, ended[0] - struck[0])
    limit = KINDS[trial.kind][0]
    if slowest > limit:
        return f"{slowest:.1f} s is more than {limit:g} s", slowest
    return "", slowest


def times(log, what):
    return [float(t) for t in re.findall(rf"^{what} at ([\d.]+)$", log, re.M)]


def headline(log):
    """The text of the error by which a process ended."""
    found = re.search(r"^headline: (.*?)^headline ends$", log, re.M | re.S)
    return found[1] if found else ""


def survivor_fault(trial, end, log):
    """What is wrong with the end of a survivor, "" if nothing is."""
    if end != 1:
        return f"it ended with {end}"
    said = headline(log)
    codes = set(re.findall(r"\[([a-z-]+)\]\s*$", said.rstrip()))
    expected = KINDS[trial.kind][1]
    first = said.partition("\n")[0]
    if not codes <= expected or not codes:
        return f"its code is {codes}, not {expected}"
    if not re.search(
        rf"\bprocess {trial.victim}\b", first.partition(", says")[0]
    ):
        return f"its first line does not name process {trial.victim}"
    if "\x1b" in log.split("headline: ")[1]:
        return "control characters are not escaped"
    has_beaten = "its last op" in said and "none yet" not in said
    if has_beaten and not re.search(r"\n\s+at  worker\.py:\d+", said):
        return "it names no line"
    return ""
