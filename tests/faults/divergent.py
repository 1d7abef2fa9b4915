"""Programs of which two processes run different ones, each in a way of its own.

None may see a number, and each must end with an error that says so.
"""

import pathlib
import re
import tempfile

from tests.faults import failures

PREAMBLE = """
me = tm.process_id()
mesh = tm.Mesh({"data": 2})
x = torch.arange(8.0) + 1
s, r = (tm.distribute(x, mesh, (p,)) for p in ("S0", "R"))
w = torch.nn.Parameter(tm.distribute(torch.ones(4, 2), mesh, ("R",)))
rows = tm.distribute(torch.arange(32.0).reshape(8, 4), mesh, ("S0",))

def steps(count, lr=0.1):
    for _ in range(count):
        loss = (rows @ w).pow(2).mean()
        loss.backward()
        with torch.no_grad():
            w.sub_(lr * w.grad)
        w.grad = None
    return w.detach().sum().item()

def model(units=4, seed=1, act="tanh", optimizer="sgd"):
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((3,)), keras.layers.Dense(units, activation=act),
              keras.layers.Dense(1)]
    made = keras.Sequential(layers)
    made.compile(optimizer, "mse")
    return made

def fit(made, rows=16, **options):
    options = {"batch_size": 8, "verbose": 0, "shuffle": False, **options}
    data = np.ones((rows, 3), "float32")
    made.fit(data, data[:, :1], **options)
    return float(made.evaluate(data[:8], data[:8, :1], verbose=0))
"""

# Sizes, dtypes, ops and their order, roots, counts of steps, seeds, sets.
PROGRAMS = (
    "(s[: 6 + 2 * me] * 1).sum().item()",
    "tm.distribute(torch.ones(8 + 2 * me), mesh, ('S0',)).sum().item()",
    "tm.distribute(torch.ones(2 + me, 8), mesh, ('S1',)).sum().item()",
    "torch.cat([s] * (1 + me)).sum().item()",
    "s.reshape((2, 4) if me else (4, 2)).sum(0).amax().item()",
    "(s.double() if me else s).sum().item()",
    "(s.half() if me else s.bfloat16()).sum().item()",
    "(s.int() if me else s).sum().item()",
    "(s > 3).sum(dtype=torch.int32 if me else torch.int64).item()",
    "(s.sum() if me else s.amax()).item()",
    "(s.exp() if me else s.log()).sum().item()",
    "((s + 1).exp() if me else s.exp() + 1).sum().item()",
    "(s.sum() * s.amax() if me else s.amax() * s.sum()).item()",
    "(s.cumsum(0) if me else s.flip(0)).sum().item()",
    "(s + r if me else r + s).sum().item()",
    "torch.add(s, r, alpha=1 + me).sum().item()",
    "s.clone().fill_(1.0 + me).sum().item()",
    "s.clamp(max=3.0 + me).sum().item()",
    "s.pow(2 + me).sum().item()",
    "s.roll(1 + me).amax().item()",
    "tm.full(s)[me].item() if me else s.sum().item()",
    "(tm.redistribute(r, ('S0',)) if me else r).exp().sum().item()",
    "(tm.redistribute(s, ('R',)) if me else s).exp().sum().item()",
    "tm.keras.broadcast(torch.ones(2), src=me).sum().item()",
    "tm.keras.all_reduce(torch.ones(2 + me)).sum().item()",
    "tm.keras.all_reduce(torch.ones(2), op=['sum', 'max'][me]).sum().item()",
    "tm.keras.gather_tensor(torch.ones(2, 2 + me), 0).sum().item()",
    "steps(3 + me)",
    "steps(3, lr=0.1 + 0.1 * me)",
    "steps(3) if me else steps(2) + s.sum().item()",
    "sum((s * k).sum().item() for k in sorted({2, 3}, reverse=bool(me)))",
    "[getattr(s, n)().item() for n in ('sum amax' if me else 'amax sum')"
    ".split()]",
    "torch.nn.functional.dropout(s, 0.4 + 0.2 * me).sum().item()",
    "(torch.manual_seed(me), torch.rand_like(s).sum().item())",
    "fit(model(units=4 + me))",
    "fit(model(act='tanh' if me else 'relu'))",
    "fit(model(optimizer='sgd' if me else 'adam'))",
    "fit(model(), rows=16 + 8 * me)",
    "fit(model(), epochs=1 + me)",
    "fit(model(), batch_size=4 + 4 * me)",
)

# A process that does less has left, or is waited for.
CODES = {
    "processes-differ",
    "peer-left",
    "peer-late",
}


def run(server, seed):
    """Runs a program: its kind, what is wrong, and no time."""
    expression = PROGRAMS[seed % len(PROGRAMS)]
    text = f"{PREAMBLE}\nprint('number', {expression}, flush=True)\n"
    with tempfile.TemporaryDirectory() as folder:
        tasks = failures.tasks_of(folder, 2, program=text)
        ends = server.run(tasks, victim=None)
        logs = [
            pathlib.Path(t["log"]).read_text("utf-8", "replace") for t in tasks
        ]
    return "divergent", fault(expression, ends, logs), None


def fault(expression, ends, logs):
    """What is wrong with the end of a job, "" if nothing is."""
    for i, (end, log) in enumerate(zip(ends, logs, strict=True)):
        said = failures.headline(log).rstrip()
        code = re.search(r"\[([a-z-]+)\]$", said)
        if end == 1 and code and code[1] in CODES and "\nnumber" not in log:
            continue
        # Who does less may be done before the others find it.
        does_less = end == 0 and ends[1 - i] == 1
        if does_less and "[peer-left]" in failures.headline(logs[1 - i]):
            continue
        return f"{expression}: process {i} ended with {end}\n{log[-1500:]}"
    return ""
