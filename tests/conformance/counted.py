"""Whether the bytes that a case is counted for are those that moved in it."""

import contextlib

from tests.conformance.record import Wrong

import torch_mesh as tm
from torch_mesh import _C

COUNTED = "counted is not moved"


def share(memories):
    """Gives each cpu:<i> of later meshes that memory."""
    _C.set_memories_for_testing(list(memories))


@contextlib.contextmanager
def moved():
    """Around a case: what the plans bring to each device, it has read.

    Asked of a wrong case too, and not of one that raises: what counts a step
    may have been cut short before it moved.
    """
    wrong = None
    with tm.counting() as counts:
        try:
            yield
        except Wrong as error:
            wrong = error
    if counts.received != counts.moved:
        raise Wrong(
            f"{COUNTED}: received {counts.received}, moved {counts.moved} in "
            f"{counts.collectives}"
        ) from wrong
    if wrong is not None:
        raise wrong
