"""Loops that others wrote are data parallel under `use(mesh, batch=...)`."""

import contextlib
import copy
import logging
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

import torch_mesh as tm
from torch_mesh import _C

STEPS = 4


class Net(torch.nn.Module):
    """Gives a dict of loss and logits, as the models of transformers do."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        )

    def forward(self, x, labels):
        logits = self.layers(x)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def rows():
    generator = torch.Generator().manual_seed(4)
    return [
        {
            "x": torch.randn(6, generator=generator),
            "labels": torch.tensor(i % 3),
        }
        for i in range(STEPS * 6 - 2)
    ]


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.05)


def by_hand(model):
    """What all the loops below compute."""
    optimizer = adamw(model)
    for batch in DataLoader(rows(), batch_size=6):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()


def accelerated(model, monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "mesh")
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator()
    model, optimizer, loader = accelerator.prepare(
        model, adamw(model), DataLoader(rows(), batch_size=6)
    )
    for batch in loader:
        optimizer.zero_grad()
        accelerator.backward(model(**batch)["loss"])
        optimizer.step()


def trained(model, monkeypatch, tmp_path):
    transformers = pytest.importorskip("transformers")
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "mesh")
    accelerate.state.AcceleratorState._reset_state(True)

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self):
            loader = DataLoader(rows(), batch_size=6)
            return self.accelerator.prepare(loader)

    optimizer = adamw(model)
    Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=1,
            max_grad_norm=0,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows(),
        optimizers=(
            optimizer,
            torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1),
        ),
    ).train()


def lightened(model):
    lightning = pytest.importorskip("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def training_step(self, batch, index):
            return self.net(**batch)["loss"]

        def configure_optimizers(self):
            return adamw(self.net)

    class OnMesh(lightning.pytorch.accelerators.CPUAccelerator):
        def setup_device(self, device):
            pass

    lightning.Trainer(
        accelerator=OnMesh(),
        strategy=lightning.pytorch.strategies.SingleDeviceStrategy(
            device=torch.device("mesh")
        ),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), DataLoader(rows(), batch_size=6))


@pytest.mark.parametrize("loop", ["accelerate", "trainer", "lightning"])
def test_batches_are_cut_and_weights_are_plain_torchs(
    loop, monkeypatch, tmp_path
):
    mesh = tm.Mesh({"data": 2})
    model = Net()
    plain = copy.deepcopy(model)
    by_hand(plain)
    with (
        tm.use(mesh, batch="data"),
        tm.counting() as counts,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        if loop == "accelerate":
            accelerated(model, monkeypatch)
        elif loop == "trainer":
            trained(model, monkeypatch, tmp_path)
        else:
            lightened(model)
    for ours, theirs in zip(
        model.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach())
        # Lightning takes the module off the device at its end.
        if tm.is_global(ours):
            assert tm.layout(ours).placements == ("R",)
    assert counts["all_reduce@data"] >= STEPS
    assert counts["all_gather@data"] == 0
    cut = {
        (batch.shape, batch.layout.placements)
        for batch in tm.describe(model).batches
    }
    assert {((6, 6), ("S0",)), ((4, 6), ("S0",)), ((6,), ("S0",))} <= cut


@pytest.fixture(autouse=True)
def clean_state():
    """Each test begins with no mesh in force and one seed."""
    tm.use(None)
    torch.manual_seed(1)
    with contextlib.ExitStack() as stack:
        stack.callback(tm.use, None)
        stack.callback(_C.separate_cpu_memories, False)
        yield
