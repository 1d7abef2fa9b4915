"""An optimizer that is cut over processes: the numbers of one that is not."""

import spawn

ONE_DEVICE = {"TORCH_MESH_CPU_DEVICES": "1", "TORCH_MESH_TIMEOUT": "60"}
TWO_DEVICES = {"TORCH_MESH_CPU_DEVICES": "2", "TORCH_MESH_TIMEOUT": "60"}

TORCH = """
import copy

def net():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(12, 32), torch.nn.Tanh(), torch.nn.Linear(32, 7))

def train(model, optimizer, cut=lambda x: x, steps=3):
    for step in range(steps):
        torch.manual_seed(step)
        x, y = cut(torch.randn(16, 12)), cut(torch.randn(16, 7))
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        with tm.counting() as counts:
            optimizer.step()
    return counts, [tm.full(p.detach()) for p in model.parameters()]

def cut(x):
    return tm.distribute(x, mesh, ("S0", *["R"] * (len(mesh.shape) - 1)))

mesh = tm.Mesh(AXES)
makes = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=False),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}
for name, make in makes.items():
    plain = net()
    _, expected = train(plain, make(plain.parameters()))
    whole = tm.parallelize(net(), mesh, LAYOUTS)
    _, values = train(whole, make(whole.parameters()), cut)
    model = tm.parallelize(net(), mesh, LAYOUTS)
    optimizer = tm.shard_optimizer(make(model.parameters()))
    counts, found = train(model, optimizer, cut)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-6)
    assert counts.plans_made == 0, counts.plans_made
    assert counts["all_gather@data"] == 1, counts.collectives
    saved = copy.deepcopy(optimizer.state_dict())
    state = saved["state"]
    theirs = tm.memory([s["exp_avg" if "exp_avg" in s else "momentum_buffer"]
                        for s in state.values()]).parameters
    ours = tm.memory(whole).parameters
    assert all(theirs[d] <= ours[d] * 0.6 for d in ours), (theirs, ours)
    again = make(whole.parameters())
    again.load_state_dict(saved)
    whole.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        train(whole, again, cut)[1], train(model, optimizer, cut)[1],
        rtol=1e-5, atol=1e-6)

class Breaks(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        raise ArithmeticError("halfway")

model = tm.parallelize(net(), mesh, LAYOUTS)
before = [tm.full(p.detach()) for p in model.parameters()]
try:
    train(model, tm.shard_optimizer(Breaks(model.parameters(), lr=0.1)), cut)
    raise SystemExit("no error")
except ArithmeticError:
    pass
for was, p in zip(before, model.parameters(), strict=True):
    is_cut = p.dim() == 2 or tm.layout(p).placements[-1] == "R"
    assert torch.equal(was, tm.full(p.detach())) == is_cut
"""


def test_a_torch_optimizer_over_two_processes():
    text = TORCH.replace("AXES", '{"data": 2}').replace("LAYOUTS", "{}")
    spawn.check(
        text,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda i: ONE_DEVICE,
    )


def test_a_torch_optimizer_over_two_processes_of_two_devices():
    text = TORCH.replace("AXES", '{"data": 2, "model": 2}').replace(
        "LAYOUTS", '{"0": "colwise", "2": "rowwise"}'
    )
    spawn.check(
        text,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda i: TWO_DEVICES,
    )


def test_a_keras_optimizer_over_two_processes(tmp_path):
    spawn.check(
        """
import os, pathlib
path = pathlib.Path(os.environ["FOLDER"]) / "model.keras"
x = np.random.default_rng(0).normal(size=(22, 6)).astype("float32")
y = (x @ np.ones((6, 1), "float32")) ** 2

def build():
    keras.utils.set_random_seed(7)
    model = keras.Sequential([
        keras.Input((6,)),
        keras.layers.Dense(8, activation="tanh"),
        keras.layers.Dense(1),
    ])
    model.compile(keras.optimizers.Adam(0.05, global_clipnorm=0.5), "mse")
    return model

def fit(model):
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()

def close(a, b):
    for ours, theirs in zip(a, b, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

expected = build()
first, second = fit(expected), fit(expected)
with keras.distribution.DataParallel(shard_optimizer=True).scope():
    model = build()
    close(fit(model), first)
    slots = [v for v in model.optimizer.variables if v.shape == (6, 8)]
    assert len(slots) == 2
    assert {str(tm.layout(v.value)) for v in slots} == {"(S0)"}
    model.save(path)
    close(fit(keras.saving.load_model(path)), second)
alone = keras.saving.load_model(path)
close(fit(alone), second)
""",
        environment=lambda i: {"FOLDER": str(tmp_path), **ONE_DEVICE},
    )
