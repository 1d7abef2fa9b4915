"""Keras's recurrent layers: one device's numbers, whole in each memory."""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras import layers
from keras.distribution import LayoutMap, ModelParallel

import torch_mesh as tm

ROWS, STEPS, FEATURES, UNITS = 10, 5, 3, 4


def numbers(*sizes, seed=0):
    return np.random.RandomState(seed).randn(*sizes)


def results(value):
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in value]


def train(make, mask=None, dtype="float32", calls=2):
    """Returns outputs and all gradients of calls of a layer, in order."""
    layer = make()
    x = keras.ops.convert_to_tensor(
        numbers(ROWS, STEPS, FEATURES).astype(dtype)
    )
    layer.build(x.shape)
    # The initial biases are zeros, and would hide one left out.
    layer.set_weights(
        [0.4 * numbers(*w.shape, seed=i) for i, w in enumerate(layer.weights)]
    )
    x = split(x)
    if mask is not None:
        mask = split(keras.ops.convert_to_tensor(mask))
    found = []
    for _ in range(calls):
        x = x.detach().requires_grad_()
        outputs = layer(x, mask=mask, training=True)
        outputs = keras.tree.flatten(outputs)
        loss = sum((i + 1) * torch.sin(y).sum() for i, y in enumerate(outputs))
        weights = [w.value for w in layer.trainable_weights]
        gradients = torch.autograd.grad(loss, [x, *weights])
        found += [y.detach() for y in outputs] + list(gradients)
    assert all(str(v.dtype) == f"torch.{dtype}" for v in found)
    return results(found)


def split(x):
    """A batch over the first axis, if there is a mesh."""
    mesh = tm.current_mesh()
    if mesh is None:
        return x
    return tm.distribute(x, mesh, ("S0", *["R"] * (len(mesh.axes) - 1)))


OPTIONS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "states": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "no bias": {"use_bias": False},
    "unrolled": {"unroll": True, "return_sequences": True},
    "relu": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    "linear": {"activation": None, "return_sequences": True},
    "own": {"activation": lambda x: keras.ops.tanh(x) * 0.9},
    "dropout": {"dropout": 0.4, "seed": 3},
    "recurrent dropout": {"recurrent_dropout": 0.4, "seed": 3},
}


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.parametrize("name", ["data=3", "batch=2 model=2"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_layer_trains_as_on_one_device(kind, options, name):
    check_layer(kind, options, name, "float32", 1e-5)


# Keras's own cells multiply matrices of float64 in float32.
@pytest.mark.parametrize("options", ["sequences", "dropout", "relu"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_layer_of_float64_trains_as_on_one_device(kind, options, float64):
    check_layer(kind, options, "data=4", "float64", 1e-12)


def check_layer(kind, options, name, dtype, tolerance):
    chosen = dict(OPTIONS[options])
    if kind == "SimpleRNN":
        chosen.pop("recurrent_activation", None)

    def make():
        return getattr(layers, kind)(UNITS, **chosen)

    one_device.same_everywhere(
        name, lambda: train(make, dtype=dtype), rtol=tolerance, atol=tolerance
    )


class Average(layers.Layer):
    """A cell that looks at the whole batch."""

    state_size = UNITS
    output_size = UNITS

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], UNITS), name="kernel")

    def call(self, x, states):
        h = keras.ops.matmul(x, self.kernel) + states[0]
        h = h - keras.ops.mean(h, axis=0, keepdims=True)
        return h, [h]


LAYERS = {
    "lstm": lambda **o: layers.LSTM(UNITS, **o),
    "gru": lambda **o: layers.GRU(UNITS, **o),
    "gru that resets before": lambda **o: layers.GRU(
        UNITS, reset_after=False, **o
    ),
    "simple": lambda **o: layers.SimpleRNN(UNITS, **o),
    "stacked": lambda **o: layers.RNN(
        [layers.LSTMCell(UNITS), layers.GRUCell(3)], **o
    ),
    "both ways": lambda go_backwards=False, **o: layers.Bidirectional(
        layers.LSTM(UNITS, **o)
    ),
    "own cell": lambda **o: layers.RNN(Average(), **o),
}
WAYS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "states": {"return_state": True, "return_sequences": True},
    "zeros": {"zero_output_for_mask": True, "return_sequences": True},
    "backwards": {"go_backwards": True},
}


