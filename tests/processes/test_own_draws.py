"""A process draws the numbers of what it holds, and passes by the others."""

import json

import pytest
from tests.processes import spawn

# Each drawing, of sizes and layouts with parts of many lengths, on the mesh and
# plain; then one number more of the same generator.
PROGRAM = """
import itertools
torch.set_num_threads(1)
n = len(tm.list_devices("cpu"))
meshes = [tm.Mesh({"x": n})]
if n == 4:
    meshes.append(tm.Mesh({"x": 2, "y": 2}))
DRAWS = {
    "uniform_": lambda t, g: t.uniform_(-2, 3, generator=g),
    "normal_": lambda t, g: t.normal_(1, 2, generator=g),
    "bernoulli_": lambda t, g: t.bernoulli_(0.3, generator=g),
    "rand_like": lambda t, g: torch.rand_like(t, generator=g),
    "randn_like": lambda t, g: torch.randn_like(t, generator=g),
    "dropout": lambda t, g: torch.nn.functional.dropout(t + 1, 0.4),
    "exponential_": lambda t, g: t.exponential_(2, generator=g),
}
SIZES = [(5003,), (11, 1031), (3, 4, 2600), (4096, 3), (2, 5)]
checked = 0
for mesh, sizes in itertools.product(meshes, SIZES):
    dims = ["R"] + [f"S{d}" for d in range(len(sizes))]
    for placements in itertools.product(dims, repeat=len(mesh.shape)):
        for (name, draw), dtype, own in itertools.product(
            DRAWS.items(), ("float32", "bfloat16", "float64"), (False, True)
        ):
            plain = torch.zeros(sizes, dtype=getattr(torch, dtype))
            x = tm.distribute(plain, mesh, placements)
            found = []
            for t in (plain, x):
                torch.manual_seed(7)
                torch.rand(3)  # from the middle of a block, by an odd number
                g = torch.Generator().manual_seed(9) if own else None
                found.append((draw(t, g), torch.rand(2, generator=g)))
            (right, after), (ours, after_ours) = found
            where = (name, dtype, sizes, placements, own)
            assert tm.layout(ours).placements == placements, where
            assert torch.equal(after, after_ours), where
            assert torch.equal(tm.full(ours), right), where
            checked += 1
print(checked)
"""

# How far above what it had before each draw takes a process, in MiB.
MEMORY = """
import json
torch.set_num_threads(1)

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) / 1024

def taken(draw):
    draw(few)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest is what there is now
    before = status("VmHWM")
    draw(many)
    return status("VmHWM") - before

mesh = tm.Mesh({"x": 2})
few = tm.from_local(torch.ones(4096), mesh)
many = tm.from_local(torch.ones(1 << 24), mesh).zero_()  # 64 MiB of 128
print(json.dumps({
    "uniform_": taken(lambda t: t.uniform_()),
    "normal_": taken(lambda t: t.normal_()),
    "bernoulli_": taken(lambda t: t.bernoulli_(0.5)),
    "rand_like": taken(torch.rand_like),
    "randn_like": taken(torch.randn_like),
    "dropout": taken(torch.nn.functional.dropout),
    "exponential_": taken(lambda t: t.exponential_()),
}))
"""


@pytest.mark.parametrize("devices", [(1, 1), (2, 1), (2, 2)], ids=str)
def test_numbers_and_generators_are_those_of_the_whole(devices):
    count = len(devices)
    outputs = spawn.check(
        PROGRAM,
        ids=range(count),
        preamble=spawn.PLAIN,
        start=spawn.JOIN.format(count=count),
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": str(devices[i])},
        addresses=spawn.free_addresses(1),
    )
    assert len(set(outputs)) == 1
    assert int(outputs[0]) > 500


def test_what_others_hold_takes_no_memory():
    outputs = spawn.check(
        MEMORY,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
    for output in outputs:
        taken = json.loads(output)
        # The whole, which this one draws: what is measured is seen.
        assert taken.pop("exponential_") > 120
        for name, mebibytes in taken.items():
            results = {"rand_like": 1, "randn_like": 1, "dropout": 2}
            assert mebibytes < 64 * results.get(name, 0) + 8, (name, taken)
