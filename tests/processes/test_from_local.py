"""`torch_mesh.from_local`: a batch of the rows that each process has."""

import json

import pytest
import torch
from tests.processes import spawn

import torch_mesh as tm

PROGRAM = """
import json
mesh = tm.Mesh({mesh})
n = tm.num_processes()
found = []
for sizes in {sizes}:
    start = sum(sizes[:me])
    mine = torch.arange(start, start + sizes[me]).to(torch.float32)
    rows = {{"x": mine.view(-1, 1).expand(-1, 3), "n": mine.long(), "k": 7}}
    with tm.counting() as counts:
        batch = tm.from_local(rows, mesh, batch="data")
    mine.fill_(-1)  # the batch is a copy
    assert batch["k"] == 7
    assert tm.layout(batch["x"]).placements[0] == "S0"
    whole = torch.arange(float(sum(sizes)))
    assert torch.equal(tm.full(batch["x"]), whole.view(-1, 1).expand(-1, 3))
    assert torch.equal(tm.full(batch["n"]), whole.long())
    found.append(sum(counts.bytes.values()))
print(json.dumps(found))
"""

ERRORS = """
mesh = tm.Mesh({"data": 4})
with_columns = said(lambda: tm.from_local(torch.zeros(2, 2 + me), mesh))
assert "[processes-differ]" in with_columns, with_columns
in_turns = tm.Mesh({"data": 4}, ["cpu:0", "cpu:2", "cpu:1", "cpu:3"])
mixed = said(lambda: tm.from_local(torch.zeros(2), in_turns))
assert mixed.startswith("from_local: ") and "[parts-of-batch]" in mixed, mixed
"""


def numbers_of_bytes(mesh, devices, sizes):
    count = len(devices)
    outputs = spawn.check(
        PROGRAM.format(mesh=mesh, sizes=sizes),
        ids=range(count),
        preamble=spawn.PLAIN,
        start=spawn.JOIN.format(count=count) if count > 1 else "",
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": str(devices[i])},
        addresses=spawn.free_addresses(1),
    )
    assert len(set(outputs)) == 1
    return json.loads(outputs[0])


@pytest.mark.parametrize(
    ("devices", "sizes"),
    [
        ((1, 1), [(4, 4), (3, 2), (300, 5), (0, 3), (1, 0), (0, 0)]),
        ((2, 1), [(4, 2), (1, 5)]),
        ((1, 1, 1), [(2, 2, 2), (5, 0, 1)]),
        ((4,), [(7,)]),
    ],
    ids=str,
)
def test_rows_follow_one_another(devices, sizes):
    numbers_of_bytes({"data": sum(devices)}, devices, sizes)


def test_rows_stay_where_they_are_if_there_are_as_many_as_devices_hold():
    # Rows of 20 bytes; 500 and 500 are those of the devices.
    stay, move = numbers_of_bytes({"data": 2}, (1, 1), [(500, 500), (499, 501)])
    assert stay < 4096 < move


def test_parts_that_do_not_fit_are_refused():
    spawn.check(
        spawn.SAID + ERRORS,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "2"},
    )


def test_a_global_tensor_is_no_part():
    x = tm.distribute(torch.zeros(4), tm.Mesh({"data": 2}), ("S0",))
    with pytest.raises(TypeError, match="is on the mesh"):
        tm.from_local(x, tm.Mesh({"data": 2}))


MAPPINGS = """
import collections
import numpy as np
mesh = tm.Mesh({"data": 2})
batch = collections.UserDict(
    a=np.full((2, 2), me, dtype="float32"), b=torch.full((2,), me)
)
found = tm.from_local({"x": batch}, mesh)["x"]
assert tm.full(found["a"])[:, 0].tolist() == [0, 0, 1, 1]
assert found["b"].tolist() == [0, 0, 1, 1]
# Rows that lie otherwise in memory, and all on one process.
rows = torch.randn(1 - me, 3, 4, 4).to(memory_format=torch.channels_last)
x = tm.from_local(rows, mesh)
assert x.stride() == (48, 16, 4, 1), x.stride()
assert x.view(1, -1).shape == (1, 48)
for odd in (
    object(),
    {1.5},
    torch.eye(2).to_sparse(),
    torch.eye(2).to_sparse_csr(),
    torch.zeros(2, device="meta"),
    torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.quint8),
    torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
):
    said = said_type(lambda: tm.from_local({"x": odd}, mesh))
    assert "from_local" in said and "[argument-type]" in said, said
"""


def test_arrays_mappings_and_other_orders_of_memory_are_rows():
    said = spawn.SAID.replace("ValueError", "TypeError")
    spawn.check(
        said.replace("def said", "def said_type") + MAPPINGS,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
