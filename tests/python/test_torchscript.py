"""TorchScript modules that move to the mesh, load onto it, or are traced."""

import io

import pytest
import torch
from placing import assert_close

import torch_mesh as tm


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.last = torch.nn.Linear(8, 2, bias=False)
        # Two parameters in one storage, of which one is transposed.
        memory = torch.randn(24)
        self.left = torch.nn.Parameter(memory[:8])
        self.right = torch.nn.Parameter(memory[8:].view(2, 8).t())

    def forward(self, x):
        y = self.norm(self.first(x)).relu() * self.left
        return self.last(y) + y @ self.right


def moved(scripted, module, x):
    return scripted.to("mesh")


def loaded(scripted, module, x):
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file, map_location="mesh")


def traced(scripted, module, x):
    return torch.jit.trace(module.to("mesh"), x, check_trace=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("mesh", [{"data": 2}, {"data": 2, "model": 2}])
@pytest.mark.parametrize("how", [moved, loaded, traced])
def test_a_scripted_module_computes_as_plain(how, mesh):
    mesh = tm.Mesh(mesh)
    cut = ("S0", *["R"] * (len(mesh.shape) - 1))
    value = torch.randn(6, 3)
    module = Network()
    scripted = torch.jit.script(module)
    # Before the modules share memory with what moves.
    plain = Network()
    plain.load_state_dict(module.state_dict())
    with tm.use(mesh):
        x = tm.distribute(value, mesh, cut)
        network = how(scripted, module, x)
        state = {k: v.cpu() for k, v in network.state_dict().items()}
        plain.load_state_dict(state)
        for _ in range(2):
            y, expected = network(x), plain(value)
            assert_close(y.detach(), expected.detach())
            y.square().sum().backward()
            expected.square().sum().backward()
    gradients = {k: p.grad for k, p in network.named_parameters()}
    for name, p in plain.named_parameters():
        assert_close(gradients[name], p.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_loaded_onto_the_mesh_can_be_written():
    mesh = tm.Mesh({"data": 2})
    scripted = torch.jit.script(Network())
    with tm.use(mesh):
        network = loaded(scripted, None, None)
        with torch.no_grad():
            network.right.mul_(2)
            network.first.weight.t()[0].zero_()
        again = loaded(network.cpu(), None, None)
    assert_close(again.right, 2 * scripted.right.detach())
    expected = scripted.first.weight.detach().clone()
    expected[:, 0] = 0
    assert_close(again.first.weight, expected)
