"""What one train step of the examples moves between devices, from counters.

Asserted on the meshes 4, 2x2 and 2x4, with plain Adam, with global_clipnorm,
with a LossScaleOptimizer and with gradients accumulated over two steps.
"""

import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

import digits
import gpt
import keras
import pytest

import torch_mesh as tm

MESHES = ((4,), (2, 2), (2, 4))
BUCKET_BYTES = 25 * 2**20
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "global_clipnorm": lambda: keras.optimizers.Adam(1e-3, global_clipnorm=1.0),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(1e-3), initial_scale=1024.0
    ),
    "accumulation": lambda: keras.optimizers.Adam(
        1e-3, gradient_accumulation_steps=2
    ),
}
# Steps before the counted ones make the variables and the plans.
NUM_WARM_STEPS = 4
# The largest statistics of a normalization: its channels, in float32.
STATISTICS_BYTES = 64 * 4


def build(name, optimizer):
    """Returns the model of an example and a batch.

    The model has the example's size: activations are larger than weights, so
    that gathering weights would be the cheaper way to do each single op. The
    batches have sizes with which no part of an activation, on any mesh here,
    has as many bytes as a split weight.
    """
    if name == "digits":
        (x, y), _ = digits.load_data()
        return digits.build_model(optimizer=optimizer), (x[:60], y[:60])
    (x, y), _ = gpt.load_data(num_train=28, num_test=1)
    return gpt.build_model(optimizer=optimizer), (x, y)


class Run:
    """The counters of single train steps of a model on a mesh."""

    def __init__(self, name, shape, optimizer):
        keras.utils.clear_session()
        example = digits if name == "digits" else gpt
        distribution = example.distribution(shape)
        with distribution.scope():
            keras.utils.set_random_seed(0)
            model, (x, y) = build(name, OPTIMIZERS[optimizer]())
            for _ in range(NUM_WARM_STEPS):
                model.train_on_batch(x, y)
            self.steps = []
            for _ in range(2):
                with tm.counting() as counts:
                    model.train_on_batch(x, y)
                self.steps.append(counts)
        mesh = distribution.device_mesh
        self.axes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
        weights = [v.value for v in model.trainable_variables]
        self.held = sum(tm.shards(w)[0].nbytes for w in weights)
        self.split = {
            v.path: v.value.nbytes
            for v in model.trainable_variables
            if is_split(v.value)
        }
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        self.layouts = [
            (v.path, tm.layout(v.value), tm.layout(slot.value))
            for slots in (optimizer._momentums, optimizer._velocities)
            for v, slot in zip(model.trainable_variables, slots, strict=True)
        ]


def is_split(tensor):
    """Returns whether a mesh axis splits a dim of the tensor."""
    return any(p.startswith("S") for p in tm.layout(tensor).placements)


def received(num_bytes, num_devices):
    """Returns what a device receives at least of a tensor it must get whole.

    It holds one part of num_devices already. Rounded up.
    """
    return -(-num_bytes * (num_devices - 1) // num_devices)


def is_bucket(event):
    """Returns whether the event is a reduction of a bucket of gradients."""
    return event[3] == "reduce_partials"


@pytest.fixture(scope="module")
def runs():
    """Returns a function (model, mesh shape, optimizer) -> Run, made once."""
    made = {}

    def get(*key):
        if key not in made:
            made[key] = Run(*key)
        return made[key]

    return get


def run_id(key):
    """Returns the text of a run: gpt-2x4-adam."""
    name, shape, optimizer = key
    return f"{name}-{'x'.join(map(str, shape))}-{optimizer}"


RUNS = [
    (name, shape, optimizer)
    for name in ("digits", "gpt")
    for shape in MESHES
    for optimizer in OPTIMIZERS
]


@pytest.fixture(params=RUNS, ids=run_id)
def run(runs, request):
    return runs(*request.param)


@pytest.fixture(params=[r for r in RUNS if len(r[1]) == 2], ids=run_id)
def split_run(runs, request):
    return runs(*request.param)


def test_no_op_is_computed_on_replicas_for_want_of_a_rule(run):
    for counts in run.steps:
        assert dict(counts.replicated_ops) == {}


def test_a_warm_step_makes_no_plan(run):
    assert [counts.plans_made for counts in run.steps] == [0, 0]


def test_no_collective_has_the_size_of_a_split_weight(split_run):
    size = split_run.axes["model"]
    whole = {received(n, size): path for path, n in split_run.split.items()}
    for counts in split_run.steps:
        for event in counts.events:
            _, axis, num_bytes, _ = event
            if axis == "model" and not is_bucket(event):
                # All-gather takes the bytes once, all-reduce twice.
                assert num_bytes not in whole, (event, whole[num_bytes])
                assert num_bytes / 2 not in whole, event


def test_reduced_gradients_have_the_size_of_what_a_device_holds(run):
    for counts in run.steps:
        for axis, size in run.axes.items():
            moved = sum(
                event[2]
                for event in counts.events
                if is_bucket(event) and event[1] == axis
            )
            # A ring of n devices passes each byte 2 (n - 1) / n times.
            assert moved <= 2 * received(run.held, size) + 64


def test_gradients_are_reduced_in_at_most_buckets_plus_one_collectives(run):
    num_buckets = -(-run.held // BUCKET_BYTES)
    for counts in run.steps:
        for axis in run.axes:
            reductions = [
                event
                for event in counts.events
                if event[1] == axis and is_gradient(event, run)
            ]
            assert len(reductions) <= num_buckets + 1, reductions


def is_gradient(event, run):
    """Returns whether the event may reduce gradients of weights.

    Those are the buckets, and any other reduction on the axis that splits the
    batch of more than the statistics of a normalization.
    """
    kind, axis, num_bytes, _ = event
    if is_bucket(event):
        return True
    batch_axis = next(iter(run.axes))
    return (
        axis == batch_axis
        and kind in ("all_reduce", "reduce_scatter")
        and num_bytes > 2 * STATISTICS_BYTES
    )


def test_the_layout_map_splits_all_the_weights_it_names(split_run):
    assert len(split_run.split) in (6, 14), split_run.split


def test_slots_have_the_layout_of_their_variable(split_run):
    for path, variable, slot in split_run.layouts:
        assert slot == variable, path
