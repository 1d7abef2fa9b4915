"""What was built elsewhere moves: models that are called, all optimizers."""

import keras
import numpy as np
import one_device
import pytest
import torch
from keras.distribution import DataParallel, ModelParallel, set_distribution

import torch_mesh as tm
from torch_mesh.keras import gather

X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 4)).astype("float32")

OPTIMIZERS = {
    "plain": lambda: keras.optimizers.Adam(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=4.0
    ),
    "several": lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(0.01),
            {".*bias": keras.optimizers.RMSprop(0.01)},
        )
    ),
}


class Pair(keras.Model):
    """Two nets, each with an optimizer that `compile` does not know."""

    def __init__(self, kind, keep):
        super().__init__()
        self.one = net()
        self.two = net()
        first, second = OPTIMIZERS[kind](), OPTIMIZERS[kind]()
        if keep == "attributes":
            self.first, self.second = first, second
        elif keep == "list":
            self.kept = [first, {"second": second}]
        self.optimizers = lambda: (first, second)
        for optimizer, part in zip(self.optimizers(), self.parts, strict=True):
            optimizer.build(part.trainable_variables)
        self.built = True

    @property
    def parts(self):
        return self.one, self.two

    def train_step(self, data):
        x, y = data
        self.zero_grad()
        losses = [keras.ops.mean((part(x) - y) ** 2) for part in self.parts]
        for loss, optimizer in zip(losses, self.optimizers(), strict=True):
            optimizer.scale_loss(loss).backward()
        for optimizer, part in zip(self.optimizers(), self.parts, strict=True):
            weights = part.trainable_weights
            with torch.no_grad():
                optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": sum(losses)}


def net():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(4),
        ]
    )


def fit(model):
    history = model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    return history.history["loss"]


def where(variable):
    value = variable.value
    return tm.layout(value) if tm.is_global(value) else value.device.type


def assert_slots_are_where_their_weights_are(optimizer, weights):
    seen = 0
    for weight in weights:
        for slot in optimizer.variables:
            if slot.path.split("/", 1)[1].startswith(
                weight.path.replace("/", "_") + "_"
            ):
                assert where(slot) == where(weight), slot.path
                seen += 1
    assert seen >= len(weights)


def assert_all_slots_follow(pair):
    for optimizer, part in zip(pair.optimizers(), pair.parts, strict=True):
        assert_slots_are_where_their_weights_are(
            optimizer, part.trainable_variables
        )


def distribution(name):
    return None if name == "none" else one_device.make_distribution(name)


SWITCHES = [
    ("data=2", "data=4"),
    ("none", "batch=2 model=2"),
    ("batch=2 model=2", "none"),
    ("batch=2 model=2", "data=3"),
]


@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(("first", "second"), SWITCHES)
def test_optimizers_among_the_attributes_move_with_the_model(
    kind, first, second
):
    def train(first, second):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(3)
        set_distribution(distribution(first))
        model = Pair(kind, "attributes")
        model.compile()
        losses = fit(model)
        set_distribution(distribution(second))
        losses += fit(model)
        assert_all_slots_follow(model)
        return losses

    one_device.assert_same(train(first, second), train("none", "none"))


@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.parametrize("keep", ["attributes", "list"])
def test_a_model_that_only_predicts_takes_its_optimizers_along(keep):
    model = Pair("scaled", keep)
    model.call = lambda x: model.one(x)
    set_distribution(one_device.make_distribution("batch=2 model=2"))
    model.predict(X, verbose=0)
    for optimizer in model.optimizers():
        assert where(optimizer.inner_optimizer.iterations).placements == (
            "R",
            "R",
        )
    assert_all_slots_follow(model)
    set_distribution(None)
    gather(model)
    for optimizer in model.optimizers():
        assert {where(v) for v in optimizer.variables} == {"cpu"}


