"""Averages of weights and buffers over training."""

import pytest
import torch
from placing import assert_close
from torch import nn
from torch.optim import swa_utils

import torch_mesh as tm

AVERAGES = {
    "equal": {},
    "one by one": {"avg_fn": swa_utils.get_swa_avg_fn()},
    "exponential": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)},
    "exponential one by one": {"avg_fn": swa_utils.get_ema_avg_fn(0.9)},
}


def averaged(device, kind, use_buffers):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).to(device)
    model = swa_utils.AveragedModel(
        net, use_buffers=use_buffers, **AVERAGES[kind]
    )
    x = torch.randn(6, 4).to(device)
    for step in range(5):
        for _ in range(step):
            net(x * step)
        with torch.no_grad():
            net[0].weight.mul_(1.5)
        model.update_parameters(net)
    return model.module.state_dict()


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("kind", AVERAGES)
def test_buffers_are_averaged_as_on_the_cpu(kind, use_buffers):
    expected = averaged("cpu", kind, use_buffers)
    with tm.use(tm.Mesh({"data": 2})):
        actual = averaged("mesh", kind, use_buffers)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert tm.is_global(actual[name])
        assert actual[name].dtype == value.dtype
        assert_close(actual[name], value)


def test_integers_of_other_devices_are_torchs_own_matter():
    update = swa_utils.get_swa_multi_avg_fn()
    with pytest.raises(RuntimeError, match="addcdiv"):
        update([torch.tensor([4])], [torch.tensor([8])], torch.tensor(1))
