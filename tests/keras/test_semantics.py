"""What Keras programs rely on elsewhere holds on a mesh: docs/keras.md."""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras import ops
from keras.distribution import (
    DataParallel,
    LayoutMap,
    ModelParallel,
    TensorLayout,
    set_distribution,
)
from one_device import Losses, digits, same_everywhere

import torch_mesh as tm

MESHES = ["data=3", "batch=2 model=2"]
on_meshes = pytest.mark.parametrize("name", MESHES)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def placements(variable):
    return tm.layout(variable._value).placements


def fit(model, optimizer="adam", **kwargs):
    """Two epochs of 70 samples in batches of 16; returns losses, weights."""
    x, y = digits()
    losses = Losses()
    callbacks = [losses, *kwargs.pop("callbacks", [])]
    model.compile(optimizer, LOSS, **kwargs)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
    return losses.values, model.get_weights()


def dense(units=4, dtype=None):
    return keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="relu", dtype=dtype),
            keras.layers.Dense(units, dtype=dtype),
        ]
    )


# Variables


def test_layouts_stay_over_training():
    def train():
        model = one_device.mlp()
        model.build((None, 12))
        model.optimizer.build(model.trainable_variables)
        state = model.variables + model.optimizer.variables
        before = [(v.path, placements(v)) for v in state]
        x, y = digits()
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)
        return before, [(v.path, placements(v)) for v in state]

    before, after = one_device.under(
        one_device.make_distribution("batch=2 model=2"), train
    )
    assert after == before
    assert ("R", "S1") in [p for _, p in after]


def test_slots_averages_and_accumulators_follow_their_variable():
    def look():
        model = dense()
        optimizer = keras.optimizers.Adam(
            use_ema=True, gradient_accumulation_steps=2
        )
        optimizer.build(model.trainable_variables)
        kernel, bias = model.layers[0].kernel, model.layers[0].bias
        found = {}
        for owner in (kernel, bias):
            name = owner.path.replace("/", "_") + "_"
            found[owner.path] = [
                placements(v) for v in optimizer.variables if name in v.path
            ]
        return found

    found = one_device.under(
        one_device.make_distribution("batch=2 model=2"), look
    )
    # momentum, velocity, average, accumulator
    assert found == {
        "sequential/dense/kernel": [("R", "S1")] * 4,
        "sequential/dense/bias": [("R", "S0")] * 4,
    }


def test_what_no_pattern_names_is_replicated():
    def look():
        model = one_device.mlp()
        x, y = digits()
        model.fit(x, y, batch_size=35, verbose=0)
        seeds = [v for v in model.variables if "seed" in v.path]
        assert seeds
        assert model.metrics_variables
        return [
            model.optimizer.iterations,
            model.optimizer._learning_rate,
            *model.metrics_variables,
            *seeds,
        ]

    for variable in one_device.under(
        one_device.make_distribution("batch=2 model=2"), look
    ):
        assert placements(variable) == ("R", "R"), variable.path


# Optimizers


@on_meshes
@pytest.mark.parametrize(
    "kind",
    ["SGD", "RMSprop", "Adagrad", "Adamax", "Nadam", "Lion", "Ftrl", "Muon"],
)
def test_every_optimizer_trains_as_on_one_device(name, kind):
    def train():
        optimizer = getattr(keras.optimizers, kind)(1e-3)
        return fit(dense(), optimizer)

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


@on_meshes
def test_averages_are_those_of_one_device(name):
    def train():
        model = dense()
        optimizer = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9)
        losses, _ = fit(model, optimizer)
        averages = [
            v.numpy() for v in optimizer._model_variables_moving_average
        ]
        optimizer.finalize_variable_values(model.trainable_variables)
        return losses, averages, model.get_weights()

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


@on_meshes
def test_swap_ema_weights_evaluates_the_averages(name):
    def train():
        model = dense()
        x, y = digits()
        model.compile(
            keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8), LOSS
        )
        history = model.fit(
            x,
            y,
            validation_data=(x[:20], y[:20]),
            batch_size=16,
            epochs=3,
            verbose=0,
            callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
        )
        return history.history, model.get_weights()

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


@on_meshes
def test_gradients_accumulate_over_steps(name):
    def train():
        optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=3)
        return fit(dense(), optimizer)

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


