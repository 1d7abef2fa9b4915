"""Whatever the trainer does gives one device's numbers on any mesh."""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras import ops
from one_device import Losses, digits, distributions, mlp, same_everywhere

import torch_mesh as tm

# 70 samples in batches of 16 leave a last batch of 6; 6 over 4 devices are
# 2 2 2 0.


@distributions
def test_fit_gives_the_losses_of_one_device(name):
    def train():
        losses = Losses()
        x, y = digits()
        history = mlp().fit(
            x, y, batch_size=16, epochs=3, verbose=0, callbacks=[losses]
        )
        return losses.values, history.history

    same_everywhere(name, train, rtol=1e-5)


@distributions
def test_fit_gives_the_weights_and_slots_of_one_device(name):
    def train():
        model = mlp()
        x, y = digits()
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)
        state = model.variables + model.optimizer.variables
        return [keras.ops.convert_to_numpy(v) for v in state]

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


@distributions
def test_rematerialised_layers_train_as_on_one_device(name):
    """Backward computes them again, on autograd's thread."""

    def train():
        with keras.RematScope("full"):
            model = mlp()
            losses = Losses()
            x, y = digits()
            model.fit(x, y, batch_size=16, verbose=0, callbacks=[losses])
        return losses.values, model.get_weights()

    same_everywhere(name, train, rtol=1e-4, atol=1e-5)


@distributions
def test_evaluate_and_predict_give_the_numbers_of_one_device(name):
    def measure():
        model = mlp()
        x, y = digits()
        model.fit(x, y, batch_size=16, verbose=0)
        return (
            model.evaluate(x, y, batch_size=16, verbose=0),
            model.predict(x, batch_size=16, verbose=0),
            model.predict_on_batch(x[:5]),
            model.test_on_batch(x[:5], y[:5]),
        )

    same_everywhere(name, measure, rtol=1e-4, atol=1e-5)


@distributions
def test_train_on_batch_gives_the_losses_of_one_device(name):
    def train():
        model = mlp()
        x, y = digits(30)
        weight = np.linspace(0.5, 1.5, 30).astype("float32")
        return [
            model.train_on_batch(x, y),
            model.train_on_batch(x[:7], y[:7], sample_weight=weight[:7]),
            model.train_on_batch(x, y, class_weight={0: 2.0, 1: 0.5}),
            model.train_on_batch(x[:1], y[:1]),
        ]

    same_everywhere(name, train, rtol=1e-5, atol=1e-6)


@distributions
def test_validation_and_weights_count_as_on_one_device(name):
    def train():
        x, y = digits()
        weight = np.linspace(0.5, 1.5, 70).astype("float32")
        model = mlp()
        split = model.fit(
            x,
            y,
            sample_weight=weight,
            validation_split=0.3,
            batch_size=16,
            verbose=0,
        )
        given = model.fit(
            x,
            y,
            class_weight={0: 1.0, 1: 2.0, 2: 0.5, 3: 1.0},
            validation_data=(x[:9], y[:9], weight[:9]),
            batch_size=16,
            verbose=0,
        )
        return split.history, given.history

    same_everywhere(name, train, rtol=1e-5, atol=1e-6)


def test_a_custom_train_step_sees_a_sharded_batch():
    seen = []

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            if tm.is_global(x):
                seen.append(tm.layout(x).placements)
            logits = self(x)
            loss = ops.mean(
                keras.losses.sparse_categorical_crossentropy(
                    y, logits, from_logits=True
                )
            )
            self.zero_grad()
            loss.backward()
            weights = self.trainable_weights
            with torch.no_grad():
                self.optimizer.apply([w.value.grad for w in weights], weights)
            return {"loss": loss}

    def train():
        losses = Losses()
        x, y = digits()
        model = Model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[losses])
        return losses.values

    same_everywhere("batch=2 model=2", train)
    assert seen == [("S0", "R")] * 5


