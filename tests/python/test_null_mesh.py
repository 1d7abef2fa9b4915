"""A mesh that nobody has plans and counts as the real one does."""

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C


def real_mesh(axes):
    _C.separate_cpu_memories(True)
    mesh = tm.Mesh(axes)
    _C.separate_cpu_memories(False)
    return mesh


def counts_of_training(mesh, make_optimizer):
    """Collectives and bytes of two steps of an MLP with cut weights."""
    torch.manual_seed(0)
    layouts = {"0.weight": ("R", "S0"), "2.weight": ("R", "S1")}
    model = torch.nn.Sequential(
        torch.nn.Linear(12, 30),
        torch.nn.GELU(),
        torch.nn.Linear(30, 7),
        torch.nn.BatchNorm1d(7),
        torch.nn.Dropout(0.5),
    )
    for name, parameter in model.named_parameters():
        parameter.data = tm.distribute(
            parameter.data, mesh, layouts.get(name, ("R", "R"))
        )
    for buffer in model.buffers():
        buffer.data = tm.distribute(buffer.data, mesh, ("R",) * 2)
    optimizer = make_optimizer(model.parameters())
    x = tm.distribute(torch.randn(24, 12), mesh, ("S0", "R"))
    with tm.counting() as counts:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return counts.collectives, counts.bytes


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda ps: torch.optim.SGD(ps, 0.1),
        lambda ps: torch.optim.AdamW(ps, foreach=True),
        lambda ps: torch.optim.AdamW(ps, foreach=False),
    ],
)
@pytest.mark.parametrize("sizes", [(2, 2), (2, 3)])
def test_a_training_step_is_counted_as_on_the_real_mesh(sizes, optimizer):
    axes = dict(zip(("data", "model"), sizes, strict=True))
    real = counts_of_training(real_mesh(axes), optimizer)
    null = counts_of_training(tm.Mesh(axes, devices="null"), optimizer)
    assert real[0] != {}
    assert null == real


def test_a_training_step_may_be_watched():
    mesh = tm.Mesh({"data": 2, "model": 2}, devices="null")

    def train():
        return counts_of_training(mesh, lambda ps: torch.optim.AdamW(ps))

    alone = train()
    with tm.memory() as held:
        assert train() == alone
    assert set(held.peak) == {"null:0"}
    assert "aten::addmm" in tm.explain(train)


def test_bytes_held_are_those_of_the_first_device():
    mesh = tm.Mesh({"data": 4, "model": 2}, devices="null")
    with tm.memory() as held:
        x = tm.distribute(torch.ones(8, 6), mesh, ("S0", "R"))
    assert held.now == {"null:0": 2 * 6 * 4}
    assert held.peak == {"null:0": 2 * 6 * 4}
    assert tm.memory([x]).parameters["null:7"] == 2 * 6 * 4


def test_shards_are_those_of_the_first_device():
    mesh = tm.Mesh({"data": 4, "model": 2}, devices="null")
    x = tm.distribute(torch.ones(10, 6), mesh, ("S0", "R"))
    held = tm.shards(x)
    assert held[0].shape == (3, 6)
    assert held[1:] == [None] * 7
    assert mesh.devices[:2] == ["null:0", "null:1"]


def test_a_mesh_of_a_thousand_devices_fits_in_one_process():
    mesh = tm.Mesh({"data": 64, "model": 16}, devices="null")
    w = tm.distribute(torch.ones(1024, 64), mesh, ("S1", "S0"))
    x = tm.distribute(torch.ones(256, 1024), mesh, ("S0", "R"))
    with tm.counting() as counts:
        y = x @ w
    assert tm.layout(y).placements[0] == "S0"
    assert counts.collectives != {}
    assert counts.moved == {}


@pytest.mark.parametrize("devices", ["nul", "cpu", "null:0", ""])
def test_a_text_that_names_no_null_devices_is_refused(devices):
    with pytest.raises(ValueError, match="takes a list of names") as error:
        tm.Mesh({"data": 2}, devices=devices)
    assert f'"{devices}"' in str(error.value)
    assert 'devices=["cpu:0", "cpu:1"]' in str(error.value)
    assert str(error.value).endswith("[mesh-devices]")


def test_a_printed_tensor_says_that_its_values_are_of_no_use():
    null = tm.Mesh({"data": 2}, devices="null")
    note = "on null devices, whose values are of no use"
    for mesh, is_null in ((null, True), (tm.Mesh({"data": 2}), False)):
        x = tm.distribute(torch.ones(4, 2), mesh, ("S0",))
        for text in (repr(x), str(x.sum()), repr(torch.nn.Parameter(x))):
            assert (note in text) == is_null
            assert "layout=(" in text


def test_null_devices_stand_alone():
    with pytest.raises(ValueError, match="mesh-devices"):
        tm.Mesh({"data": 2}, devices=["null:0", "cpu:1"])
    with pytest.raises(ValueError, match="mesh-devices"):
        tm.Mesh({"data": 2}, devices=["null:1", "null:0"])
