"""Train steps of the demo's models, where devices do not share one memory.

What the plans bring to each device, it has read in other memories; and a mesh
that nobody has counts what the real one counts.
"""

import functools
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import pytest
from test_counters import build, digits, gpt

import torch_mesh as tm
from torch_mesh import _C

DEMOS = {
    "digits on 4": (digits, (4,)),
    "digits on 2 x 2": (digits, (2, 2)),
    "gpt on 2 x 2": (gpt, (2, 2)),
}
NUM_STEPS = 2  # the first one makes slots and plans


def counts_of_steps(demo, clip):
    """The counters of train steps, one by one, and the devices."""
    example, shape = DEMOS[demo]
    with example.distribution(shape).scope():
        keras.utils.set_random_seed(0)
        adam = keras.optimizers.Adam(1e-3, **{clip: 1.0})
        model, (x, y) = build(example.__name__, adam)
        steps = []
        for _ in range(NUM_STEPS):
            with tm.counting() as counts:
                model.train_on_batch(x, y)
            steps.append(counts)
    return steps, tm.layout(model.variables[0].value).mesh.devices


@pytest.fixture
def memories():
    """Says of later meshes which devices share a memory."""
    yield _C.set_memories_for_testing
    _C.set_memories_for_testing([])


@pytest.mark.parametrize("clip", ["global_clipnorm", "clipnorm"])
@pytest.mark.parametrize("shared", [[0, 1, 2, 3], [0, 0, 1, 1]], ids=str)
@pytest.mark.parametrize("demo", DEMOS)
def test_what_a_step_is_counted_for_is_what_moves(memories, demo, shared, clip):
    memories(shared)
    steps, _ = counts_of_steps(demo, clip)
    for counts in steps:
        assert counts.collectives
        # The first device of each memory receives for all of it.
        assert {f"cpu:{shared.index(i)}" for i in shared} <= set(counts.moved)
        assert counts.received == counts.moved
        assert counts.calls == counts.collectives


@pytest.mark.parametrize("demo", DEMOS)
def test_a_mesh_that_nobody_has_counts_what_the_real_one_counts(
    memories, monkeypatch, demo
):
    memories([0, 1, 2, 3])
    real, devices = counts_of_steps(demo, "global_clipnorm")
    keras.utils.clear_session(free_memory=False)
    memories([])
    # Keras has no name for such devices.
    monkeypatch.setattr(tm, "Mesh", functools.partial(null_of, tm.Mesh))
    null, nobodys = counts_of_steps(demo, "global_clipnorm")
    assert (devices[0], nobodys[0]) == ("cpu:0", "null:0")
    for one, other in zip(real, null, strict=True):
        assert one.collectives
        assert one.collectives == other.collectives
        assert one.bytes == other.bytes
        assert other.moved == {}


def null_of(mesh, axes, devices=None):
    """In place of a mesh, one with the same axes that nobody has."""
    return mesh(axes, devices="null")
