"""Slots and updates that a distribution cuts over the axis of its batches."""

import contextlib

import keras
import numpy as np
import one_device
import pytest
import torch
from keras.distribution import DataParallel, DeviceMesh, ModelParallel
from one_device import DEVICES, assert_same, dense_map, digits, under

import torch_mesh as tm
from torch_mesh.keras import describe

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-2, momentum=0.5),
    "clipnorm": lambda: keras.optimizers.SGD(1e-2, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.Adam(1e-2, global_clipnorm=0.1),
    "ema": lambda: keras.optimizers.SGD(
        1e-2, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: keras.optimizers.AdamW(
        1e-2, gradient_accumulation_steps=2
    ),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-2, momentum=0.9)
    ),
    "lamb": lambda: keras.optimizers.Lamb(1e-2),
    "adafactor": lambda: keras.optimizers.Adafactor(1e-2),
    "muon": lambda: keras.optimizers.Muon(1e-2),
    "multi": lambda: keras.optimizers.MultiOptimizer(
        lambda v: (
            keras.optimizers.SGD(1e-2, momentum=0.9)
            if "bias" in v.path
            else keras.optimizers.Adam(1e-2)
        )
    ),
}
POINTWISE = ("adam", "adamw", "sgd", "rmsprop", "ema", "loss_scale")


def distribution(name, shard=True):
    if name == "data=4":
        return DataParallel(devices=DEVICES[:4], shard_optimizer=shard)
    mesh = DeviceMesh((2, 2), ["batch", "model"], DEVICES[:4])
    return ModelParallel(
        layout_map=dense_map(mesh),
        batch_dim_name="batch",
        shard_optimizer=shard,
    )


