"""The functions behind keras.distribution."""

import types

import keras
import numpy as np
import pytest
import torch
from keras.distribution import (
    DataParallel,
    DeviceMesh,
    ModelParallel,
    TensorLayout,
    set_distribution,
)

import torch_mesh as tm
import torch_mesh.keras
from torch_mesh.keras import distribution_lib as lib


@pytest.fixture
def split(mesh):
    """The layout [batch, model] on batch=2 model=2."""
    return TensorLayout(["batch", "model"], mesh)


def test_keras_calls_this_module():
    assert keras.src.backend.distribution_lib is lib
    assert keras.src.distribution.distribution_lib.distribution_lib is lib
    import keras.src.backend.torch.distribution_lib as under_torch

    assert under_torch is lib


@pytest.mark.parametrize("name", lib.__all__)
def test_a_name_of_the_module_is_in_both_places(name):
    assert callable(getattr(keras.src.backend.torch.distribution_lib, name))
    if name != "initialize_rng":  # Keras's own
        assert getattr(torch_mesh.keras, name) is getattr(lib, name)


def test_a_variables_value_is_placed_outside_of_autograd(split):
    value = torch.arange(35.0).reshape(7, 5).requires_grad_()
    placed = lib.distribute_variable(value * 1, split)
    assert tm.layout(placed).placements == ("S0", "S1")
    assert not placed.requires_grad
    assert torch.equal(placed.cpu(), value)
    value.data.zero_()
    assert placed[0, 1].item() == 1.0


def test_devices_are_counted_by_kind(monkeypatch):
    assert lib.list_devices("cpu") == tm.list_devices("cpu")
    assert lib.get_device_count("CPU") == len(lib.list_devices("cpu"))
    assert lib.list_devices("tpu") == []
    assert lib.get_device_count("tpu") == 0
    with pytest.raises(ValueError, match="unknown-device"):
        lib.list_devices("npu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_a_machine_without_gpus_has_none():
    assert lib.list_devices("gpu") == []
    assert lib.get_device_count("gpu") == 0


def test_a_mesh_keeps_its_axes_and_devices(mesh):
    backend_mesh = mesh.backend_mesh
    assert dict(backend_mesh.axes) == {"batch": 2, "model": 2}
    assert list(backend_mesh.devices) == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ([None, None], ("R", "R")),
        (["batch", None], ("S0", "R")),
        ([None, "batch"], ("S1", "R")),
        (["model", "batch"], ("S1", "S0")),
        ([], ("R", "R")),
    ],
)
def test_axes_by_dim_become_placements_by_axis(mesh, axes, expected):
    assert TensorLayout(axes, mesh).backend_layout.placements == expected


def test_a_layout_that_cannot_be_says_why(mesh):
    with pytest.raises(ValueError, match="axis-twice"):
        _ = TensorLayout(["model", "model"], mesh).backend_layout
    with pytest.raises(ValueError, match="layout-without-mesh"):
        _ = TensorLayout(["model"]).backend_layout


def test_an_axis_name_that_is_given_twice_is_named(devices):
    mesh = DeviceMesh((2, 2), ["a", "a"], devices)
    with pytest.raises(ValueError, match="mesh-axes") as error:
        _ = mesh.backend_mesh
    assert 'two axes have the name "a"' in str(error.value)


@pytest.mark.parametrize("layout", [("batch", None), "batch", ["batch"], 3])
def test_what_is_no_layout_says_what_to_use(layout):
    for call in (
        lib.distribute_tensor,
        lib.distribute_variable,
        lib.distribute_data_input,
        keras.distribution.distribute_tensor,
    ):
        for x in (torch.ones(4, 4), [torch.ones(4, 4)], np.ones((4, 4))):
            with pytest.raises(TypeError, match="argument-type") as error:
                call(x, layout)
            assert "TensorLayout(axes, mesh)" in str(error.value)


def test_a_variable_stands_for_its_value(split):
    v = keras.Variable(np.arange(16.0, dtype="float32").reshape(4, 4))
    for call in (
        lib.distribute_tensor,
        lib.distribute_variable,
        lib.distribute_data_input,
        keras.distribution.distribute_tensor,
    ):
        for placed in (call(v, split), call([v, 1], split)[0]):
            assert isinstance(placed, torch.Tensor), call
            assert tm.layout(placed).placements == ("S0", "S1")
            assert torch.equal(tm.full(placed.detach()), v.value)
    assert lib.distribute_tensor(v, None) is v.value
    (lib.distribute_tensor(v, split) * 2).sum().backward()
    assert torch.equal(v.value.grad, torch.full((4, 4), 2.0))


def test_a_variable_that_is_written_leaves_its_batch_as_it_was(split):
    v = keras.Variable(np.ones((4, 4)), trainable=False)
    placed = lib.distribute_data_input(v, split)
    v.assign(np.zeros((4, 4)))
    assert torch.equal(tm.full(placed), torch.ones(4, 4))


def test_a_dim_may_be_split_over_two_axes_in_the_mesh_order(mesh):
    """Keras 3.15.1 refuses such a TensorLayout; later ones do not."""
    layout = types.SimpleNamespace(
        axes=(("batch", "model"), None), device_mesh=mesh
    )
    assert lib._to_backend_layout(layout).placements == ("S0", "S0")
    layout.axes = (("model", "batch"), None)
    with pytest.raises(ValueError, match="axis-order"):
        lib._to_backend_layout(layout)


