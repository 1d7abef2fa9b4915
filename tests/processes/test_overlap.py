"""Sums of gradients that are begun while backward goes on."""

import json

import pytest
from tests.processes import spawn

# Part of a program: counts in `begun` the gradients of each bucket.
COUNTED = """
from torch_mesh import _C, overlap
begun = []
begin = _C.begin_reductions_of
def count_and_begin(parameters):
    begun.append(len(parameters))
    begin(parameters)
_C.begin_reductions_of = count_and_begin
"""

PROGRAM = """
import json
from torch import nn
overlap.BUCKET_BYTES = {bucket}
torch.manual_seed(3)
torch.set_num_threads(1)
mesh = tm.Mesh({{"data": 2, "model": 2}}, tm.list_devices("cpu"))
with tm.use(mesh, batch="data"):
    model = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8),
    )
    tm.parallelize(model, mesh, {{
        "2.weight": ("R", "S0"), "4.weight": ("S0", "R"),
    }})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses, begun_by_step = [], []
    for step in range(6):
        with tm.counting() as counts:
            for part in range({passes}):
                x = torch.randn(12, 16).to("mesh")
                y = torch.randint(0, 8, (12,)).to("mesh")
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        losses.append([loss.item().hex(), norm.item().hex()])
        begun_by_step.append(len(begun))
        begun.clear()
    weights = [
        tm.full(p).detach().numpy().tobytes().hex() for p in model.parameters()
    ]
moved = sorted(counts.moved.items())
print(json.dumps([losses, weights, begun_by_step, moved, counts.collectives]))
"""


def run(bucket, passes=1, transport=""):
    outputs = spawn.check(
        COUNTED + PROGRAM.format(bucket=bucket, passes=passes),
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {
            "TORCH_MESH_CPU_DEVICES": "2",
            "TORCH_MESH_TRANSPORT": transport,
        },
    )
    return [json.loads(output) for output in outputs]


@pytest.fixture(scope="module")
def whole():
    """With no sum begun early."""
    return run(1 << 40)


@pytest.mark.parametrize("transport", ["", "c10d"])
def test_sums_begun_early_are_the_same_to_the_bit(whole, transport):
    found = run(9000, transport=transport)
    for (losses, weights, begun, moved, _), expected in zip(
        found, whole, strict=True
    ):
        assert losses == expected[0]
        assert weights == expected[1]
        # The first step shows the parameters, the second one backward each.
        assert begun[:2] == [0, 0]
        assert all(count >= 2 for count in begun[2:]), begun
        assert moved == expected[3]
        assert sum(expected[2]) == 0


def test_gradients_that_add_up_are_summed_once():
    for losses, weights, begun, _, collectives in run(9000, passes=2):
        assert sum(begun) == 0, begun
        assert len(losses) == 6 and weights
        assert collectives["all_reduce@data"] > 0


TIMED = """
import random, time
from torch import nn
from torch_mesh import overlap
overlap.BUCKET_BYTES = 1
torch.set_num_threads(1)
torch.manual_seed(3)
chance = random.Random(me)  # others sleep at other times
mesh = tm.Mesh({"data": 2}, tm.list_devices("cpu"))
with tm.use(mesh, batch="data"):
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6))).to("mesh")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for step in range(60):
        loss = model(torch.ones(4, 64).to("mesh")).square().mean()
        loss.backward()
        time.sleep(chance.choice([0, 0, 0.001, 0.01]))
        gradients = [p.grad for p in model.parameters()]
        how = step % 6
        if how == 0:  # linear in a sum that is pending, or there
            for g in gradients:
                g.mul_(0.5)
        elif how == 1:
            gradients[-1].copy_(gradients[-1] * 2)
        elif how == 2:
            print([str(tm.layout(g)) for g in gradients[:3]])
        elif how == 3:
            gradients[0][0].zero_()
        elif how == 4:
            torch._foreach_mul_(gradients, 0.25)
        else:
            doubled = [g + g for g in gradients]
            print(sum(float(d.sum()) for d in doubled))
        optimizer.step()
        optimizer.zero_grad()
    print(float(loss))
"""


@pytest.mark.parametrize("transport", ["", "c10d"])
def test_when_a_sum_is_there_decides_nothing(transport):
    first, second = spawn.check(
        TIMED,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {
            "TORCH_MESH_CPU_DEVICES": "1",
            "TORCH_MESH_TRANSPORT": transport,
        },
    )
    assert first == second


LOST = """
import os, time
from torch import nn
from torch_mesh import overlap
overlap.BUCKET_BYTES = 1
mesh = tm.Mesh({"data": 2}, tm.list_devices("cpu"))
with tm.use(mesh, batch="data"):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).to("mesh")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(4):
        loss = model(torch.ones(4, 4).to("mesh")).sum()
        if step == 3 and me == 1:
            os._exit(1)
        begin = time.monotonic()
        try:
            loss.backward()
            optimizer.step()
            float(model[0].weight.sum())
        except RuntimeError as error:
            assert step == 3 and "[peer-" in str(error), error
            assert "process 1" in str(error), error
            assert time.monotonic() - begin < 8
            print("told")
        optimizer.zero_grad()
"""


def test_who_waits_for_a_sum_is_told_of_a_lost_process():
    first, second = spawn.run(
        LOST,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
    assert first[1] == "told\n", first
    assert second[0] == 1


FIT = """
import json
overlap.BUCKET_BYTES = int(BUCKET)
keras.utils.set_random_seed(0)
keras.distribution.set_distribution(keras.distribution.DataParallel())
model = keras.Sequential(
    [keras.Input((8,))] + [keras.layers.Dense(16, "relu") for _ in range(3)]
)
model.compile(keras.optimizers.Adam(1e-2, global_clipnorm=0.5), "mse")
random = np.random.default_rng(0)
x = random.normal(size=(40, 8)).astype("float32")
history = model.fit(x, x[:, :1] + np.zeros((40, 16)), batch_size=8, verbose=0)
weights = [w.tobytes().hex() for w in model.get_weights()]
print(json.dumps([history.history["loss"], weights, len(begun)]))
"""


def test_fit_begins_sums_early():
    def fit(bucket, **more):
        return [
            json.loads(output)
            for output in spawn.check(
                COUNTED + f"BUCKET = {bucket}\n" + FIT,
                environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1", **more},
            )
        ]

    whole, early = fit(1e12), fit(2000)
    for late, soon in zip(whole, early, strict=True):
        assert soon[:2] == late[:2]
        assert soon[2] >= 3
        assert late[2] == 0
    # With each op compared, too.
    assert fit(2000, TORCH_MESH_CHECK="1")[0] == early[0]
