"""Law 16: files hold plain storages."""

import copy
import io

import pytest
import torch
from placing import assert_equal, every_layout, mesh_of, place
from programs import run_program
from torch import nn

import torch_mesh as tm


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


@every_layout(2)
def test_law_16_save_and_load_keep_the_value(mesh_name, placements):
    value = torch.randn(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    loaded = torch.load(saved(x), map_location="cpu")
    assert_equal(loaded, value)
    assert_equal(x, value)
    for p, q in zip(tm.layout(x).placements, placements, strict=True):
        assert p == q or q == "P+"


def test_law_16_ties_and_views_are_kept(mesh):
    x = tm.distribute(torch.arange(12.0).view(3, 4), mesh, ("S0", "S1"))
    thing = {"a": x, "row": x[1], "t": x.t(), "again": x, "other": x.clone()}
    loaded = torch.load(saved(thing), map_location="cpu")
    assert_equal(loaded["row"], tm.full(x)[1])
    loaded["a"][1, 0] = 99
    assert loaded["row"][0] == 99
    assert loaded["t"][0, 1] == 99
    assert loaded["again"][1, 0] == 99
    assert loaded["other"][1, 0] == 4


def test_law_16_a_file_loads_where_torch_mesh_is_not_imported(mesh, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with tm.use(mesh):
        model.to("mesh")
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    expected = float(tm.full(model[0].weight).sum())
    output = run_program(
        "import sys, torch\n"
        f"state = torch.load({str(path)!r}, weights_only=True)\n"
        "assert 'torch_mesh' not in sys.modules\n"
        "assert all(t.device.type == 'cpu' for t in state.values())\n"
        "print(float(state['0.weight'].sum()))\n"
    )
    assert float(output) == pytest.approx(expected)


@every_layout(2)
def test_law_16_deepcopy_keeps_value_layout_and_ties(mesh_name, placements):
    value = torch.randn(7, 5)
    x = place(value, mesh_of(mesh_name), placements)
    again, tied = copy.deepcopy([x, x[2:]])
    assert_equal(again, value)
    assert tm.layout(again).mesh == mesh_of(mesh_name)
    for p, q in zip(tm.layout(again).placements, placements, strict=True):
        assert p == q or q == "P+"
    again.fill_(3)
    assert_equal(tied, torch.full((5, 5), 3.0))
    assert_equal(x, value)
    parameter = nn.Parameter(x)
    assert isinstance(copy.deepcopy(parameter), nn.Parameter)


def test_law_16_tied_parameters_stay_tied(mesh):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    with tm.use(mesh):
        model.to("mesh")
    assert model.head.weight is model.embedding.weight
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.embedding.weight
    state = torch.load(saved(model.state_dict()), map_location="cpu")
    assert (
        state["head.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    )
    plain = Tied()
    plain.load_state_dict(state)
    assert_equal(model.head.weight.detach(), plain.head.weight.detach())
    # And back into the sharded model, in place.
    weight = model.head.weight
    model.load_state_dict({k: v + 1 for k, v in state.items()})
    assert model.head.weight is weight
    assert_equal(weight.detach(), state["head.weight"] + 1)


def test_law_16_safetensors_keep_values_and_know_ties(mesh, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    with tm.use(mesh):
        model.to("mesh")
    path = str(tmp_path / "model.safetensors")
    safetensors.save_model(model, path)
    loaded = safetensors.load_file(path)
    assert len(loaded) == 3
    for name, value in loaded.items():
        assert value.device.type == "cpu"
        assert_equal(model.state_dict()[name].detach(), value)
    x = tm.distribute(torch.randn(5, 4), mesh, ("S0", "S1"))
    y = tm.distribute(torch.randn(5, 4), mesh, ("S0", "S1"))
    safetensors.save_file({"x": x, "y": y}, path)
    assert_equal(x, safetensors.load_file(path)["x"])
    assert_equal(y, safetensors.load_file(path)["y"])


def test_law_16_an_optimizer_state_loads_back(mesh):
    model = nn.Linear(4, 3)
    with tm.use(mesh):
        model.to("mesh")
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = torch.load(saved(optimizer.state_dict()), map_location="cpu")
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(state)
    for mine, theirs in zip(
        optimizer.state.values(), other.state.values(), strict=True
    ):
        assert tm.is_global(theirs["exp_avg"])
        assert_equal(mine["exp_avg"], tm.full(theirs["exp_avg"]))
