"""`torch_mesh.DataLoader` in one process."""

import collections

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data

import torch_mesh as tm

ROWS = torch.arange(22.0).reshape(11, 2)


@pytest.fixture
def mesh():
    return tm.Mesh({"data": 2, "model": 2})


def firsts(loader):
    return [tm.full(x)[:, 0].tolist() for x in loader]


def test_batches_are_torchs_on_the_mesh(mesh):
    dataset = torch_data.TensorDataset(ROWS, torch.arange(11))
    plain = torch_data.DataLoader(dataset, 4)
    loader = tm.DataLoader(dataset, 4, mesh=mesh, batch="data")
    assert len(loader) == len(plain) == 3
    assert isinstance(loader, torch_data.DataLoader)
    for found, expected in zip(loader, plain, strict=True):
        assert type(found) is type(expected)
        for x, y in zip(found, expected, strict=True):
            assert str(tm.layout(x)) == "(S0, R)"
            assert x.dtype == y.dtype and torch.equal(tm.full(x), y)


def test_the_mesh_in_force_says_what_cuts(mesh):
    with tm.use(mesh, batch=("data", "model")):
        (x,) = tm.DataLoader(ROWS, 11)
    assert str(tm.layout(x)) == "(S0, S0)"
    with tm.use(mesh), pytest.raises(ValueError, match=r"\[batch-axis\]"):
        tm.DataLoader(ROWS, 4)
    with pytest.raises(ValueError, match=r"\[batch-axis\]"):
        tm.DataLoader(ROWS, 4)
    with pytest.raises(ValueError, match=r"\[unknown-axis\]"):
        tm.DataLoader(ROWS, 4, mesh=mesh, batch="dta")


def test_each_epoch_has_an_order_of_its_own(mesh):
    def loader(**options):
        return tm.DataLoader(
            ROWS, 4, shuffle=True, mesh=mesh, batch="data", **options
        )

    first = loader()
    passes = [firsts(first), firsts(first)]
    assert passes[0] != passes[1]
    assert sorted(sum(passes[0], [])) == ROWS[:, 0].tolist()
    again = loader()
    again.set_epoch(1)
    assert firsts(again) == passes[1]
    assert firsts(loader(seed=1)) == passes[1]  # as torch's samplers: the sum
    # A pass that is broken off has begun its epoch.
    broken = loader()
    next(iter(broken))
    assert firsts(broken) == passes[1]


def test_a_state_is_that_of_what_was_seen(mesh):
    def loader(workers=0):
        return tm.DataLoader(
            ROWS,
            2,
            shuffle=True,
            mesh=mesh,
            batch="data",
            num_workers=workers,
        )

    whole = loader()
    expected = firsts(whole) + firsts(whole)
    begun = loader(workers=1)
    assert begun.state_dict()["batch"] == 0
    iterator = iter(begun)
    seen = [tm.full(next(iterator))[:, 0].tolist() for _ in range(2)]
    state = begun.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 2)
    resumed = loader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(0)  # as a loop over epochs does
    seen += firsts(resumed)
    assert resumed.state_dict()["epoch"] == 1
    assert seen + firsts(resumed) == expected
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert firsts(resumed) == expected[6:]
    with pytest.raises(ValueError, match=r"(?s)batch_size.*\[loader-state\]"):
        tm.DataLoader(ROWS, 3, mesh=mesh, batch="data").load_state_dict(state)


def test_a_collate_fn_may_give_mappings_arrays_and_texts(mesh):
    class Batch(collections.UserDict):
        pass

    def collate(rows):
        return Batch(
            x=torch.stack(rows),
            y=np.ones((len(rows), 1), "float32"),
            names=["a"] * len(rows),
            scale=torch.tensor(2.0),
            none=None,
        )

    loader = tm.DataLoader(ROWS, 4, collate_fn=collate, mesh=mesh, batch="data")
    batch = next(iter(loader))
    assert type(batch) is dict
    assert tm.is_global(batch["x"]) and tm.is_global(batch["y"])
    assert not tm.is_global(batch["scale"])
    assert batch["names"] == ["a"] * 4 and batch["none"] is None


def test_what_it_cannot_cut_is_refused(mesh):
    class Stream(torch_data.IterableDataset):
        def __iter__(self):
            return iter(ROWS)

    for dataset, size in ((Stream(), 4), (ROWS, None)):
        with pytest.raises(TypeError, match=r"\[argument-type\]"):
            tm.DataLoader(dataset, size, mesh=mesh, batch="data")
    with pytest.raises(ValueError, match="mutually exclusive"):
        tm.DataLoader(ROWS, 4, True, range(11), mesh=mesh, batch="data")
    loader = tm.DataLoader(
        ROWS, 4, collate_fn=lambda rows: {1}, mesh=mesh, batch="data"
    )
    with pytest.raises(TypeError, match=r"(?s)a set.*\[argument-type\]"):
        next(iter(loader))


def test_a_sampler_cuts_batches_for_a_loader_of_torchs(mesh):
    sampler = tm.DistributedBatchSampler(
        ROWS, 4, drop_last=True, mesh=mesh, batch="data"
    )
    loader = torch_data.DataLoader(ROWS, batch_sampler=sampler)
    assert len(loader) == 2
    assert [x[:, 0].tolist() for x in loader] == [[0, 2, 4, 6], [8, 10, 12, 14]]
    iterator = iter(sampler)
    assert next(iterator) == [0, 1, 2, 3]
    state = sampler.state_dict()
    sampler.load_state_dict(state)
    assert list(sampler) == [[4, 5, 6, 7]]
    assert list(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_keras_fits_on_it(mesh):
    import keras

    x, y = torch.rand(11, 3), torch.rand(11, 1)
    dataset = torch_data.TensorDataset(x, y)

    def fitted(loader):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        history = model.fit(loader, epochs=2, verbose=0).history
        return history["loss"], model.get_weights()

    expected = fitted(torch_data.DataLoader(dataset, 4))
    devices = keras.distribution.list_devices("cpu")[:2]
    distribution = keras.distribution.DataParallel(devices=devices)
    with distribution.scope():
        data = distribution.device_mesh.backend_mesh
        found = fitted(tm.DataLoader(dataset, 4, mesh=data))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
