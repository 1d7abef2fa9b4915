"""Pickles register the device in the process that reads them."""

import copy
import io
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn

import torch_mesh as tm

DUMPS = {
    "pickle": pickle.dumps,
    "forking": lambda value: bytes(ForkingPickler.dumps(value)),
}


def read(data, program, *options):
    """Runs a program in a fresh process that reads `data` from its input."""
    result = subprocess.run(
        [sys.executable, "-c", f"import sys, pickle, io, torch\n{program}"],
        input=data,
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize("dumps", DUMPS)
def test_a_fresh_process_reads_the_device(dumps):
    if dumps == "forking":
        program = "from multiprocessing.reduction import ForkingPickler as p"
    else:
        program = "import pickle as p"
    value = [torch.device("mesh"), torch.device("mesh:0"), torch.device("cpu")]
    read(
        DUMPS[dumps](value),
        f"{program}\n"
        "one, two, three = p.loads(sys.stdin.buffer.read())\n"
        'assert (one.type, one.index) == ("mesh", None)\n'
        'assert (two.type, two.index) == ("mesh", 0)\n'
        'assert three == torch.device("cpu")\n'
        'assert torch.ones(2, device=one).device.type == "mesh"\n',
    )


def test_a_fresh_process_reads_tensors_and_modules():
    mesh = tm.Mesh({"data": 2})
    x = tm.distribute(torch.arange(4.0), mesh, ("S0",))
    with tm.use(mesh):
        module = nn.Linear(2, 1).to("mesh")
    read(
        pickle.dumps({"x": x, "module": module, "mesh": mesh}),
        "value = pickle.loads(sys.stdin.buffer.read())\n"
        'assert value["x"].device.type == "mesh"\n'
        'assert value["x"].tolist() == [0, 1, 2, 3]\n'
        'assert isinstance(value["module"].weight, torch.nn.Parameter)\n'
        'assert value["module"].weight.device.type == "mesh"\n'
        'assert value["module"](torch.ones(3, 2)).shape == (3, 1)\n',
    )


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_fresh_process_loads_a_file_that_names_the_device(weights_only):
    mesh = tm.Mesh({"data": 2})
    file = io.BytesIO()
    torch.save(
        {
            "device": torch.device("mesh"),
            "x": tm.distribute(torch.arange(4.0), mesh, ("S0",)),
            "other": torch.device("cpu", 0),
        },
        file,
    )
    read(
        file.getvalue(),
        "value = torch.load(io.BytesIO(sys.stdin.buffer.read()),"
        f" weights_only={weights_only})\n"
        'assert value["device"].type == "mesh"\n'
        'assert value["other"] == torch.device("cpu", 0)\n'
        'assert value["x"].tolist() == [0, 1, 2, 3]\n',
    )


def test_pickles_of_other_devices_are_as_before():
    for name in ("cpu", "cpu:0", "cuda:3", "meta"):
        device = torch.device(name)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            data = pickle.dumps(device, protocol)
            assert b"torch_mesh" not in data
            assert pickle.loads(data) == device
        assert copy.deepcopy(device) == device
    assert copy.deepcopy(torch.device("mesh")) == torch.device("mesh")
    read(
        pickle.dumps(torch.device("cpu", 0)),
        'sys.modules["torch_mesh"] = sys.modules["torch_mesh_autoload"] = None'
        "\nassert pickle.loads(sys.stdin.buffer.read())"
        ' == torch.device("cpu", 0)\n',
    )


def test_workers_that_are_spawned_get_tensors(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import multiprocessing, sys
import torch, torch_mesh as tm

def total(x, device):
    return x.device.type, device.type, float(x.sum())

def check(x, module):
    assert float(x.sum()) == 4.0
    assert [p.device.type for p in module.parameters()] == ["mesh"] * 2
    assert float(module.weight.sum()) == 8.0 and float(module.bias.sum()) == 2.0

if __name__ == "__main__":
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    module = torch.nn.Linear(4, 2)
    for p in module.parameters():
        torch.nn.init.ones_(p)
    module.to(x.device)
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(1) as pool:
        answer = pool.apply(total, (x, torch.device("mesh")))
    assert answer == ("mesh", "mesh", 4.0), answer
    child = context.Process(target=check, args=(x, module))
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode
""")
    for method in ("spawn", "forkserver"):
        subprocess.run(
            [sys.executable, program, method], check=True, timeout=120
        )
