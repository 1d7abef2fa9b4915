"""Global tensors between processes of one program, and files onto the mesh."""

import io

import pytest
import torch
from placing import assert_equal
from programs import run_program

import torch_mesh as tm


def test_workers_of_a_loader_return_global_tensors():
    run_program("""
import torch, torch_mesh as tm
from torch.utils.data import DataLoader, Dataset
mesh = tm.Mesh({"data": 2})
class Data(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return tm.distribute(torch.full((3,), float(i)), mesh, ("S0",))
with tm.use(mesh):
    batches = list(DataLoader(Data(), batch_size=2, num_workers=1, timeout=60))
assert [b.device.type for b in batches] == ["mesh", "mesh"]
assert [b.sum().item() for b in batches] == [3, 15]
""")


def test_a_queue_takes_global_tensors():
    run_program("""
import torch, torch_mesh as tm
import torch.multiprocessing as mp
def work(queue, back):
    x, w = queue.get(timeout=60)
    back.put((x * 2, type(w).__name__, w.requires_grad))
    queue.get(timeout=60)  # its memory is there as long as it lives
if __name__ == "__main__":
    context = mp.get_context("fork")
    queue, back = context.Queue(), context.Queue()
    process = context.Process(target=work, args=(queue, back))
    process.start()
    x = tm.distribute(torch.arange(4.0), tm.Mesh({"data": 2}), ("S0",))
    queue.put((x, torch.nn.Parameter(x)))
    y, name, requires_grad = back.get(timeout=60)
    queue.put(None)
    process.join()
    assert y.tolist() == [0, 2, 4, 6], y
    assert (y.device.type, name, requires_grad) == ("mesh", "Parameter", True)
""")


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize(
    "location", ["mesh", torch.device("mesh"), {"cpu": "mesh"}], ids=str
)
def test_files_load_onto_the_mesh(location, weights_only, mesh):
    value = {"w": torch.arange(6.0).view(2, 3), "n": 3}
    for written in (value, {**value, "w": tm.distribute(value["w"], mesh)}):
        file = io.BytesIO()
        torch.save(written, file)
        file.seek(0)
        with tm.use(mesh):
            read = torch.load(
                file, map_location=location, weights_only=weights_only
            )
        assert tm.is_global(read["w"])
        assert_equal(read["w"], value["w"])
        assert (read["w"] * 2).device.type == "mesh"


def test_safetensors_stays_patched_after_a_look_for_it():
    run_program("""
import importlib.util, sys
import torch_mesh as tm
assert importlib.util.find_spec("safetensors.torch") is not None
import safetensors.torch
assert safetensors.torch.save_file.__module__ == "safetensors.torch"
assert hasattr(safetensors.torch.save_file, "__wrapped__")
assert not [f for f in sys.meta_path if type(f).__name__ == "_Finder"
            and type(f).__module__ == "torch_mesh.tensor_file"]
""")


def test_traces_are_not_nested(tmp_path):
    inner = tm.trace(tmp_path / "inner.json")
    with (
        tm.trace(tmp_path / "outer.json"),
        pytest.raises(RuntimeError, match="trace-nested"),
        inner,
    ):
        pass


def test_explanations_may_be_nested():
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    inner = []

    def outer(number):
        y = x + number
        inner.append(tm.explain(torch.neg, y))
        return y * 2

    text = tm.explain(outer, number=1)
    assert [line.split()[0] for line in text.splitlines()] == [
        "aten::add.Tensor",
        "aten::neg",
        "aten::mul.Tensor",
    ]
    assert inner[0].startswith("aten::neg")