def test_a_device_name_is_translated():
    assert lib._to_backend_device("cpu") == "cpu:0"
    assert lib._to_backend_device("CPU:3") == "cpu:3"
    assert lib._to_backend_device("cuda:1") == "gpu:1"
    for wrong in ("npu:0", "cpu:x"):
        with pytest.raises(ValueError, match="unknown-device"):
            lib._to_backend_device(wrong)


def test_distribute_tensor_splits_and_gives_back_the_value(split):
    x = torch.arange(35.0).reshape(5, 7)
    y = keras.distribution.distribute_tensor(x, split)
    assert tm.layout(y).placements == ("S0", "S1")
    shapes = [tuple(s.shape) for s in tm.shards(y)]
    assert shapes == [(3, 4), (3, 3), (2, 4), (2, 3)]
    assert torch.equal(tm.full(y), x)


def test_distribute_tensor_is_differentiable(split):
    x = torch.ones(4, 4, requires_grad=True)
    (lib.distribute_tensor(x, split) * 3).sum().backward()
    assert torch.equal(x.grad, torch.full((4, 4), 3.0))


def test_distribute_tensor_changes_the_layout_of_a_global_tensor(split, mesh):
    x = lib.distribute_tensor(np.ones((4, 4), "float32"), split)
    assert lib.distribute_tensor(x, split) is x
    y = lib.distribute_tensor(x, TensorLayout([None, "batch"], mesh))
    assert tm.layout(y).placements == ("S1", "R")


def test_distribute_tensor_maps_structures_and_lets_the_rest_pass(split):
    symbolic = keras.KerasTensor((4, 4))
    meta = torch.ones(4, 4, device="meta")
    assert keras.distribution.distribute_tensor(symbolic, split) is symbolic
    assert lib.distribute_tensor(meta, split) is meta
    assert lib.distribute_tensor(3, split) == 3
    x = torch.ones(4, 4)
    assert lib.distribute_tensor(x, None) is x
    outputs = {"a": x, "b": [torch.ones(4), None, meta]}
    placed = lib.distribute_tensor(outputs, split)
    assert tm.is_global(placed["a"])
    assert not tm.is_global(placed["b"][0])
    assert placed["b"][1] is None
    assert placed["b"][2] is meta


def test_distribute_tensor_passes_fake_tensors(split):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(4, 4)
        assert lib.distribute_tensor(fake, split) is fake


def test_a_tensor_with_too_few_dims_is_an_error(split):
    with pytest.raises(ValueError, match="layout-rank") as error:
        lib.distribute_tensor(torch.ones(4), split)
    assert "speaks of dim 1, the tensor has 1 dims" in str(error.value)


def test_distribute_data_input_shards_and_leaves_the_rest(mesh):
    layout = TensorLayout(["batch", None], mesh)
    batch = torch.arange(10.0).reshape(5, 2)
    x = lib.distribute_data_input(batch, layout, "batch")
    assert tm.layout(x).placements == ("S0", "R")
    assert torch.equal(tm.full(x), batch)
    x.add_(1)
    assert torch.equal(batch, torch.arange(10.0).reshape(5, 2))
    assert lib.distribute_data_input(None, layout) is None
    scalar = torch.tensor(1.0)
    assert lib.distribute_data_input(scalar, layout) is scalar
    words = np.array(["a", "b"])
    assert lib.distribute_data_input(words, layout) is words


def test_a_layer_output_gets_its_layout(layout_map):
    layout_map[".*/output"] = ("batch", "model")
    set_distribution(ModelParallel(layout_map=layout_map))
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    y = model(np.ones((4, 6), "float32"))
    assert tm.layout(y).placements == ("S0", "S1")


def test_collectives_on_global_tensors_keep_the_value(mesh):
    assert not lib.is_distributed()
    set_distribution(DataParallel(devices=["cpu:0", "cpu:1"]))
    assert lib.is_distributed()
    x = torch.arange(6.0).reshape(3, 2)
    y = lib.scatter_tensor(x)
    assert tm.layout(y).placements == ("S0",)
    total = lib.all_reduce(y.sum(0))
    assert tm.layout(total).placements == ("R",)
    assert torch.equal(tm.full(total), x.sum(0))
    for whole in (lib.gather_tensor(y), lib.broadcast(y)):
        assert tm.layout(whole).placements == ("R",)
        assert torch.equal(tm.full(whole), x)
    with pytest.raises(ValueError, match="unknown-op"):
        lib.all_reduce(x, op="xor")
    with pytest.raises(ValueError, match="unknown-axis"):
        lib.scatter_tensor(x, axis_name="model")


def test_scatter_without_a_mesh_leaves_a_plain_tensor():
    x = torch.ones(4)
    assert lib.scatter_tensor(x) is x


def test_default_devices_make_a_mesh():
    distribution = DataParallel()
    n = len(keras.distribution.list_devices())
    assert distribution.device_mesh.backend_mesh.size == n
    mesh = DeviceMesh((n,), ["batch"])
    assert mesh.backend_mesh == distribution.device_mesh.backend_mesh
