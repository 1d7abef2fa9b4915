"""What the small names of the package give: meshes, layouts, counts, traces."""

import json

import pytest
import torch

import torch_mesh as tm


@pytest.fixture
def five_devices():
    before = tm.device_count("cpu")
    tm.set_cpu_devices(5)
    yield
    tm.set_cpu_devices(before)


def test_virtual_devices_are_as_many_as_were_set(five_devices):
    assert tm.list_devices("cpu") == [f"cpu:{i}" for i in range(5)]
    with pytest.raises(ValueError, match="0"):
        tm.set_cpu_devices(0)


def test_devices_are_counted_by_kind(five_devices):
    assert tm.device_count("cpu") == 5
    assert tm.device_count("tpu") == 0
    with pytest.raises(ValueError, match="toaster"):
        tm.device_count("toaster")


def test_a_mesh_tells_its_axes_and_devices():
    mesh = tm.Mesh({"data": 2, "model": 2})
    assert mesh.axis_names == ("data", "model")
    assert mesh.axes == {"data": 2, "model": 2}
    assert mesh.shape == (2, 2)
    assert mesh.size == 4
    assert mesh.devices == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]
    assert mesh == tm.Mesh({"data": 2, "model": 2})
    assert mesh != tm.Mesh({"model": 2, "data": 2})
    assert str(mesh) == "Mesh(data=2 model=2)"


def test_a_layout_tells_what_each_device_holds():
    mesh = tm.Mesh({"data": 2, "model": 2})
    layout = tm.Layout(mesh, {"model": "S0"})
    assert str(layout) == "(R, S0)"
    assert layout == tm.Layout(mesh, "(R, S0)")
    assert [layout.shard_shape((5, 3), d) for d in range(4)] == [
        (3, 3),
        (2, 3),
    ] * 2
    assert "cpu:0, cpu:2" in str(layout.picture((2, 1)))


def test_a_tensor_tells_its_layout_and_whether_it_is_global():
    mesh = tm.Mesh({"data": 2})
    plain = torch.arange(6.0)
    x = tm.distribute(plain, mesh, ("S0",))
    assert tm.is_global(x)
    assert not tm.is_global(plain)
    assert not tm.is_global("text")
    assert str(tm.layout(x)) == "(S0)"
    assert tm.layout(x).mesh == mesh
    assert torch.equal(tm.full(x), plain)
    assert [s.tolist() for s in tm.shards(x)] == [[0, 1, 2], [3, 4, 5]]


def test_what_ran_is_counted():
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.ones(4, 2), mesh, ("S0",))
    with tm.counting() as counts:
        tm.full(x.sum(0) * 1)
        x.nonzero()
    assert isinstance(counts, tm.Counting)
    assert counts["all_reduce@data"] == 1
    assert counts["all_to_all@data"] == 0
    assert counts.collectives["all_reduce@data"] == 1
    assert counts.bytes["all_reduce@data"] > 0
    assert counts.bytes_per_axis()["data"] == sum(counts.bytes.values())
    assert ("all_reduce", "data") in [event[:2] for event in counts.events]
    assert list(counts.replicated_ops.values()) == [1]
    assert counts.ops >= 3


def test_a_block_is_written_as_a_trace(tmp_path):
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.ones(4, 2), mesh, ("S0",))
    with tm.trace(tmp_path / "trace.json") as counts:
        tm.full(x.sum(0) * 1)
    assert counts["all_reduce@data"] == 1
    written = json.loads((tmp_path / "trace.json").read_text())
    assert "traceEvents" in written
    assert "all_reduce@data" in json.dumps(written["torch_mesh"])


def test_an_explanation_names_layouts_and_steps():
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.ones(4, 2), mesh, ("S0",))
    text = str(tm.explain(lambda: x.sum(0).exp()))
    assert "aten::sum" in text
    assert "(P+)" in text
    assert "all_reduce" in text


def test_results_of_checks_are_what_the_page_says():
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    parity = tm.check_parity(lambda x: x.sum(), x)
    assert isinstance(parity, tm.Parity)
    assert parity.compared >= 1
    rule = tm.check_rule("aten::mm")
    assert isinstance(rule, tm.RuleCheck)
    assert rule
    assert isinstance(tm.layout(x).picture((4,)), tm.Picture)
