"""What an optimizer's step holds at most, temporaries included.

The gradients are pending sums of four memories. They are summed in buckets, and
the parts of one bucket are gone before the next one is formed. `tm.memory`
counts shards alone, so the bytes here are those of torch's allocator, as the
profiler notes them.
"""

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C

MIB = 1 << 20
BUCKET = 25 * MIB  # kBucketBytes of src/comm/flat_sum.h
NUM_WEIGHTS, SIZES = 30, (1280, 1024)  # of 5 MiB each: six buckets
NUM_DEVICES = 4

# Axes, layout of the weights, and what part of a gradient is on a device.
PLACES = {
    "replicated": ({"data": 4}, ("R",), 1),
    "cut where batches are": ({"data": 4}, ("S0",), 1),
    "cut on another axis": ({"data": 2, "model": 2}, ("R", "S1"), 2),
}
# Gradients whose size the optimizer's own temporaries may have: torch's foreach
# makes a list of square roots.
WAYS = {"foreach": 1, "fused": 0, "single": 0}


@pytest.fixture(autouse=True)
def one_thread():
    """The profiler does not note what a team's other threads allocate."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bytes_of_step(backward, step):
    """Bytes that backward leaves, and the most that the step adds to them."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        backward()
        with torch.profiler.record_function("the step"):
            step()
    events = profile.profiler.kineto_results.events()
    (start,) = [e.start_ns() for e in events if e.name() == "the step"]
    changes = [e for e in events if e.name() == "[memory]"]
    changes.sort(key=lambda e: e.start_ns())
    before = sum(e.nbytes() for e in changes if e.start_ns() < start)
    held = most = 0
    for change in changes:
        if change.start_ns() >= start:
            held += change.nbytes()
            most = max(most, held)
    return before, most


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_a_step_holds_two_buckets_more_than_its_gradients(place, way):
    axes, layout, cuts = PLACES[place]
    _C.set_memories_for_testing([0, 1, 2, 3])
    mesh = tm.Mesh(axes)
    _C.set_memories_for_testing([])
    weights = [
        torch.nn.Parameter(tm.distribute(torch.randn(SIZES), mesh, layout))
        for _ in range(NUM_WEIGHTS)
    ]
    optimizer = torch.optim.AdamW(
        weights, foreach=way == "foreach", fused=way == "fused"
    )
    rows = ("S0",) + ("R",) * (len(axes) - 1)
    x = tm.distribute(torch.randn(8, SIZES[0]), mesh, rows)

    def backward():
        sum((x @ weight).square().sum() for weight in weights).backward()

    backward()
    optimizer.step()  # the first one makes the states
    optimizer.zero_grad()
    before, most = bytes_of_step(backward, optimizer.step)
    gradients = weights[0].nbytes * NUM_WEIGHTS // cuts
    # All gradients are parts of sums, as large as the whole; and the loss.
    assert 0 <= before - NUM_DEVICES * gradients < MIB
    buckets = 2 * BUCKET + WAYS[way] * gradients
    assert most <= NUM_DEVICES * buckets + MIB
    assert most > 0


def test_a_copy_of_all_gradients_would_be_seen():
    weights = [torch.zeros(SIZES) for _ in range(4)]
    made = []

    def backward():
        made.extend(w + 1 for w in weights)

    def step():
        copies = [x.clone() for x in made]
        del copies

    before, most = bytes_of_step(backward, step)
    assert before == most == 4 * weights[0].nbytes
