"""`use(mesh, batch=...)`: what is cut of what a loop moves to the mesh."""

import copy
import io

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import torch_mesh as tm


def placements(x):
    return tm.layout(x).placements


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.to("mesh"),
        lambda x: x.to(torch.device("mesh"), non_blocking=True),
        lambda x: x.to("mesh", torch.float64),
        lambda x: x.to(torch.ones(1, device="mesh")),
        lambda x: x.mesh(),
        lambda x: torch.as_tensor(x, device="mesh"),
        lambda x: x.expand(2, *x.shape)[1].to("mesh"),
    ],
)
@pytest.mark.parametrize("shape", [(2,), (5, 3), (4, 2, 3, 3), (2, 0)])
def test_what_is_moved_is_cut_on_dim_0(mesh, move, shape):
    x = torch.randn(shape)
    expected = move_plain(move, x)
    with tm.use(mesh, batch="data"):
        moved = move(x)
    assert placements(moved) == ("S0", "R")
    assert torch.equal(moved.cpu(), expected)
    assert moved.dtype == expected.dtype
    assert moved.stride() == expected.stride()


def move_plain(move, x):
    """The same move on a mesh that cuts nothing."""
    with tm.use(tm.Mesh({"data": 2, "model": 2})):
        return move(x).cpu()


def test_memory_formats_are_those_of_the_whole(mesh, separate_memories):
    image = torch.randn(4, 3, 5, 6)
    last = image.to(memory_format=torch.channels_last)
    with tm.use(mesh, batch=("data", "model")):
        for x, more in (
            (last, {}),
            (image, {"memory_format": torch.channels_last}),
            (image[:, :, ::2], {}),
            (image.transpose(0, 1), {}),
        ):
            moved = x.to("mesh", **more)
            assert placements(moved) == ("S0", "S0")
            assert moved.stride() == x.to("cpu", copy=True, **more).stride()
            assert torch.equal(moved.cpu(), x)


def test_the_batch_is_a_copy(mesh):
    x = torch.zeros(4, 2)
    with tm.use(mesh, batch="data"):
        moved = x.to("mesh")
    moved.add_(1)
    x.sub_(1)
    assert torch.equal(moved.cpu(), torch.ones(4, 2))
    assert torch.equal(x, -torch.ones(4, 2))


def test_integers_bools_and_complex_numbers_are_batches(mesh):
    with tm.use(mesh, batch="data"):
        for x in (
            torch.arange(6),
            torch.arange(6) > 2,
            torch.randn(6, dtype=torch.complex64),
        ):
            assert placements(x.to("mesh")) == ("S0", "R")
            assert torch.equal(x.to("mesh").cpu(), x)
        conjugate = torch.randn(6, dtype=torch.complex64).conj()
        assert torch.equal(conjugate.to("mesh").cpu(), conjugate)


def made_by_loading(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, map_location="mesh")


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[:1].to("mesh"),
        lambda x: x[0, 0].to("mesh"),
        lambda x: x[:0].to("mesh"),
        lambda x: torch.nn.Parameter(x, requires_grad=False).to("mesh"),
        lambda x: x.clone().requires_grad_().to("mesh"),
        lambda x: (x.clone().requires_grad_() * 2).to("mesh"),
        lambda x: torch.tensor([[1.0], [2.0]], device="mesh"),
        lambda x: torch.as_tensor(np.ones((4, 2)), device="mesh"),
        lambda x: torch.ones(4, 2, device="mesh"),
        lambda x: torch.randn(4, 2, device="mesh"),
        lambda x: torch.arange(4, device="mesh"),
        lambda x: x.new_ones(4, device="mesh"),
        lambda x: x.new_tensor([1.0, 2.0], device="mesh"),
        lambda x: torch.empty_like(x, device="mesh").copy_(x),
        made_by_loading,
    ],
)
def test_what_is_made_there_or_is_no_batch_is_not_cut(mesh, make):
    with tm.use(mesh, batch="data"):
        assert placements(make(torch.randn(4, 2))) == ("R", "R")


