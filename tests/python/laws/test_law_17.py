"""Law 17: neighbours."""

import pytest
import torch
from placing import assert_close
from programs import run_program
from torch import nn

import torch_mesh as tm


def test_law_17_importing_torch_registers_nothing():
    output = run_program(
        "import sys, torch\n"
        "print('torch_mesh' in sys.modules,"
        " torch._C._get_privateuse1_backend_name(),"
        " torch.accelerator.current_accelerator())\n"
    )
    assert output.split() == ["False", "privateuseone", str(BUILT_FOR)]


# What torch says of its own accelerator where the machine has none.
BUILT_FOR = "cuda" if torch.backends.cuda.is_built() else None


NEIGHBOURS = {
    "accelerator": """
before = "cuda" if torch.backends.cuda.is_built() else "None"
assert str(torch.accelerator.current_accelerator()) == before
assert not torch.accelerator.is_available()
assert not torch.mesh.is_available()
""",
    "data_loader": """
import warnings
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.arange(12.0).view(6, 2))
for workers in (0, 2):
    loader = DataLoader(
        data, batch_size=2, pin_memory=True, num_workers=workers
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sum(float(b.sum()) for b, in loader) == 66
""",
    "checkpoint": """
from torch.utils.checkpoint import checkpoint
x = torch.ones(3, requires_grad=True)
for reentrant in (False, True):
    checkpoint(lambda t: t.exp().dropout(0.5, True)
               if hasattr(t, "dropout") else torch.dropout(t.exp(), 0.5, True),
               x, use_reentrant=reentrant).sum().backward()
assert x.grad is not None
""",
    "compile": """
f = torch.compile(lambda t: (t * 2).relu(), backend="aot_eager")
assert torch.equal(f(torch.ones(3)), torch.full((3,), 2.0))
""",
    "process_group": """
import os, torch.distributed as dist
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517")
if dist.is_available():
    dist.init_process_group(rank=0, world_size=1)
    t = torch.ones(2)
    dist.all_reduce(t)
    assert t.tolist() == [1, 1]
    dist.destroy_process_group()
""",
    "seeds_and_state": """
torch.manual_seed(3)
a = torch.rand(3)
torch.manual_seed(3)
assert torch.equal(a, torch.rand(3))
with torch.random.fork_rng():
    torch.rand(4)
torch.save(a, __import__("io").BytesIO())
""",
    "plain_autocast": """
with torch.autocast("cpu", dtype=torch.bfloat16):
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
""",
    "fork": """
import os
mesh = tm.Mesh({"data": 2})
x = tm.distribute(torch.ones(512, 64), mesh, ("S0",))
(x * 2 + x).sum().item()
child = os.fork()
if child == 0:
    y = tm.distribute(torch.ones(512, 64), mesh, ("S0",))
    ok = (y * 2 + x).sum().item() == 3 * 512 * 64
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
""",
    "backward_in_a_child_of_plain_programs": """
import os
def train():
    x = torch.ones(4, 3, requires_grad=True)
    (x * 2).sum().backward()
    return float(x.grad.sum()) == 24
assert train()
child = os.fork()
if child == 0:
    os._exit(0 if train() else 1)
assert os.waitpid(child, 0)[1] == 0
""",
    "backward_in_a_child": """
import os
mesh = tm.Mesh({"data": 2})
def train(x):
    x.requires_grad_()
    (x * 2).sum().backward()
    return float(x.grad.sum()) == 24
def train_both():
    x = torch.ones(4, 3)
    return train(x) and train(tm.distribute(x.detach(), mesh, ("S0",)))
assert train_both()
child = os.fork()
if child == 0:
    os._exit(0 if train_both() else 1)
assert os.waitpid(child, 0)[1] == 0
""",
    "workers_that_use_the_mesh": """
from torch.utils.data import DataLoader, Dataset
mesh = tm.Mesh({"data": 2})
class Data(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return tm.full(tm.distribute(torch.full((3,), float(i)), mesh) * 2)
total = sum(float(b.sum()) for b in DataLoader(Data(), num_workers=2))
assert total == 36
""",
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_law_17_neighbours_go_on_as_before(name):
    run_program(f"import torch, torch_mesh as tm\n{NEIGHBOURS[name]}")


def test_law_17_an_optimizer_made_before_to_the_mesh_trains(mesh):
    model = nn.Linear(4, 2)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.weight.detach().clone()
    with tm.use(mesh):
        model.to("mesh")
    assert all(
        a is b for a, b in zip(parameters, model.parameters(), strict=True)
    )
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    assert_close(model.weight.detach(), before - 0.5 * 3)
