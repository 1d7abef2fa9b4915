"""Misuse of Keras under a distribution: what plain Keras raises, or our words.

Afterwards a model under the same distribution computes as if nothing was.
"""

import keras
import numpy as np
import pytest
import torch
from keras import layers
from keras.distribution import DeviceMesh, LayoutMap, TensorLayout
from keras.src.distribution import (
    DataParallel,
    ModelParallel,
    distribution,
    set_distribution,
)

import torch_mesh as tm

X = np.linspace(-1, 1, 48, dtype="float32").reshape(8, 6)
Y = np.arange(8, dtype="float32").reshape(8, 1) / 8


def model_of(width=6):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((width,)), layers.Dense(4, "relu"), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    return model


def data_parallel(devices):
    return DataParallel(devices=devices)


def model_parallel(devices):
    mesh = DeviceMesh((2, 2), ["batch", "model"], devices)
    layout_map = LayoutMap(mesh)
    layout_map["dense.*kernel"] = TensorLayout([None, "model"], mesh)
    return ModelParallel(layout_map=layout_map, batch_dim_name="batch")


def later_losses():
    """What a new model learns, after whatever went before."""
    return (
        model_of().fit(X, Y, epochs=2, batch_size=4, verbose=0).history["loss"]
    )


# --- the same calls without a distribution ------------------------------------


def class_too_far():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(X, np.full(8, 7), verbose=0)


def token_too_far():
    model = keras.Sequential([keras.Input((2,)), layers.Embedding(5, 3)])
    model.predict(np.full((4, 2), 9), verbose=0)


def weights_of_other_sizes():
    model_of().set_weights(model_of(5).get_weights())


def weights_of_a_file_of_other_sizes(path):
    model_of(5).save_weights(path)
    model_of().load_weights(path)


def loss_that_raises():
    model = model_of()

    def loss(y_true, y_pred):
        raise KeyError("of the loss")

    model.compile("sgd", loss)
    model.fit(X, Y, verbose=0)


def assign_of_other_sizes():
    keras.Variable(np.ones((4, 6), "float32")).assign(np.ones((5, 6)))


def optimizer_of_another_model():
    model, other = model_of(), model_of()
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    optimizer.apply(
        [v.value * 0 for v in other.trainable_variables],
        other.trainable_variables,
    )


OF_KERAS = {
    "a batch of another width": lambda: model_of()(X[:, :5]),
    "fit on a batch of another width": lambda: model_of().fit(
        X[:, :5], Y, verbose=0
    ),
    "fewer targets than inputs": lambda: model_of().fit(X, Y[:3], verbose=0),
    "predict without data": lambda: model_of().predict(None, verbose=0),
    "fit before compile": lambda: keras.Sequential([layers.Dense(1)]).fit(
        X, Y, verbose=0
    ),
    "a class too far": class_too_far,
    "a token too far": token_too_far,
    "weights of other sizes": weights_of_other_sizes,
    "a loss that raises": loss_that_raises,
    "assign of other sizes": assign_of_other_sizes,
    "an optimizer of another model": optimizer_of_another_model,
    "matmul": lambda: keras.ops.matmul(
        keras.Variable(X).value, keras.Variable(X).value
    ),
    "concatenate": lambda: keras.ops.concatenate(
        [keras.Variable(X).value, keras.Variable(Y).value], 0
    ),
    "reshape": lambda: keras.ops.reshape(keras.Variable(X).value, (5, 5)),
    "an initializer of a negative size": lambda: keras.random.normal((-1, 2)),
    "a layer of no units": lambda: layers.Dense(-2),
}


def error_of(call):
    try:
        call()
    except Exception as error:
        return error.with_traceback(None)
    return None


@pytest.mark.parametrize("name", OF_KERAS)
@pytest.mark.parametrize("parallel", [data_parallel, model_parallel])
def test_misuse_raises_what_plain_keras_raises(name, parallel, devices):
    plain = error_of(OF_KERAS[name])
    assert plain is not None
    set_distribution(parallel(devices))
    expected = later_losses()
    error = error_of(OF_KERAS[name])
    assert type(error) is type(plain), error
    assert str(error)
    assert distribution() is not None
    assert later_losses() == expected


def test_a_file_of_other_sizes_raises_what_plain_keras_raises(
    tmp_path, devices
):
    path = tmp_path / "weights.weights.h5"
    plain = error_of(lambda: weights_of_a_file_of_other_sizes(path))
    set_distribution(model_parallel(devices))
    error = error_of(lambda: weights_of_a_file_of_other_sizes(path))
    assert type(error) is type(plain) and "shape" in str(error)


# --- distributions ------------------------------------------------------------


def layout_map_of(devices, axes=("batch", "model")):
    return LayoutMap(DeviceMesh((2, 2), list(axes), devices))


def tensor_in(devices, axes, shape=(4, 4)):
    mesh = DeviceMesh((2, 2), ["batch", "model"], devices)
    layout = TensorLayout(axes, mesh)
    keras.distribution.distribute_tensor(torch.ones(shape), layout)


def split(*axes):
    return TensorLayout(list(axes))


def bad_pattern(devices):
    layout_map_of(devices)["dense("] = split(None, "model")


