"""Devices of a job by name, in one process that says it is one of several."""

import pytest
import torch

import torch_mesh as tm
from torch_mesh import devices, job
from torch_mesh.keras import distribution_lib as lib

COUNTS = [{"cpu": 2, "gpu": 0}, {"cpu": 3, "gpu": 0}, {"cpu": 2, "gpu": 0}]


@pytest.fixture
def as_process_1(monkeypatch):
    """Three processes of 2, 3 and 2 CPU devices; this is the second."""

    class Group:
        def size(self):
            return 3

        def rank(self):
            return 1

    group = Group()
    monkeypatch.setattr(job, "group", lambda: group)
    monkeypatch.setattr(job, "_job", job._Job(group, COUNTS, 5))
    yield
    monkeypatch.undo()


def test_devices_of_all_processes_are_counted_through(as_process_1):
    everyone = [f"cpu:{i}" for i in range(7)]
    own = everyone[2:5]
    for module in (tm, lib):
        assert module.list_devices() == everyone
        assert module.list_devices("cpu") == everyone
        assert module.list_devices("gpu") == []
        assert module.list_local_devices() == own
    assert tm.device_count() == 7 == lib.get_device_count("cpu")
    assert (tm.num_processes(), tm.process_id()) == (3, 1)
    names = ["cpu:0", "cpu:1", "cpu:0@1", "cpu:1@1", "cpu:2@1", "cpu:0@2"]
    assert devices.engine_names("Mesh", everyone[:6]) == names
    assert devices.names_of(names) == everyone[:6]
    assert devices.by_name({"cpu:0@2": 4, "cpu:1": 2}) == {
        "cpu:5": 4,
        "cpu:1": 2,
    }
    # The engine's own names are taken too, and what is no device is passed on.
    assert devices.engine_names("Mesh", ["cpu:1@2", "cuda:x"]) == [
        "cpu:1@2",
        "cuda:x",
    ]


def test_a_mesh_spans_the_processes(as_process_1):
    mesh = tm.Mesh({"data": 6})
    assert mesh.devices == [f"cpu:{i}" for i in range(6)]
    assert mesh._native.devices[2:] == ["cpu:0@1", "cpu:1@1"] + [
        "cpu:2@1",
        "cpu:0@2",
    ]
    assert mesh.processes == [0, 1, 2]
    assert tm.Mesh({"data": 6}, mesh.devices) == mesh
    part = tm.Mesh({"data": 2}, ["cpu:5", "cpu:6"])
    assert part.processes == [2]
    assert part == tm.Mesh({"data": 2}, ["cpu:0@2", "cpu:1@2"])
    for use in (
        lambda: tm.use(part),
        lambda: tm.distribute(torch.ones(2), part),
        lambda: tm.borrow(torch.ones(2), tm.Layout(part, ("S0",))),
    ):
        with pytest.raises(RuntimeError, match="no device of the mesh") as e:
            use()
        for words in ("cpu:5, cpu:6", "process 1 of 3", "[not-on-mesh]"):
            assert words in str(e.value)


def test_devices_that_a_job_has_not(as_process_1):
    for make, code in (
        (lambda: tm.Mesh({"data": 8}), "[mesh-devices]"),
        (lambda: tm.Mesh({"data": 1}, ["cpu:7"]), "[no-such-device]"),
        (lambda: tm.Mesh({"data": 1}, ["gpu:0"]), "[no-such-device]"),
        (lambda: tm.Mesh({"data": 1}, ["cpu:x"]), "[device-name]"),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert code in str(error.value)
    assert tm.Mesh({"data": 2}, "null").processes == [0]


def test_one_process_has_all_devices():
    assert tm.list_local_devices() == tm.list_devices()
    assert (tm.num_processes(), tm.process_id()) == (1, 0)
    assert tm.Mesh({"data": 2}).processes == [0]
    # As many virtual devices as a mesh asks for.
    assert len(tm.Mesh({"data": 32}).devices) == 32