@on_meshes
def test_a_loss_scale_grows_and_skips_steps_as_on_one_device(name):
    """The scale of 2^126 overflows the gradients: those steps are skipped."""

    def train():
        model = dense()
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1e-2),
            initial_scale=2.0**126,
            dynamic_growth_steps=3,
        )
        losses, weights = fit(model, optimizer)
        return (
            weights,
            optimizer.dynamic_scale.numpy(),
            optimizer.step_counter.numpy(),
            optimizer.inner_optimizer.iterations.numpy(),
        )

    _, scale, _, steps = same_everywhere(name, train)
    assert scale != 2.0**126
    assert 0 < steps < 10


# Precision


@on_meshes
@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"]
)
def test_a_dtype_policy_trains_as_on_one_device(name, policy):
    """Sums over devices are re-ordered: as far apart as the dtype's steps."""

    def train():
        model = dense(dtype=policy)
        losses, weights = fit(model, keras.optimizers.SGD(0.05))
        assert str(model.layers[0].compute_dtype) in policy
        return losses, [w.astype("float32") for w in weights]

    tolerance = 2e-2 if "bfloat16" in policy else 3e-3
    same_everywhere(name, train, rtol=tolerance, atol=tolerance)


def test_a_cast_of_a_split_weight_moves_nothing():
    def count():
        layer = keras.layers.Dense(8, dtype="mixed_bfloat16")
        layer.build((None, 6))
        with tm.counting() as counts:
            y = layer(np.ones((4, 6), "float32"))
        assert y.dtype == torch.bfloat16
        return tm.layout(y).placements, counts.collectives

    layout, collectives = one_device.under(
        one_device.make_distribution("batch=2 model=2"), count
    )
    assert layout[1] == "S1"
    assert collectives == {}


# LoRA and quantisation


@on_meshes
def test_lora_trains_and_merges_as_on_one_device(name):
    def train():
        model = dense()
        for layer in model.layers:
            layer.enable_lora(2)
        before = model.layers[0]._kernel.numpy()
        losses, weights = fit(model, keras.optimizers.SGD(0.1))
        assert np.array_equal(model.layers[0]._kernel.numpy(), before)
        x, _ = digits(8)
        return losses, weights, model.predict(x, verbose=0)

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


def test_lora_weights_are_replicated_unless_named():
    def look():
        layer = keras.layers.Dense(8, lora_rank=2)
        layer.build((None, 6))
        return (
            placements(layer._kernel),
            placements(layer.lora_kernel_a),
            placements(layer.lora_kernel_b),
        )

    mesh = keras.distribution.DeviceMesh(
        (2, 2), ["batch", "model"], one_device.DEVICES[:4]
    )
    layout_map = LayoutMap(mesh)
    layout_map["dense/kernel"] = (None, "model")
    distribution = ModelParallel(layout_map=layout_map)
    kernel, a, b = one_device.under(distribution, look)
    assert (kernel, a, b) == (("R", "S1"), ("R", "R"), ("R", "R"))


@on_meshes
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantised_model_predicts_as_on_one_device(name, mode):
    def run():
        model = keras.Sequential(
            [
                keras.Input((6,), dtype="int32"),
                keras.layers.Embedding(10, 8),
                keras.layers.EinsumDense("abc,cd->abd", (6, 8)),
                keras.layers.Flatten(),
                keras.layers.Dense(12, activation="relu"),
                keras.layers.Dense(5),
            ]
        )
        tokens = np.random.RandomState(0).randint(0, 10, (7, 6))
        before = model.predict(tokens, verbose=0)
        model.quantize(mode)
        after = model.predict(tokens, verbose=0)
        assert not np.array_equal(before, after)
        return after, model.get_weights()

    same_everywhere(name, run, rtol=1e-4, atol=1e-5)


def test_a_quantised_kernel_keeps_its_layout():
    def run():
        model = dense()
        model.quantize("int8")
        layer = model.layers[0]
        assert layer._kernel._value.dtype == torch.int8
        return placements(layer._kernel), layer._kernel.path

    layout, _ = one_device.under(
        one_device.make_distribution("batch=2 model=2"), run
    )
    assert layout == ("R", "S1")


@on_meshes
def test_lora_on_a_quantised_model_trains_as_on_one_device(name):
    def train():
        model = dense()
        model.quantize("int8")
        for layer in model.layers:
            layer.enable_lora(2)
        return fit(model, keras.optimizers.SGD(0.1))

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