@pytest.mark.parametrize("name", ["data=4", "batch=2 model=2"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_masked_steps_train_as_on_one_device(kind, way, name):
    mask = np.random.RandomState(5).rand(ROWS, STEPS) > 0.4
    mask[2] = False

    def make():
        return LAYERS[kind](**WAYS[way])

    one_device.same_everywhere(
        name, lambda: train(make, mask), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["data=4", "batch=2 model=2"])
@pytest.mark.parametrize(
    ("kind", "masked"),
    [
        ("LSTM", False),
        ("LSTM", True),
        ("GRU", False),
        ("GRU", True),
        ("SimpleRNN", False),
    ],
)
def test_a_layer_is_one_op_forward_and_one_backward(kind, masked, name):
    steps = 20

    def count():
        layer = getattr(layers, kind)(UNITS, return_sequences=True)
        x = split(keras.ops.convert_to_tensor(numbers(ROWS, steps, FEATURES)))
        x = x.float().requires_grad_()
        mask = split(keras.ops.ones((ROWS, steps), "bool")) if masked else None
        tm.full(layer(x, mask=mask).sum())
        with tm.counting() as forward:
            y = layer(x, mask=mask)
        with tm.counting() as backward:
            y.sum().backward()
        assert tm.layout(y).placements[0] == "S0"
        return forward.ops, backward.ops, sum(forward.collectives.values())

    forward, backward, collectives = one_device.under(
        one_device.make_distribution(name), count
    )
    assert forward < steps  # and not some ten for each
    assert backward < steps
    assert not collectives


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_policy_of_mixed_precision_is_that_of_one_device(kind):
    def run():
        layer = getattr(layers, kind)(UNITS, dtype="mixed_bfloat16")
        layer.build((ROWS, STEPS, FEATURES))
        layer.set_weights([numbers(*w.shape) * 0.4 for w in layer.weights])
        x = split(keras.ops.convert_to_tensor(numbers(ROWS, STEPS, FEATURES)))
        y = layer(x, mask=split(keras.ops.ones((ROWS, STEPS), "bool")))
        assert y.dtype == torch.bfloat16
        weights = [w.value for w in layer.trainable_weights]
        return results(
            v.float() for v in torch.autograd.grad(y.float().sum(), weights)
        )

    one_device.same_everywhere("data=4", run, rtol=0.05, atol=0.05)


def test_a_stateful_layer_with_a_mask_keeps_its_state():
    mask = np.arange(STEPS) < np.arange(ROWS)[:, None]

    def run():
        layer = layers.LSTM(UNITS, stateful=True)
        found = []
        with torch.no_grad():
            for seed in range(3):
                x = numbers(ROWS, STEPS, FEATURES, seed=seed)
                x = split(keras.ops.convert_to_tensor(x.astype("float32")))
                found.append(layer(x, mask=split(torch.tensor(mask))))
        return results(found)

    one_device.same_everywhere("data=4", run, rtol=1e-5, atol=1e-6)


def test_hooks_on_a_cell_see_every_step():
    def run():
        layer = layers.SimpleRNN(UNITS)
        x = split(keras.ops.convert_to_tensor(numbers(ROWS, STEPS, FEATURES)))
        layer.build(x.shape)
        seen = []
        layer.cell.register_forward_hook(lambda *_: seen.append(1))
        layer(x.float())
        return len(seen)

    one_device.same_everywhere("data=4", run)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("steps", [1, 40])
def test_kernels_that_are_cut_are_right(kind, steps, mesh):
    layout_map = LayoutMap(mesh)
    layout_map[".*kernel"] = (None, "model")
    x = numbers(ROWS, steps, FEATURES).astype("float32")
    y = numbers(ROWS, UNITS).astype("float32")

    def fit():
        model = keras.Sequential([getattr(layers, kind)(UNITS)])
        model.compile("sgd", "mse")
        history = model.fit(x, y, batch_size=5, epochs=2, verbose=0)
        return history.history["loss"], model.get_weights()

    expected = one_device.under(None, fit)
    actual = one_device.under(
        ModelParallel(layout_map=layout_map, batch_dim_name="batch"), fit
    )
    one_device.assert_same(actual, expected, rtol=1e-4, atol=1e-5)


def test_second_derivatives_are_those_of_one_device(float64):
    def second():
        layer = layers.LSTM(UNITS)
        x = split(keras.ops.convert_to_tensor(numbers(ROWS, STEPS, FEATURES)))
        x = x.requires_grad_()
        y = layer(x)
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        weights = [w.value for w in layer.trainable_weights]
        return results(torch.autograd.grad(g.square().sum(), [x, *weights]))

    one_device.same_everywhere("data=4", second, rtol=1e-11, atol=1e-11)


def test_an_error_in_a_step_is_keras_own():
    def message():
        layer = layers.LSTM(UNITS)
        x = split(keras.ops.ones((ROWS, STEPS, FEATURES)))
        layer.build(x.shape)
        with pytest.raises(RuntimeError) as caught:
            layer(x, initial_state=[keras.ops.ones((ROWS, 3))] * 2)
        return str(caught.value).splitlines()[0]

    expected = one_device.under(None, message)
    distribution = one_device.make_distribution("data=4")
    assert expected in one_device.under(distribution, message)
