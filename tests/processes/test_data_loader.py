"""`torch_mesh.DataLoader` over processes: the batches of one process."""

import json

import pytest
from tests.processes import spawn

SETUP = """
import json
import torch.utils.data as torch_data

class Rows(torch_data.Dataset):
    def __init__(self, count=21):
        self.count, self.read = count, []
    def __len__(self):
        return self.count
    def __getitem__(self, i):
        self.read.append(i)
        return {{"x": torch.full((3,), float(i)), "n": i, "name": str(i)}}

def numbers(batches):
    found = []
    for batch in batches:
        assert tm.layout(batch["x"]) == tm.Layout(mesh, axes)
        assert batch["x"].shape[1:] == (3,) and batch["n"].dtype == torch.int64
        found.append(batch["n"].tolist())
        assert batch["x"][:, 2].tolist() == found[-1]
    return found

mesh = tm.Mesh({mesh})
axes = {{"data": "S0"}}
def loader(dataset, *args, **options):
    return tm.DataLoader(dataset, *args, mesh=mesh, batch="data", **options)
"""


def check(program, devices, mesh=None):
    """What each process of the given numbers of devices prints last."""
    count = len(devices)
    mesh = mesh or {"data": sum(devices)}
    outputs = spawn.check(
        spawn.SAID + SETUP.format(mesh=mesh) + program,
        ids=range(count),
        start=spawn.JOIN.format(count=count) if count > 1 else "",
        preamble=spawn.PLAIN,
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": str(devices[i])},
        addresses=spawn.free_addresses(1),
    )
    return [json.loads(out.splitlines()[-1]) for out in outputs]


# Of the last batch of one row most processes have nothing.
PASSES = """
class Halves(torch_data.Sampler):
    def __init__(self):
        self.epoch = 0
    def set_epoch(self, epoch):
        self.epoch = epoch
    def __iter__(self):
        rows = list(range(21))
        return iter(rows[::-1] if self.epoch else rows[11:] + rows[:11])
    def __len__(self):
        return 21

class Lengths(torch_data.Sampler):
    def __iter__(self):
        yield [4, 3, 2, 1, 0]
        yield [20]
        yield [7, 8]

def stack(rows):
    names = ("x", "n")
    return {name: torch.utils.data.default_collate([row[name] for row in rows])
            for name in names}

found, dataset = [], Rows()
shuffled = loader(dataset, 10, shuffle=True, seed=3)
assert len(shuffled) == 3
for epoch in range(2):
    found.append(numbers(shuffled))
reads = list(dataset.read)
shuffled.set_epoch(0)
assert numbers(shuffled) == found[0] != found[1]
found.append(numbers(loader(dataset, 8, drop_last=True)))
found.append(numbers(loader(dataset, 10, shuffle=True, seed=3, num_workers=2)))
given = loader(dataset, 10, sampler=Halves(), collate_fn=stack)
found += [numbers(given), numbers(given)]
found.append(numbers(loader(dataset, batch_sampler=Lengths())))
print(json.dumps([found, reads]))
"""


@pytest.fixture(scope="module")
def one_process():
    return check(PASSES, (4,))[0]


@pytest.mark.parametrize("devices", [(2, 2), (2, 1, 1)], ids=str)
def test_batches_are_those_of_one_process(devices, one_process):
    outputs = check(PASSES, devices)
    whole = one_process[1]
    assert sorted(whole) == sorted([*range(21)] * 2)
    ends = [3 * sum(devices[: i + 1]) for i in range(len(devices))]
    for process, (found, reads) in enumerate(outputs):
        assert found == one_process[0]
        expected, start = [], 0
        for rows in (10, 10, 1) * 2:
            # A device has ceil(10 / 4) rows, the last one fewer.
            first = min(ends[process - 1] if process else 0, rows)
            batch = whole[start : start + rows]
            expected += batch[first : ends[process]]
            start += rows
        assert reads == expected, process


STOPS = """
import pathlib
source = loader(Rows(), 4, shuffle=True, seed=5, num_workers=1)
numbers(source)
found, file = [], pathlib.Path({file!r})
if file.exists():
    source.load_state_dict(json.loads(file.read_text()))
    source.set_epoch(1)
for i, batch in enumerate(source):
    found.append(batch["n"].tolist())
    if i == 2 and not file.exists():
        state = source.state_dict()
        break
else:
    state = source.state_dict()
if me == 0 and not file.exists():
    file.write_text(json.dumps(state))
print(json.dumps([found, state["epoch"], state["batch"]]))
"""


