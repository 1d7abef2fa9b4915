"""Runs a program in several processes of one machine, on free ports."""

import functools
import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import fork_server

ROOT = pathlib.Path(__file__).parents[2]

PREAMBLE = """
import sys
import numpy as np, torch, keras
import torch_mesh as tm
from torch_mesh.keras import distribution_lib
me, addresses = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
"""

# Without Keras, which takes longer to load than all else.
PLAIN = """
import sys
import torch
import torch_mesh as tm
me, addresses = int(sys.argv[1]), sys.argv[2]
"""

PLAIN_START = """
tm.initialize(addresses, num_processes=2, process_id=me, timeout=60)
"""

# Of tests with any number of processes: `JOIN.format(count=3)`.
JOIN = """
tm.initialize(addresses, {count}, me, timeout=60)
"""

# Part of a program: what an error of `call` says.
SAID = """
def said(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    raise SystemExit("no error")
"""

START = """
distribution_lib.initialize(
    job_addresses=addresses, num_processes=2, process_id=me, timeout=60
)
"""


def free_addresses(count):
    """`count` addresses that nobody listens at, comma separated."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    addresses = ",".join(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    for s in sockets:
        s.close()
    return addresses


BASE = {
    "KERAS_BACKEND": "torch",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}

# Read when a package is loaded: a fork would have another program's.
AT_LOADING = [*BASE, "TORCH_MESH_CPU_MEMORIES"]


@functools.cache
def server_with(*packages):
    return fork_server.Server(packages, {**os.environ, **BASE})


def start_process(text, arguments, environment, preamble):
    """A process that runs `text`: forked with what `preamble` loads, if so.

    A program with no preamble, or with an environment that matters when
    packages are loaded, has a process that loads all itself.
    """
    usual = {**os.environ, **BASE}
    is_usual = all(environment.get(k) == usual.get(k) for k in AT_LOADING)
    if not preamble or not is_usual:
        return subprocess.Popen(
            [sys.executable, "-c", text, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
    packages = ["torch", "torch_mesh"]
    if "keras" in preamble:
        packages += ["keras", "torch_mesh.keras"]
    return server_with(*packages).start(text, arguments, environment)


def run(
    program,
    ids=(0, 1),
    start=START,
    environment=None,
    addresses=None,
    preamble=PREAMBLE,
):
    """Runs `program` once for each of `ids`, at the same time.

    Args:
        program: Python text, after `preamble` and `start`.
        ids: What each process takes as its index.
        start: Python text before the program; "" does not begin a job.
        environment: Function from index to more variables.
        addresses: Of the processes; None takes free ones.
        preamble: Python text before all others.

    Returns:
        List of `(exit code, stdout, stderr)`, one for each process.
    """
    text = preamble + start + textwrap.dedent(program)
    addresses = addresses or free_addresses(2)
    processes = []
    for i in ids:
        env = {**os.environ, **BASE}
        env.update(environment(i) if environment else {})
        processes.append(
            start_process(text, [str(i), addresses], env, preamble)
        )
    try:
        outputs = [p.communicate(timeout=200) for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [(p.returncode, *o) for p, o in zip(processes, outputs, strict=True)]


def check(program, **options):
    """Runs `program`; fails with its output unless all processes end well."""
    results = run(program, **options)
    for code, out, err in results:
        assert code == 0, f"{out}\n{err}"
    return [out for _, out, _ in results]