def pattern_twice(devices):
    layout_map = layout_map_of(devices)
    layout_map["dense"] = split(None, "model")
    layout_map["dense"] = split(None, "model")


def two_patterns(devices):
    layout_map = layout_map_of(devices)
    layout_map["dense.*"] = split(None, "model")
    layout_map[".*kernel"] = split(None, "model")
    return layout_map["dense/kernel"]


def without_mesh():
    layout = TensorLayout(["batch"])
    keras.distribution.distribute_tensor(torch.ones(4), layout)


def layout_of_another_mesh(devices):
    layout_map = layout_map_of(devices)
    layout_map["bias"] = split("model")
    other = DeviceMesh((4, 1), ["batch", "model"], devices)
    layout_map["dense.*kernel"] = TensorLayout([None, "model"], other)
    set_distribution(ModelParallel(layout_map=layout_map))


def pattern_of_too_many_dims(devices):
    layout_map = layout_map_of(devices)
    layout_map["dense/kernel"] = split(None, None, "model")
    set_distribution(ModelParallel(layout_map=layout_map))
    keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, name="dense")], name="net"
    )
    keras.distribution.distribute_tensor(
        torch.ones(4, 6), layout_map["dense/kernel"]
    )


OF_DISTRIBUTIONS = {
    "a mesh of no shape": (
        lambda d: DeviceMesh((), [], d),
        ValueError,
        "shape",
    ),
    "a mesh of too few names": (
        lambda d: DeviceMesh((2, 2), ["batch"], d),
        ValueError,
        "axis_names",
    ),
    "a mesh of too few devices": (
        lambda d: DeviceMesh((2, 2), ["batch", "model"], d[:3]),
        ValueError,
        "number of devices",
    ),
    "a mesh of devices of no kind": (
        lambda d: tensor_in(["npu:0", "npu:1", "npu:2", "npu:3"], ["batch"]),
        ValueError,
        "npu",
    ),
    "a layout of an axis that is not there": (
        lambda d: tensor_in(d, ["rows"]),
        ValueError,
        "Invalid axis names",
    ),
    "a layout of an axis twice": (
        lambda d: tensor_in(d, ["batch", "batch"]),
        ValueError,
        "[axis-twice]",
    ),
    "a layout of too many dims": (
        lambda d: tensor_in(d, [None, None, "model"]),
        ValueError,
        "[layout-rank]",
    ),
    "a layout without a mesh": (
        lambda d: without_mesh(),
        ValueError,
        "[layout-without-mesh]",
    ),
    "a pattern that is none": (bad_pattern, ValueError, "[pattern-text]"),
    "a pattern twice": (pattern_twice, ValueError, "already exist"),
    "two patterns for one path": (two_patterns, ValueError, "multiple layout"),
    "a pattern of too many dims": (
        pattern_of_too_many_dims,
        ValueError,
        "[layout-rank]",
    ),
    "a layout that is a number": (
        lambda d: layout_map_of(d).__setitem__("dense", 3),
        ValueError,
        "TensorLayout",
    ),
    "model parallel without a map": (
        lambda d: ModelParallel(layout_map=None),
        ValueError,
        "layout_map",
    ),
    "a mesh in the place of a distribution": (
        lambda d: set_distribution(layout_map_of(d).device_mesh),
        TypeError,
        "DataParallel(device_mesh=mesh)",
    ),
    "a map in the place of a distribution": (
        lambda d: set_distribution(layout_map_of(d)),
        TypeError,
        "[argument-type]",
    ),
    "no devices": (
        lambda d: DataParallel(devices=keras.distribution.list_devices("tpu")),
        ValueError,
        "[no-such-device]",
    ),
    "an axis for the batch that is not there": (
        lambda d: ModelParallel(
            layout_map=layout_map_of(d), batch_dim_name="data"
        ),
        ValueError,
        'batch_dim_name="data" is no axis of the mesh',
    ),
    "a layout of another mesh": (
        layout_of_another_mesh,
        ValueError,
        'the layout of "dense.*kernel" is for another mesh',
    ),
    "a mesh of more devices than there are": (
        lambda d: DeviceMesh((999,), ["data"]),
        ValueError,
        "TORCH_MESH_CPU_DEVICES=999",
    ),
    "a mesh of fewer devices than there are": (
        lambda d: DeviceMesh((3,), ["data"]),
        ValueError,
        "devices=list_devices()[:3]",
    ),
    "a mesh of no devices of its kind": (
        lambda d: DeviceMesh((2,), ["data"], ["gpu:0"]),
        ValueError,
        "list_devices('cpu')",
    ),
    "devices of no kind": (
        lambda d: keras.distribution.list_devices("npu"),
        ValueError,
        "[unknown-device]",
    ),
}


@pytest.mark.parametrize("name", OF_DISTRIBUTIONS)
def test_misuse_of_distributions_says_what_to_do(name, devices):
    call, raises, text = OF_DISTRIBUTIONS[name]
    x = tm.distribute(torch.arange(6.0), tm.Mesh({"data": 2}), ("S0",))
    error = error_of(lambda: call(devices))
    set_distribution(None)
    assert error is not None
    assert isinstance(error, raises), error
    assert text in str(error)
    assert tm.full(x).tolist() == list(range(6))
    set_distribution(data_parallel(devices))
    assert np.isfinite(later_losses()).all()
