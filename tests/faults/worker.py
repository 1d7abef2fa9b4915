"""One process of a job that fails, or is to survive: a small Keras program.

A script, so that errors name its lines. `worker.py TEXT` runs what the JSON
`TEXT` says, as torchrun starts it. `worker.py --serve` forks such processes
from one that has loaded all there is to load: a line of JSON, a list of them,
is answered by a line of how each ended.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import zlib

import keras
import numpy as np
import torch

import torch_mesh as tm

ROWS = 48
EPOCHS = 2
# What a process does to itself at once, wherever it is.
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}


def main(task):
    """Runs one process to its end, however that is.

    Args:
        task: `kind`, `victim`, `phase`, `step` and `delay` of the failure,
            `folder` of files; `transport`; `process`, `num_processes` and
            `address`, unless a launcher says these; or `program`, text to run
            in its place.
    """
    os.environ["TORCH_MESH_TRANSPORT"] = task.get("transport", "shared_memory")
    if "address" in task:
        where = task["address"], task["num_processes"], task["process"]
        keras.distribution.initialize(*where)
    else:
        keras.distribution.initialize()
    sys.excepthook = noting_the_time(sys.excepthook)
    if "program" in task:
        exec(compile(task["program"], "program.py", "exec"), globals())
        return
    train(task)


def train(task):
    """Fits, evaluates, predicts, saves and loads; one process fails in it."""
    me = tm.process_id()
    is_victim = me == task.get("victim") and not is_restarted()
    fault = Fault(task, is_victim)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.05), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    path = os.path.join(task["folder"], "model.weights.h5")
    backup = keras.callbacks.BackupAndRestore(
        os.path.join(task["folder"], "backup"), delete_checkpoint=False
    )
    options = {"batch_size": 12, "verbose": 0}
    fault.begin("fit")
    model.fit(
        x,
        y,
        epochs=EPOCHS,
        shuffle=False,
        callbacks=[backup, fault],
        **options,
    )
    fault.begin("evaluate")
    loss = model.evaluate(x, y, callbacks=[fault], **options)
    fault.begin("predict")
    predicted = model.predict(x, callbacks=[fault], **options)
    fault.begin("save")
    model.save_weights(path)
    fault.begin("load")
    model.load_weights(path)
    fault.begin("end")
    values = [np.asarray(w) for w in model.get_weights()]
    values += [predicted, np.float64(loss)]
    found = zlib.crc32(b"".join(v.tobytes() for v in values))
    with open(os.path.join(task["folder"], f"result{me}"), "w") as file:
        file.write(str(found))


class Fault(keras.callbacks.Callback):
    """What goes wrong, in one process, in a phase of its program."""

    def __init__(self, task, is_victim):
        super().__init__()
        self.task = task
        self.is_victim = is_victim
        self.steps = -1

    def begin(self, phase):
        """A phase begins; the failure of it may come between two others."""
        if self.is_victim and phase == self.task["phase"]:
            self.steps = self.task["step"]
            if phase in ("save", "load"):
                self.strike()

    def on_train_batch_end(self, batch, logs=None):
        self.count()

    def on_test_batch_end(self, batch, logs=None):
        self.count()

    def on_predict_batch_end(self, batch, logs=None):
        self.count()

    def count(self):
        self.steps -= 1
        if self.steps == 0:
            self.strike()

    def strike(self):
        kind = self.task["kind"]
        if kind in SIGNALS or kind in ("stop", "os._exit"):
            # From another thread, so that it may be in the middle of an op.
            threading.Timer(self.task["delay"], self.end_at_once).start()
            return
        say_when("struck")
        if kind == "exception":
            raise ValueError("a row is\n\x1b[31mmissing")
        if kind == "memory":
            raise MemoryError("no memory is left")
        if kind == "torch memory":
            torch.empty(1 << 60)
        if kind == "exit":
            sys.exit(0)
        if kind == "loop":
            while True:
                pass
        if kind == "late":
            time.sleep(60)

    def end_at_once(self):
        say_when("struck")
        kind = self.task["kind"]
        if kind == "os._exit":
            os._exit(3)
        if kind == "stop":
            awake = f"sleep 12; kill -CONT {os.getpid()} 2> /dev/null"
            subprocess.Popen(["sh", "-c", awake], start_new_session=True)
        os.kill(os.getpid(), SIGNALS.get(kind, signal.SIGSTOP))


def is_restarted():
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def say_when(what):
    """Writes a line with the time, in one call."""
    os.write(2, f"{what} at {time.time():.3f}\n".encode())


def noting_the_time(original):
    def excepthook(kind, error, trace):
        say_when("ended")
        traceback.print_exception(kind, error, trace)
        os.write(2, b"headline: " + str(error).encode() + b"\nheadline ends\n")
        original(kind, error, trace)

    return excepthook


# The server


def serve():
    """Forks processes as they are asked for.

    Returns:
        In a forked process, its task; None in the server, at its end.
    """
    gc.freeze()  # a forked process does not copy what it does not write
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        pids = []
        for task in request["tasks"]:
            pid = os.fork()
            if pid == 0:
                enter(task)
                return task
            pids.append(pid)
        ends = wait(pids, request["victim"], request["patience"])
        print(json.dumps(ends), file=answers, flush=True)
    return None


def enter(task):
    """Makes a forked process one of its own."""
    os.setpgid(0, 0)
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def wait(pids, victim, patience):
    """How each process ended: an exit code, less than 0 for a signal.

    Those that have not ended in time are killed: "hung". The victim may stand
    still for ever; when the others have ended it is killed too.
    """
    ends = dict.fromkeys(pids)
    deadline = time.monotonic() + patience
    others = [pid for i, pid in enumerate(pids) if i != victim]

    def reap(pid, options):
        found, status = os.waitpid(pid, options)
        if found:
            ends[pid] = os.waitstatus_to_exitcode(status)

    while time.monotonic() < deadline:
        for pid in pids:
            if ends[pid] is None:
                reap(pid, os.WNOHANG)
        if all(ends[pid] is not None for pid in others):
            break
        time.sleep(0.02)
    hung = [pid for pid in pids if ends[pid] is None]
    for pid in hung:
        os.kill(pid, signal.SIGKILL)
        reap(pid, 0)
        ends[pid] = "hung"
    return [ends[pid] for pid in pids]


if __name__ == "__main__":
    found = serve() if sys.argv[1] == "--serve" else json.loads(sys.argv[1])
    if found is not None:
        main(found)