@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.parametrize(("first", "second"), SWITCHES)
def test_an_optimizer_that_no_model_holds_follows_its_weights(first, second):
    def train(first, second):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(3)
        set_distribution(distribution(first))
        model = Pair("scaled", "elsewhere")
        model.compile()
        losses = fit(model)
        set_distribution(distribution(second))
        losses += fit(model)
        assert_all_slots_follow(model)
        return losses

    one_device.assert_same(train(first, second), train("none", "none"))


class Named(keras.layers.Layer):
    """A layer whose name is a part of its weight's path."""

    def __init__(self, name, inner):
        super().__init__(name=name)
        self.inner = keras.layers.Dense(4, name=inner, use_bias=False)

    def call(self, x):
        return self.inner(x)


@pytest.mark.filterwarnings("ignore:fit")
def test_slots_of_names_that_collide_go_where_their_weight_is(mesh):
    model = keras.Sequential([keras.Input((4,)), Named("a", "b_c")])
    model.add(Named("a_b", "c"))
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse")
    model.fit(Y, Y, verbose=0)
    layout_map = keras.distribution.LayoutMap(mesh)
    layout_map[".*a/b_c/kernel"] = ("model", None)
    layout_map[".*a_b/c/kernel"] = (None, "model")
    set_distribution(ModelParallel(layout_map=layout_map))
    model.fit(Y, Y, verbose=0)
    first, second = model.trainable_variables
    assert where(first).placements == ("R", "S0")
    assert where(second).placements == ("R", "S1")
    optimizer = model.optimizer
    for slots in (
        optimizer._momentums,
        optimizer._velocities,
        optimizer._model_variables_moving_average,
    ):
        assert [where(slot) for slot in slots] == [where(first), where(second)]


def loop(model, optimizer, steps=2):
    losses = []
    for _ in range(steps):
        model.zero_grad()
        y = keras.ops.convert_to_tensor(Y)
        loss = keras.ops.mean((model(X, training=True) - y) ** 2)
        loss.backward()
        weights = model.trainable_weights
        with torch.no_grad():
            optimizer.apply([w.value.grad for w in weights], weights)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("name", ["data=3", "batch=2 model=2"])
def test_a_model_that_is_only_called_moves_too(name, before):
    def train(name):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(3)
        model, optimizer = net(), keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
        losses = loop(model, optimizer, before)
        set_distribution(distribution(name))
        losses += loop(model, optimizer)
        return model, optimizer, losses

    _, _, expected = train("none")
    with pytest.warns(UserWarning, match="late-distribution") as caught:
        model, optimizer, losses = train(name)
    assert sum("late-distribution" in str(w.message) for w in caught) == 1
    assert 'call: 4 variables of "' in str(caught[0].message)
    assert caught[0].filename == __file__
    one_device.assert_same(losses, expected)
    assert all(tm.is_global(v.value) for v in model.variables)
    assert_slots_are_where_their_weights_are(
        optimizer, model.trainable_variables
    )


def test_the_outermost_model_moves_with_all_inside(recwarn, layout_map):
    inner = net()
    outer = keras.Sequential([inner, keras.layers.Dense(2)])
    outer.build((None, 5))
    set_distribution(ModelParallel(layout_map=layout_map))
    outer(X)
    inner(X)
    late = [w for w in recwarn if "late-distribution" in str(w.message)]
    assert len(late) == 1
    assert all(tm.is_global(v.value) for v in outer.variables)


def test_calls_leave_what_is_off_the_mesh_on_purpose(devices):
    model = net()
    set_distribution(DataParallel(devices=devices))
    with keras.device("cpu"):
        assert model(X).device.type == "cpu"
    state = [v.value for v in model.trainable_variables]
    model.stateless_call(state, [], X)
    assert {where(v) for v in model.variables} == {"cpu"}
    with pytest.warns(UserWarning, match="late-distribution"):
        model(X)
    gather(model)
    model(X)
    assert {where(v) for v in model.variables} == {"cpu"}
    with pytest.warns(UserWarning, match="late-distribution"):
        model.predict(X, verbose=0)
    assert tm.is_global(model.variables[0].value)
