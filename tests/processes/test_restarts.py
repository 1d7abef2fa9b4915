"""A job that torchrun starts again ends with the bits of one that went on."""

import json
import os
import subprocess
import sys

import pytest

# Fails in each attempt but the last: a killed process, then an exception.
FAILING = """
import os, signal, sys
import torch
import torch_mesh as tm

folder, num_failures = sys.argv[1], int(sys.argv[2])
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])

def fail_at(step):
    if attempt >= num_failures or step != 2 * attempt + 3:
        return
    if attempt % 2 == 0 and tm.process_id() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if attempt % 2 == 1 and tm.process_id() == 0:
        raise ValueError("no such file")
"""

LOOP = """
import json, pathlib

tm.initialize()
mesh = tm.Mesh({"data": 2})
torch.manual_seed(5)
weights = [torch.randn(6, 8), torch.randn(8, 1)]
moments = [torch.zeros(6, 8), torch.zeros(8, 1)]
path = pathlib.Path(folder, "state.pt")
first = 0
if path.exists():
    first, weights, moments = torch.load(path)
weights = [
    tm.distribute(w, mesh, ("R",)).requires_grad_() for w in weights
]
moments = [tm.distribute(m, mesh, ("R",)) for m in moments]
x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
x = tm.distribute(x, mesh, ("S0",))
for step in range(first, 12):
    fail_at(step)
    loss = ((x @ weights[0]).tanh() @ weights[1]).pow(2).mean()
    loss.backward()
    with torch.no_grad():
        for w, m in zip(weights, moments):
            m.mul_(0.9).add_(w.grad)
            w.sub_(0.1 * m)
            w.grad = None
    state = [step + 1, *([tm.full(t.detach()) for t in ts]
                         for ts in (weights, moments))]
    if tm.process_id() == 0:
        torch.save(state, folder + "/new.pt")
        os.replace(folder + "/new.pt", path)
values = [tm.full(w.detach()).numpy().tobytes().hex() for w in weights]
"""

FIT = """
import json, pathlib
import keras
import numpy as np

keras.distribution.initialize()
keras.distribution.set_distribution(keras.distribution.DataParallel())
keras.utils.set_random_seed(5)
model = keras.Sequential([
    keras.Input((6,)),
    keras.layers.Dense(8, activation="tanh"),
    keras.layers.Dense(1),
])
model.compile(keras.optimizers.Adam(0.05), "mse")
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")

class Failure(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        global first
        first = self.model._initial_epoch or 0
        self.step = 2 * first
    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        fail_at(self.step)

backup = keras.callbacks.BackupAndRestore(
    folder + "/backup", delete_checkpoint=False)
model.fit(x, x[:, :1], batch_size=16, epochs=6, shuffle=False, verbose=0,
          callbacks=[backup, Failure()])
values = [np.asarray(w).tobytes().hex() for w in model.get_weights()]
"""

END = """
result = pathlib.Path(folder, f"result{tm.process_id()}")
result.write_text(json.dumps([first, attempt, values]))
"""


def torchrun(folder, program, num_failures):
    """First step of the last attempt, its number, and the weights of each."""
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(FAILING + program + END)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "--max-restarts", "3"),
            *(script, folder, str(num_failures)),
        ],
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "OMP_NUM_THREADS": "1",
            "TORCH_MESH_TIMEOUT": "60",
            "TORCH_MESH_CPU_DEVICES": "1",
        },
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [
        json.loads((folder / f"result{process}").read_text())
        for process in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fit", "loop"])
def test_a_restarted_job_ends_as_if_nothing_had_been(kind, tmp_path):
    program = FIT if kind == "fit" else LOOP
    whole = torchrun(tmp_path / "whole", program, 0)
    parts = torchrun(tmp_path / "parts", program, 2)
    for (_, _, expected), (first, attempt, values) in zip(
        whole, parts, strict=True
    ):
        assert attempt == 2
        assert first > 0  # from a checkpoint, and not from the start
        assert values == expected
