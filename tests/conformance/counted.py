"""Whether the collectives that a case is counted for are those that it ran."""

import contextlib

from tests.conformance.record import Wrong

import torch_mesh as tm
from torch_mesh import _C


def share(memories):
    """Gives each cpu:<i> of later meshes that memory."""
    _C.set_memories_for_testing(list(memories))


@contextlib.contextmanager
def moved():
    """Around a case: what the plans bring to each device, it has read.

    In as many calls of the communicator as they say.

    Values are not asked for: a sum whose parts lie in several memories rounds
    otherwise than plain torch, where the suites expect its bits. A case that
    raises does so; what counts a step may have been cut short in it.
    """
    with tm.counting() as counts, contextlib.suppress(Wrong):
        yield
    if counts.received != counts.moved:
        raise Wrong(
            f"received {counts.received}, moved {counts.moved} in "
            f"{counts.collectives}"
        )
    if counts.collectives != counts.calls:
        raise Wrong(f"counted {counts.collectives}, ran {counts.calls}")