def test_modules_and_states_are_not_cut(mesh):
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 4)
    )
    model[0].requires_grad_(False)
    with tm.use(mesh, batch="data"):
        model.to("mesh")
        model.load_state_dict(copy.deepcopy(model.cpu()).state_dict())
        model.to("mesh")
        model.load_state_dict(
            {k: v.cpu() for k, v in model.state_dict().items()}, assign=True
        )
        twin = copy.deepcopy(model)
    for module in (model, twin):
        for name, tensor in module.state_dict().items():
            assert placements(tensor) == ("R", "R"), name


def test_states_of_optimizers_are_not_cut(mesh):
    model = torch.nn.Linear(4, 4)
    with tm.use(mesh, batch="data"):
        model.to("mesh")
        for kind, more in (
            (torch.optim.SGD, {"momentum": 0.9}),
            (torch.optim.AdamW, {"capturable": False}),
            (torch.optim.Adam, {"fused": True}),
            (torch.optim.Adafactor, {}),
        ):
            optimizer = kind(model.parameters(), lr=0.1, **more)
            model(torch.randn(4, 4).to("mesh")).sum().backward()
            optimizer.step()
            saved = copy.deepcopy(optimizer.state_dict())
            for states in saved["state"].values():
                for name, state in states.items():
                    if isinstance(state, torch.Tensor):
                        states[name] = state.cpu()
            optimizer.load_state_dict(saved)
            optimizer.step()
            for states in optimizer.state.values():
                for state in states.values():
                    if isinstance(state, torch.Tensor) and tm.is_global(state):
                        assert placements(state) == ("R", "R"), kind


def loop(model, device):
    """A loop as somebody else writes it: it knows a device, and no mesh."""
    torch.manual_seed(3)
    data = TensorDataset(torch.randn(22, 6), torch.randint(0, 3, (22,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    model.to(device)
    for inputs, targets in DataLoader(data, batch_size=6, shuffle=True):
        batch = {"x": inputs.to(device), "y": targets.to(device)}
        loss = torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("axes", [{"data": 2}, {"data": 4}, {"data": 3}])
def test_a_loop_of_somebody_else_is_data_parallel(axes):
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)
    )
    plain = copy.deepcopy(model)
    expected = loop(plain, "cpu")
    with tm.use(tm.Mesh(axes), batch="data"), tm.counting() as counts:
        losses = loop(model, "mesh")
    assert losses == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(
        model.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.cpu(), theirs)
        assert placements(ours) == ("R",)
    assert counts["all_reduce@data"] >= 4
    assert counts["all_gather@data"] == 0


def test_a_block_of_batches_ends(mesh):
    x = torch.ones(4)
    with tm.use(mesh, batch="data"):
        with tm.use(mesh):
            assert placements(x.to("mesh")) == ("R", "R")
        assert placements(x.to("mesh")) == ("S0", "R")
    tm.use(mesh, batch=("data", "model"))
    assert placements(x.to("mesh")) == ("S0", "S0")
    tm.use(mesh)
    assert placements(x.to("mesh")) == ("R", "R")


def test_describe_shows_the_layout_that_a_batch_took(mesh):
    with tm.use(mesh, batch="data"):
        model = torch.nn.Linear(7, 2).to("mesh")
        for _ in range(3):
            model(torch.ones(11, 7).to("mesh"))
    table = tm.describe(model)
    (batch,) = [b for b in table.batches if b.shape == (11, 7)]
    assert batch.layout == tm.Layout(mesh, ("S0", "R"))
    assert (batch.dtype, batch.times) == ("float32", 3)
    assert "batch float32[11, 7] (S0, R), 3 x" in str(table)


@pytest.mark.parametrize("batch", [0, True, ["data", 1]])
def test_a_batch_is_cut_over_axes_by_name(batch):
    with pytest.raises(TypeError, match="argument-type"):
        tm.use(tm.Mesh({"data": 2}), batch=batch)
