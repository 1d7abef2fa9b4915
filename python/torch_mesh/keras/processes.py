"""Keras's seed in a job. What is not Keras's is in `torch_mesh.processes`.

Loaded with Keras: the engine and torch.distributed come when they are needed.
"""

from __future__ import annotations

from typing import Any

import torch

from torch_mesh import job, processes
from torch_mesh.keras import active, collectives


def initialize_rng() -> None:
    """Makes the processes of a job draw the same random numbers.

    `initialize` has done so. If no seed was set with
    `keras.utils.set_random_seed`, process 0 draws one for all. With one process
    nothing is seeded behind the user's back.
    """
    if job.num_processes() == 1:
        return
    both = torch.tensor(_own_seed(), dtype=torch.int64)
    rows = collectives.gather_numbers("initialize", both)
    seeds: list[Any] = [row.tolist() for row in rows]
    _settle_seeds(seeds)
    if any(is_set for is_set, _ in seeds) and any(s != seeds[0] for s in seeds):
        processes.warn_of_seeds(
            "keras.utils.set_random_seed",
            [seed if is_set else None for is_set, seed in seeds],
        )


def is_distributed() -> bool:
    """Whether a program runs on more than one device or process.

    Returns:
        True with several processes, and while a distribution over at least two
        devices is in force.
    """
    if job.num_processes() > 1:
        return True
    distribution = active.current()
    return (
        distribution is not None and distribution.device_mesh.devices.size > 1
    )


def _own_seed() -> list[int]:
    """Whether this process has set a seed, and one that it would take."""
    from keras.src.random import seed_generator
    from keras.src.utils import rng_utils

    mine = rng_utils.get_random_seed()
    chosen = seed_generator.make_default_seed() if mine is None else mine
    return [int(mine is not None), chosen]


def _settle_seeds(said: list[Any]) -> None:
    """Sets one seed for all, if none has set any.

    What another process says is only looked at: one that is nonsense sets none.
    Of seeds that were set and differ the warning about torch's tells.
    """
    is_pair = all(
        isinstance(pair, list) and [type(n) for n in pair] == [int, int]
        for pair in said
    )
    if len(said) == 1 or not is_pair or any(is_set for is_set, _ in said):
        return
    _set_seed(said[0][1])


def _follow_the_job() -> None:
    """Sets the job's seed, where Keras has come after the job began."""
    from keras.src.utils import rng_utils

    seed = job.seed()
    if seed is None or job.num_processes() == 1:
        return
    if rng_utils.get_random_seed() is None:
        _set_seed(seed)


def _set_seed(seed: int) -> None:
    """Sets Keras's seed but leaves torch's generator, which the job has set."""
    from keras.src.utils import rng_utils

    state = torch.get_rng_state()
    rng_utils.set_random_seed(seed % (1 << 32))
    torch.set_rng_state(state)


processes.compare_too("keras_seed", _own_seed, _settle_seeds)
active.at_first_distribution(_follow_the_job)