# Layers


@on_meshes
def test_batch_norm_statistics_are_those_of_the_global_batch(name):
    def train():
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.BatchNormalization(momentum=0.5)]
        )
        model.compile("sgd", "mse")
        x, _ = digits()
        model.fit(x, x, batch_size=16, shuffle=False, verbose=0)
        layer = model.layers[0]
        return layer.moving_mean.numpy(), layer.moving_variance.numpy()

    same_everywhere(name, train, atol=1e-6)


def sequences():
    x, y = digits(40, num_features=18)
    return x.reshape(40, 6, 3), y


RNNS = {
    "simple": lambda: keras.layers.SimpleRNN(8),
    "lstm": lambda: keras.layers.LSTM(8, recurrent_dropout=0.1, seed=1),
    "gru": lambda: keras.layers.GRU(8, return_sequences=False),
    "bidirectional": lambda: keras.layers.Bidirectional(keras.layers.LSTM(4)),
    "stacked": lambda: keras.layers.RNN(
        [keras.layers.LSTMCell(6), keras.layers.GRUCell(8)]
    ),
    "convolutional": lambda: keras.Sequential(
        [
            keras.layers.Reshape((6, 3, 1)),
            keras.layers.ConvLSTM1D(4, 2),
            keras.layers.Flatten(),
        ]
    ),
}


@on_meshes
@pytest.mark.parametrize("kind", RNNS)
def test_recurrent_layers_train_as_on_one_device(name, kind):
    def train():
        x, y = sequences()
        model = keras.Sequential(
            [keras.layers.Masking(), RNNS[kind](), keras.layers.Dense(4)]
            if kind != "convolutional"
            else [RNNS[kind](), keras.layers.Dense(4)]
        )
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        losses = Losses()
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[losses])
        return losses.values, model.predict(x[:9], verbose=0)

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


def test_a_stateful_rnn_keeps_its_state_between_batches():
    def run():
        x, _ = sequences()
        layer = keras.layers.LSTM(8, stateful=True)
        first = ops.convert_to_numpy(layer(x[:8]))
        second = ops.convert_to_numpy(layer(x[:8]))
        assert not np.array_equal(first, second)
        layer.reset_state()
        return first, second, ops.convert_to_numpy(layer(x[:8]))

    same_everywhere("batch=2 model=2", run)


@on_meshes
def test_an_embedding_split_over_its_vocabulary_trains(name):
    def train():
        tokens = np.random.RandomState(0).randint(0, 11, (40, 5))
        model = keras.Sequential(
            [
                keras.layers.Embedding(11, 8, mask_zero=True),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(4),
            ]
        )
        model.compile(keras.optimizers.Adam(1e-2), LOSS)
        losses = Losses()
        model.fit(
            tokens, tokens[:, 0] % 4, verbose=0, batch_size=16,
            callbacks=[losses],
        )  # fmt: skip
        return losses.values, model.get_weights()

    expected = one_device.under(None, train)
    sizes = (3,) if name == "data=3" else (2, 2)
    axes = ["model"] if len(sizes) == 1 else ["batch", "model"]
    mesh = keras.distribution.DeviceMesh(
        sizes, axes, one_device.DEVICES[: int(np.prod(sizes))]
    )
    layout_map = LayoutMap(mesh)
    layout_map[".*embeddings"] = ("model", None)
    split = ModelParallel(layout_map=layout_map, batch_dim_name=axes[0])
    actual = one_device.under(split, train)
    one_device.assert_same(actual, expected, rtol=1e-4, atol=1e-5)


@on_meshes
def test_attention_with_split_heads_gives_one_devices_numbers(name):
    def train():
        inputs = keras.Input((6, 3))
        h = keras.layers.Dense(8)(inputs)
        h = keras.layers.MultiHeadAttention(4, 2, dropout=0.1, seed=3)(
            h, h, use_causal_mask=True
        )
        h = keras.layers.LayerNormalization()(h)
        h = keras.layers.GroupQueryAttention(2, 4, 2)(h, h)
        outputs = keras.layers.Dense(4)(keras.layers.Flatten()(h))
        model = keras.Model(inputs, outputs)
        x, y = sequences()
        model.compile(keras.optimizers.Adam(1e-3), LOSS)
        losses = Losses()
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[losses])
        return losses.values

    expected = one_device.under(None, train)
    distribution = one_device.make_distribution(name)
    if name != "data=3":
        layout_map = distribution._layout_map
        layout_map[".*(query|key|value)/kernel"] = (None, "model", None)
        layout_map[".*attention_output/kernel"] = ("model", None, None)
    one_device.assert_same(one_device.under(distribution, train), expected)


