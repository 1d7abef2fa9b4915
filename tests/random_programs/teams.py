"""Random programs on meshes whose devices several processes have.

A worker forks its mates; all run the same programs, and each compares what it
has with plain torch. After a program they tell each other what they found.
"""

import multiprocessing
import pathlib
import random
import signal
import traceback

import torch
from tests.conformance import team as teams
from tests.random_programs import program as programs
from tests.random_programs.steps import World

import torch_mesh as tm
from torch_mesh import _C

ROOT = pathlib.Path(__file__).parents[2]
# Seconds that a program may take; it takes some hundredths.
LIMIT = 120


def devices(seed, size, num_processes):
    """Names for a mesh: runs of devices for one process after the other, as
    even as they can be or of any length."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        return teams.devices(size, num_processes)
    ends = sorted(chance.randrange(size + 1) for _ in range(num_processes - 1))
    names = []
    for process, (begin, end) in enumerate(
        zip([0, *ends], [*ends, size], strict=True)
    ):
        names += [f"cpu:{i}@{process}" for i in range(end - begin)]
    return names


def run(seed, num_processes):
    """What this process finds wrong with a program; None if it is right."""
    try:
        program = programs.make(seed)
        size = torch.Size(program.mesh.values()).numel()
        names = devices(seed, size, num_processes)
        _C.separate_cpu_memories(program.separate)
        mesh = _C.Mesh(list(program.mesh.items()), names)
        if not any(name.endswith(f"@{_C.job()[0]}") for name in names):
            return None
        programs.run_in(World(tm.Mesh._of(mesh)), program)
    except programs.Different as difference:
        return f"{difference}\non {names}\n{program}"
    except Exception:
        return traceback.format_exc(limit=-4)
    return None


def work(pipe, num_processes, transport):
    """A worker: runs what the pipe says, and answers (seed, text or None)."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    team = teams.begin(num_processes, transport)
    while True:
        seed = team.next_job(pipe)
        if seed is None:
            return
        text = run(seed, num_processes)
        if not team.leads:
            team.pipes[0].send(text)
            continue
        texts = [text, *(other.recv() for other in team.pipes)]
        wrong = [f"process {i}: {t}" for i, t in enumerate(texts) if t]
        pipe.send((seed, "\n".join(wrong) or None))


def check_many(first, count, num_processes, transport):
    """The seeds that differ, each with the text of it.

    Processes that differ no longer work together: others go on from the next
    seed.
    """
    found = []
    context = multiprocessing.get_context("spawn")
    worker = pipe = None
    for seed in range(first, first + count):
        if worker is None:
            pipe, other = context.Pipe()
            worker = context.Process(
                target=work, args=(other, num_processes, transport)
            )
            worker.start()
            other.close()
        pipe.send(seed)
        text = f"seed {seed}: no answer within {LIMIT} s"
        try:
            if pipe.poll(LIMIT):
                _, text = pipe.recv()
        except (EOFError, OSError):
            text = f"seed {seed}: its processes have ended"
        if text is not None:
            found.append((seed, text))
            worker.kill()
            worker.join()
            worker = None
    if worker is not None:
        pipe.send(None)
        worker.join(20)
        worker.kill()
    return found