def test_a_pass_goes_on_in_another_number_of_processes(tmp_path):
    program = STOPS.format(file=str(tmp_path / "state.json"))
    begun = check(program, (2, 2))
    assert begun[0] == begun[1] and begun[0][1:] == [1, 3]
    ended = check(program, (2, 1, 1))
    assert ended[0] == ended[1] == ended[2] and ended[0][1:] == [2, 0]
    whole = check(
        """
source = loader(Rows(), 4, shuffle=True, seed=5)
source.set_epoch(1)
print(json.dumps(numbers(source)))
""",
        (4,),
    )[0]
    assert begun[0][0] + ended[0][0] == whole


def test_processes_with_the_same_rows_read_the_same():
    outputs = check(
        """
dataset = Rows(10)
found = numbers(loader(dataset, 5))
class Noisy(Rows):
    def __getitem__(self, i):
        return torch.rand(2)
noise = next(iter(loader(Noisy(8), 8)))
print(json.dumps([found, dataset.read, tm.full(noise).tolist()]))
""",
        (1, 1, 1, 1),
        {"data": 2, "model": 2},
    )
    assert all(out[0] == [[*range(5)], [*range(5, 10)]] for out in outputs)
    assert [out[1] for out in outputs] == [
        [0, 1, 2, 5, 6, 7],
        [0, 1, 2, 5, 6, 7],
        [3, 4, 8, 9],
        [3, 4, 8, 9],
    ]
    assert outputs[0][2] == outputs[1][2] == outputs[2][2] == outputs[3][2]


def test_what_does_not_fit_is_named():
    check(
        """
def padded(rows):
    longest = max(row["n"] for row in rows)
    return torch.zeros(len(rows), longest)

text = said(lambda: list(loader(Rows(), 8, collate_fn=padded)))
assert "[processes-differ]" in text and "float32[4, 3]" in text, text
assert "float32[4, 7]" in text and "process 1" in text, text
text = said(lambda: list(loader(Rows(20 + me), 8)))
assert "what       rows" in text and "process 1  21" in text, text
text = said(lambda: list(loader(Rows(), 8, seed=me, shuffle=True)))
assert "what       seed" in text, text
sampler = torch_data.DistributedSampler(Rows(), 2, me)
text = said(lambda: list(loader(Rows(), 4, sampler=sampler)))
assert "read different batches" in text and "batch" in text, text

class Some:
    def __iter__(self):
        yield from [[0, 1]] * (2 + me)
text = said(lambda: list(loader(Rows(), batch_sampler=Some())))
assert "process 0  ended" in text and "process 1  goes on" in text, text
def scaled(rows):
    return torch.zeros(len(rows), 1), torch.tensor(1.0 + me)
text = said(lambda: list(loader(Rows(), 8, collate_fn=scaled)))
assert "batch[1]" in text and "(no rows)" in text, text
class OnMesh(Rows):
    def __getitem__(self, i):
        return self.rows[i]
on_mesh = OnMesh()
on_mesh.rows = tm.distribute(torch.ones(20, 2), tm.Mesh({"data": 2}), ("S0",))
text = said(lambda: list(loader(on_mesh, 8)))
assert "[mesh-rows]" in text and "plain tensors" in text, text
class Shared(Rows):
    def __getitem__(self, i):
        return torch.full((2,), float(me))
shared = tm.Mesh({"data": 1, "model": 2})
text = said(lambda: list(tm.DataLoader(Shared(), 8, mesh=shared, batch="data")))
assert "have the same rows" in text and "checksum" in text, text
print(json.dumps(numbers(loader(Rows(3), 8))))
""",
        (1, 1),
    )


ORDER = """
rows = torch_data.TensorDataset(torch.randn(3, 3, 4, 4))
def last(rows):
    return torch.stack([r for r, in rows]).to(memory_format=torch.channels_last)
batches = list(loader(rows, 2, collate_fn=last))
strides = [batch.stride() for batch in batches]
assert all(s == (48, 16, 4, 1) for s in strides), strides
drawn = torch.nn.functional.dropout(batches[-1])
print(json.dumps(tm.full(drawn).view(1, -1).sum().item()))
"""


def test_a_batch_of_one_process_alone_lies_in_memory_as_everywhere():
    outputs = check(ORDER, (1, 1))
    assert outputs[0] == outputs[1]