# Output layouts


def test_an_output_layout_is_kept_on_the_way(mesh):
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x):
            if isinstance(x, torch.Tensor) and tm.is_global(x):
                seen.append(tm.layout(x).placements)
            return x

    def train():
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(16, name="first"),
                Spy(),
                keras.layers.Dense(4),
            ]
        )
        return fit(model, keras.optimizers.SGD(0.1))

    expected = one_device.under(None, train)
    layout_map = LayoutMap(mesh)
    layout_map[".*first/output"] = ("batch", "model")
    distribution = ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    one_device.assert_same(
        one_device.under(distribution, train), expected, rtol=1e-4, atol=1e-6
    )
    assert set(seen) == {("S0", "S1")}


def test_nested_outputs_get_their_layout_leaf_by_leaf(mesh):
    class Two(keras.layers.Layer):
        def call(self, x):
            return {"wide": x * 2, "flat": ops.sum(x, axis=1)}

    layout_map = LayoutMap(mesh)
    layout_map[".*two.*/output"] = TensorLayout((None, "model"), mesh)
    set_distribution(ModelParallel(layout_map=layout_map))
    outputs = Two(name="two")(np.ones((4, 6), "float32"))
    assert tm.layout(outputs["wide"]).placements == ("R", "S1")
    assert tm.layout(outputs["flat"]).placements == ("R", "R")


# The trainer


def test_steps_per_execution_is_keras_own(devices):
    """Keras 3.15.1 has none on torch; a Keras that has must train the same."""

    def train():
        x, y = digits()
        model = dense()
        model.compile("sgd", LOSS, steps_per_execution=2)
        history = model.fit(x, y, batch_size=16, verbose=0).history
        return history["loss"]

    try:
        expected = one_device.under(None, train)
    except ValueError as error:
        with pytest.raises(ValueError) as ours:
            one_device.under(DataParallel(devices=devices), train)
        assert str(ours.value) == str(error)
        return
    actual = one_device.under(DataParallel(devices=devices), train)
    one_device.assert_same(actual, expected)


@on_meshes
def test_metrics_are_exact_on_global_values(name):
    """Maxima and confusion matrices are no sums over devices."""

    class Largest(keras.metrics.Metric):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.most = self.add_variable((), "zeros", name="most")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.most.assign(ops.maximum(self.most, ops.max(y_pred)))

        def result(self):
            return self.most

        def reset_state(self):
            self.most.assign(0.0)

    def measure():
        x, y = digits()
        model = dense()
        model.compile(
            "sgd",
            LOSS,
            metrics=[
                "accuracy",
                keras.metrics.SparseTopKCategoricalAccuracy(2),
                keras.metrics.MeanIoU(4, sparse_y_pred=False),
                Largest(),
            ],
            weighted_metrics=["accuracy"],
        )
        weight = np.linspace(0, 1, 70).astype("float32")
        return (
            model.evaluate(x, y, batch_size=16, verbose=0),
            model.evaluate(x, y, 16, sample_weight=weight, verbose=0),
        )

    same_everywhere(name, measure)


@on_meshes
def test_one_seed_gives_one_devices_numbers(name):
    def draw():
        generator = keras.random.SeedGenerator(5)
        values = [
            keras.random.normal((5, 3)),
            keras.random.uniform((7,), seed=3),
            keras.random.truncated_normal((4, 4), seed=generator),
            keras.random.randint((9,), 0, 100),
            keras.random.categorical(np.zeros((3, 5), "float32"), 4),
            keras.random.dropout(ops.ones((6, 5)), 0.5, seed=1),
            keras.random.shuffle(np.arange(10), seed=2),
            keras.random.gamma((3,), 2.0, seed=4),
            keras.random.beta((3,), 2.0, 3.0, seed=5),
            keras.random.binomial((3,), 10.0, 0.5, seed=6),
        ]
        return [ops.convert_to_numpy(v) for v in values]

    same_everywhere(name, draw, rtol=0, atol=0)