def build(optimizer="adam", constraint=None):
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(
                16, activation="relu", kernel_constraint=constraint
            ),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(4),
        ]
    )
    model.compile(
        OPTIMIZERS[optimizer](),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def fit(model, epochs=2):
    x, y = digits(n=70)
    history = model.fit(x, y, batch_size=16, epochs=epochs, verbose=0)
    return history.history["loss"], model.get_weights()


@pytest.mark.parametrize("name", ["data=4", "batch=2 model=2"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_cut_optimizer_trains_as_on_one_device(optimizer, name):
    plain = under(None, lambda: fit(build(optimizer)))
    whole = under(distribution(name, False), lambda: fit(build(optimizer)))
    cut = under(distribution(name), lambda: fit(build(optimizer)))
    assert_same(cut, plain, rtol=1e-4, atol=1e-5)
    if optimizer in POINTWISE:
        for ours, theirs in zip(cut[1], whole[1], strict=True):
            assert np.array_equal(ours, theirs)


def test_slots_are_made_and_stay_cut():
    def look():
        model = build()
        model.optimizer.build(model.trainable_variables)
        before = describe(model.optimizer).rows
        fit(model, epochs=1)
        return before, describe(model.optimizer).rows, describe(model).rows

    before, after, weights = under(distribution("data=4"), look)
    assert before == after
    slots = {r.path: r for r in after if "dense" in r.path}
    assert len(slots) == 12
    assert {r.layout for r in slots.values()} == {"(S0)"}
    assert {r.layout for r in weights} == {"(R)"}
    for row in slots.values():
        assert 4 * np.prod(row.shard_shape) == np.prod(row.shape)
    _, after, weights = under(distribution("batch=2 model=2"), look)
    kernels = [r.layout for r in after if "kernel" in r.path]
    assert set(kernels) == {"(S0, S1)"}
    assert {r.layout for r in weights if "kernel" in r.path} == {"(R, S1)"}


def test_memory_shows_a_part_of_the_slots_on_each_device():
    def states():
        model = build()
        fit(model, epochs=1)
        slots = [v.value for v in model.optimizer.variables if v.ndim]
        return tm.memory(slots).parameters

    whole = under(distribution("data=4", False), states)
    cut = under(distribution("data=4"), states)
    assert cut == {device: n // 4 for device, n in whole.items()}


@pytest.mark.parametrize("optimizer", ["adam", "global_clipnorm", "loss_scale"])
def test_a_step_moves_no_more_than_one_all_reduce(optimizer):
    def count():
        model = build(optimizer)
        x, y = digits(16)
        for _ in range(3):
            model.train_on_batch(x, y)
        with tm.counting() as counts:
            model.train_on_batch(x, y)
        assert counts.plans_made == 0
        return sum(v.value.nbytes for v in model.trainable_variables), [
            e for e in counts.events if e[2] > 64
        ]

    num_bytes, events = under(distribution("data=4"), count)
    assert [event[0] for event in events] == ["reduce_scatter", "all_gather"]
    assert [event[2] for event in events] == [num_bytes * 3 // 4] * 2


def test_a_step_that_accumulates_gathers_no_weight():
    def count():
        model = build("accumulation")
        x, y = digits(16)
        for _ in range(2):
            model.train_on_batch(x, y)
        found = []
        for _ in range(2):
            before = model.get_weights()
            with tm.counting() as counts:
                model.train_on_batch(x, y)
            is_same = all(map(np.array_equal, before, model.get_weights()))
            found.append((is_same, counts["all_gather@batch"]))
        return found

    assert under(distribution("data=4"), count) == [(True, 0), (False, 1)]


def test_a_constraint_holds():
    def run():
        return fit(build(constraint=keras.constraints.MaxNorm(0.5)))

    plain = under(None, run)
    cut = under(distribution("data=4"), run)
    assert_same(cut, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_load_with_and_without_it(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    kinds = {
        "plain": lambda: None,
        "whole": lambda: distribution("data=4", False),
        "cut": lambda: distribution("data=4"),
        "cut further": lambda: distribution("batch=2 model=2"),
    }

    def first():
        model = build()
        fit(model, epochs=1)
        model.save(path) if suffix == ".keras" else model.save_weights(path)
        return fit(model, epochs=1)

    def second():
        if suffix == ".keras":
            model = keras.saving.load_model(path)
        else:
            model = build()
            model.optimizer.build(model.trainable_variables)
            model.load_weights(path)
        keras.utils.set_random_seed(1)
        losses = fit(model, epochs=1)
        return losses, [v.numpy() for v in model.optimizer.variables]

    results = {}
    for writer in ("whole", "cut"):
        under(kinds[writer](), first)
        for reader in kinds:
            results[writer, reader] = under(kinds[reader](), second)
    expected = results.pop(("whole", "plain"))
    for found in results.values():
        assert_same(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_moves_under_it_and_back_with_its_slots():
    def run(scope):
        keras.utils.set_random_seed(7)
        model = build()
        fit(model, epochs=1)
        layouts = set()
        with scope():
            fit(model, epochs=1)
            slots = [v.value for v in model.optimizer.variables if v.ndim]
            layouts = {str(tm.layout(s)) for s in slots if tm.is_global(s)}
        return fit(model, epochs=1), layouts

    expected, _ = run(contextlib.nullcontext)
    with pytest.warns(UserWarning, match="late-distribution"):
        found, layouts = run(distribution("data=4").scope)
    assert layouts == {"(S0)"}
    assert_same(found, expected, rtol=1e-4, atol=1e-5)


class Breaks(keras.optimizers.SGD):
    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        trainable_variables[0].assign_add(grads[0])
        raise ArithmeticError("halfway")


def test_weights_are_as_before_where_an_update_raises():
    def run():
        model = build()
        model.compile(Breaks(0.1), "sparse_categorical_crossentropy")
        before = model.get_weights()
        memories = [
            v.value.untyped_storage()._cdata for v in model.trainable_variables
        ]
        with pytest.raises(ArithmeticError, match="halfway"):
            model.train_on_batch(*digits(16))
        assert memories == [
            v.value.untyped_storage()._cdata for v in model.trainable_variables
        ]
        assert {str(tm.layout(v.value)) for v in model.trainable_variables} == {
            "(R)"
        }
        return before, model.get_weights()

    before, after = under(distribution("data=4"), run)
    assert all(map(np.array_equal, before, after))


def test_an_optimizer_of_torch_is_cut_by_its_own_function():
    def run(shard):
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        x, y = digits(16)
        if shard:
            tm.shard_optimizer(optimizer)
            layout = keras.distribution.distribution().get_data_layout(x.shape)
            x = keras.distribution.distribute_tensor(x, layout)
        for _ in range(3):
            optimizer.zero_grad()
            model.loss(y, model(x)).backward()
            optimizer.step()
        return model.get_weights()

    plain = under(None, lambda: run(False))
    cut = under(distribution("data=4", False), lambda: run(True))
    assert_same(cut, plain, rtol=1e-4, atol=1e-5)


def test_it_is_off_unless_asked_for():
    assert not one_device.make_distribution("data=2").shard_optimizer
    assert not one_device.make_distribution("batch=2 model=2").shard_optimizer
