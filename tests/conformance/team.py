"""Cases on meshes over several processes: each of them runs every case.

A worker forks its mates before it imports torch_mesh. All get the same jobs;
what differs from plain torch in one of them is wrong, and what ends one ends
the worker.
"""

import ctypes
import dataclasses
import multiprocessing
import os
import signal
import socket

_FORK = multiprocessing.get_context("fork")

# Whose errors say that the processes no longer do the same.
APART = ("[processes-differ]", "[peer-", "[no-job]")


@dataclasses.dataclass
class Team:
    """This process, and pipes to the others; those have one to process 0."""

    process: int
    num_processes: int
    pipes: list

    @property
    def leads(self):
        return self.process == 0

    def next_job(self, connection):
        """What process 0 reads from `connection`, for all."""
        if not self.leads:
            return self.pipes[0].recv()
        job = connection.recv()
        for pipe in self.pipes:
            pipe.send(job)
        return job

    def join(self, record):
        """Adds what the others found wrong to what process 0 did.

        Returns whether the processes still do the same.
        """
        if not self.leads:
            self.pipes[0].send(record.outcomes)
            return not is_apart(record.outcomes)
        for number, pipe in enumerate(self.pipes, 1):
            for outcome in pipe.recv():
                if outcome.is_failure:
                    text = f"process {number}: {outcome.text}"
                    record.outcomes.append(
                        dataclasses.replace(outcome, text=text)
                    )
        return not is_apart(record.outcomes)


def is_apart(outcomes):
    return any(word in o.text for o in outcomes for word in APART)


def begin(num_processes, transport):
    """Forks the mates of this process and joins them in a job; the `Team`.

    One process is a team without a job.
    """
    if num_processes == 1:
        return Team(0, 1, [])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pipes = []
    process = 0
    for number in range(1, num_processes):
        mine, other = _FORK.Pipe()
        if os.fork() == 0:
            process, pipes = number, [other]
            # Ends with the worker.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            break
        pipes.append(mine)
    _join(process, num_processes, port, transport)
    from tests.conformance import layouts

    layouts.over(num_processes)
    return Team(process, num_processes, pipes)


def _join(process, num_processes, port, transport):
    os.environ["TORCH_MESH_TRANSPORT"] = transport
    import torch.distributed as dist

    from torch_mesh import _C

    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=process,
        world_size=num_processes,
    )
    _C.start_job(
        dist.group.WORLD.group_name, process, num_processes, 0, "torch_mesh/"
    )
    _C.set_wait_limit(60.0)


def devices(size, num_processes):
    """Names for a mesh of `size` devices: as even a cut as there is."""
    names = []
    numbers = [0] * num_processes
    for device in range(size):
        process = device * num_processes // size
        names.append(f"cpu:{numbers[process]}@{process}")
        numbers[process] += 1
    return names