def test_an_overridden_make_train_function_is_kept():
    calls = []

    class Model(keras.Sequential):
        def make_train_function(self, force=False):
            super().make_train_function(force)
            inner = self.train_function

            def counted(data):
                calls.append(len(data))
                return inner(data)

            self.train_function = counted

    def train():
        x, y = digits()
        model = Model([keras.layers.Dense(4)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        return model.fit(x, y, batch_size=35, verbose=0).history["loss"]

    same_everywhere("data=4", train)
    assert calls == [1] * 4


def test_callbacks_stop_keep_and_log_as_on_one_device(tmp_path):
    def train():
        x, y = digits()
        model = mlp()
        path = str(tmp_path / "best.weights.h5")
        history = model.fit(
            x,
            y,
            batch_size=16,
            epochs=6,
            verbose=0,
            validation_data=(x[:20], y[:20]),
            callbacks=[
                keras.callbacks.EarlyStopping("val_loss", min_delta=0.2),
                keras.callbacks.ModelCheckpoint(
                    path, save_weights_only=True, save_best_only=True
                ),
                keras.callbacks.ReduceLROnPlateau("loss", patience=1),
                keras.callbacks.TerminateOnNaN(),
                keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
            ],
        )
        model.load_weights(path)
        return history.epoch, history.history, model.get_weights()

    same_everywhere("batch=2 model=2", train, rtol=1e-4, atol=1e-5)


def test_metrics_count_the_whole_batch():
    def train():
        x, y = digits()
        model = keras.Sequential([keras.layers.Dense(4, activation="softmax")])
        model.compile(
            "sgd",
            "categorical_crossentropy",
            metrics=[
                keras.metrics.CategoricalAccuracy(),
                keras.metrics.AUC(num_thresholds=20),
                keras.metrics.F1Score(),
                keras.metrics.Precision(),
                keras.metrics.MeanSquaredError(),
            ],
        )
        y = keras.utils.to_categorical(y, 4)
        model.fit(x, y, batch_size=16, verbose=0)
        return model.evaluate(x, y, batch_size=16, verbose=0)

    same_everywhere("data=4", train)


def make_loader(x, y):
    dataset = torch.utils.data.TensorDataset(
        torch.from_numpy(x), torch.from_numpy(y).long()
    )
    return torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True)


class Batches(keras.utils.PyDataset):
    """Batches of a dict and a target."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 5

    def __getitem__(self, i):
        part = slice(16 * i, 16 * i + 16)
        return self.x[part], self.y[part]


def make_generator(x, y):
    for i in range(5):
        yield x[16 * i : 16 * i + 16], y[16 * i : 16 * i + 16]


@pytest.mark.parametrize("source", [make_loader, Batches, make_generator])
def test_any_source_of_batches_is_sharded(source):
    def train():
        losses = Losses()
        model = mlp()
        model.fit(source(*digits()), verbose=0, callbacks=[losses])
        return losses.values

    same_everywhere("data=3", train)


def test_nested_inputs_and_outputs_are_sharded_leaf_by_leaf():
    def train():
        x, y = digits()
        a = keras.Input((12,), name="a")
        b = keras.Input((3, 2), name="b")
        hidden = keras.layers.concatenate([a, keras.layers.Flatten()(b)])
        outputs = {
            "c": keras.layers.Dense(4, activation="softmax", name="c")(hidden),
            "d": keras.layers.Dense(1, name="d")(hidden),
        }
        model = keras.Model({"a": a, "b": b}, outputs)
        model.compile(
            "adam", {"c": "sparse_categorical_crossentropy", "d": "mse"}
        )
        inputs = {"a": x, "b": x[:, :6].reshape(-1, 3, 2)}
        history = model.fit(
            inputs, {"c": y, "d": x[:, :1]}, batch_size=16, verbose=0
        )
        return history.history, model.predict(inputs, verbose=0)

    same_everywhere("data=4", train, atol=1e-6)


def test_a_batch_smaller_than_the_mesh_trains():
    def train():
        model = mlp()
        x, y = digits(2)
        return model.fit(x, y, batch_size=1, verbose=0).history["loss"]

    same_everywhere("data=4", train)


def test_batches_reach_the_mesh_without_a_copy_per_device():
    """A NumPy batch is on the host until it is sharded there."""
    devices = []

    class Spy(keras.Model):
        def call(self, x):
            devices.append((str(x.device), x.shape[0]))
            return x

    x = np.ones((8, 3), "float32")
    one_device.under(
        one_device.make_distribution("data=4"),
        lambda: Spy().predict(x, batch_size=4, verbose=0),
    )
    assert [d for d in devices if d[0] != "meta"] == [("mesh:0", 4)] * 2


def test_jit_compile_warns_and_runs_eagerly():
    def train():
        model = keras.Sequential([keras.layers.Dense(4)])
        model.compile("sgd", "mse", jit_compile=True)
        model.fit(np.ones((4, 3)), np.ones((4, 4)), verbose=0)
        model.fit(np.ones((4, 3)), np.ones((4, 4)), verbose=0)

    with pytest.warns(UserWarning, match="jit-on-mesh") as record:
        one_device.under(one_device.make_distribution("data=2"), train)
    assert len([w for w in record if "jit-on-mesh" in str(w.message)]) == 1


def test_data_parallel_uses_the_first_axis_of_a_larger_mesh(mesh):
    with pytest.warns(UserWarning, match="mesh-axes"):
        distribution = keras.distribution.DataParallel(mesh)

    def train():
        x, y = digits()
        model = mlp()
        losses = model.fit(x, y, batch_size=16, verbose=0).history["loss"]
        return losses

    expected = one_device.under(None, train)
    one_device.assert_same(one_device.under(distribution, train), expected)
