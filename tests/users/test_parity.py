"""The programs of users raise no alarm in check_parity: some of them here.

`python -m tests.users --parity` asks all of them.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import pytest
import torch
from tests.users import parity
from tests.users.programs import load
from tests.users.registry import PROGRAMS

load()

# Of each kind one: draws, recurrence, attention, autocast, lists, plain and
# nested tensors, Keras.
CHOSEN = [
    ("mnist", "tensor", torch.float32),
    ("lstm_tiny", "data", torch.float64),
    ("nanogpt", "tensor", torch.float64),
    ("amp_bf16", "tensor", torch.float32),
    ("many_optimizers", "data", torch.float32),
    ("plain_constants", "data", torch.float64),
    ("jagged_attention", "tensor", torch.float32),
    ("keras_mnist", "tensor", torch.float32),
]


@pytest.mark.parametrize("name, mode, dtype", CHOSEN)
def test_a_program_raises_no_alarm(name, mode, dtype):
    found = parity.check(PROGRAMS[name], mode, dtype)
    assert found, found
    assert found.compared > 20


def test_a_program_with_a_fault_raises_one(monkeypatch):
    relu = torch.nn.functional.relu

    def leaky(x, inplace=False):
        return relu(x) + (0.01 * x if x.device.type == "mesh" else 0)

    monkeypatch.setattr(torch.nn.functional, "relu", leaky)
    found = parity.check(PROGRAMS["mnist"], "data")
    assert not found
    assert found.first
