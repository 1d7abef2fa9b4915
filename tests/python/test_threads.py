"""Threads: independent programs, shared tensors, pending sums, process exit."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from placing import assert_close, assert_equal, mesh_of, place
from torch import nn

import torch_mesh as tm
from torch_mesh import _C

NUM_THREADS = 8


def on_threads(body, num_threads=NUM_THREADS):
    """Runs `body(number)` on threads that begin together; their results."""
    results = [None] * num_threads
    errors = []
    begin = threading.Barrier(num_threads)

    def run(number):
        try:
            begin.wait()
            results[number] = body(number)
        except BaseException as error:
            errors.append(error)
            begin.abort()

    threads = [
        threading.Thread(target=run, args=(n,)) for n in range(num_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


# --- independent programs -----------------------------------------------------

LAYOUTS = [("S0", "R"), ("R", "S1"), ("S0", "S1"), ("R", "R")]


class Words(nn.Module):
    """Embedding, two dense layers, dropout of the program's own generator."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 48)
        self.inner, self.outer = nn.Linear(48, 64), nn.Linear(64, 10)

    def forward(self, tokens, generator):
        x = self.inner(self.table(tokens[:, 0])).relu()
        keep = torch.empty_like(x).bernoulli_(0.8, generator=generator)
        return self.outer(x * keep / 0.8)


class Pictures(nn.Module):
    """Convolution and batch norm, whose running statistics are state too."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3)
        self.norm, self.dense = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, tokens, generator):
        x = tokens.float().view(-1, 1, 6, 6) / 30
        return self.dense(self.norm(self.convolution(x)).relu().mean((2, 3)))


class Sentences(nn.Module):
    """Attention among words, and layer norm."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(30, 16), nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in "qkv")
        self.outer = nn.Linear(16, 10)

    def forward(self, tokens, generator):
        x = self.norm(self.table(tokens))
        x = nn.functional.scaled_dot_product_attention(
            self.query(x), self.key(x), self.value(x)
        )
        return self.outer(x.mean(1))


MODELS = [Words, Pictures, Sentences]
OPTIMIZERS = [
    lambda p: torch.optim.Adam(p, lr=0.01),
    lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
]


def place_module(net, mesh, number, generator):
    """Gives a module weights of this generator, on this mesh."""
    for parameter in net.parameters():
        value = torch.randn(parameter.shape, generator=generator) / 8
        placements = LAYOUTS[number % len(LAYOUTS)]
        if value.dim() < 2:
            placements = ("R", "S0" if number % 2 else "R")
        parameter.data = tm.distribute(value, mesh, placements)
    for buffer in net.buffers():
        buffer.data = tm.distribute(buffer, mesh)


def train(mesh, number, num_steps=5):
    """Weights, buffers and losses of a small program, as plain tensors."""
    generator = torch.Generator("mesh").manual_seed(100 + number)
    plain = torch.Generator().manual_seed(number)
    net = MODELS[number % len(MODELS)]()
    place_module(net, mesh, number, plain)
    optimizer = OPTIMIZERS[number % len(OPTIMIZERS)](net.parameters())
    losses = []
    for _ in range(num_steps):
        tokens = torch.randint(0, 30, (24, 36), generator=plain)
        target = torch.randint(0, 10, (24,), generator=plain)
        tokens, target = (
            tm.distribute(t, mesh, ("S0", "R")) for t in (tokens, target)
        )
        loss = nn.functional.cross_entropy(net(tokens, generator), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(tm.full(loss.detach()))
    return [tm.full(value) for value in net.state_dict().values()] + losses


def check_programs(mesh, seconds):
    """Each thread repeats its program; returns how many were run."""
    expected = [train(mesh, number) for number in range(NUM_THREADS)]
    end = time.monotonic() + seconds

    def repeat(number):
        count = 0
        while count < 2 or time.monotonic() < end:
            for a, e in zip(train(mesh, number), expected[number], strict=True):
                assert torch.equal(a, e), f"thread {number}, run {count}"
            count += 1
        return count

    return sum(on_threads(repeat))


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
def test_programs_on_threads_give_the_bits_of_one_thread(separate):
    """For two runs each; `make stress` repeats them for a minute."""
    _C.separate_cpu_memories(separate)
    seconds = float(os.environ.get("TORCH_MESH_STRESS_SECONDS", 0))
    count = check_programs(mesh_of("2x2"), seconds)
    assert count >= 2 * NUM_THREADS
    print(f"\n{count} programs on {NUM_THREADS} threads", file=sys.stderr)


def test_programs_on_threads_may_have_meshes_of_their_own():
    meshes = [tm.Mesh({f"d{n}": 2, f"m{n}": 2}) for n in range(NUM_THREADS)]
    expected = [train(meshes[n], n, num_steps=2) for n in range(NUM_THREADS)]
    actual = on_threads(lambda n: train(meshes[n], n, num_steps=2))
    for a, e in zip(actual, expected, strict=True):
        for one, other in zip(a, e, strict=True):
            assert torch.equal(one, other)


# --- tensors that are shared --------------------------------------------------

READERS = {
    "pointwise": lambda x: x * 2 + 1,
    "rows": lambda x: x[1:].sum(0),
    "columns": lambda x: x[:, ::2].clone(),
    "t": lambda x: x.t() @ x,
    "view": lambda x: x.view(-1).softmax(0),
    "full": lambda x: tm.full(x),
    "redistribute": lambda x: (
        tm.redistribute(x, ("R", "S1")) if tm.is_global(x) else x.clone()
    ),
    "item": lambda x: x.sum().cpu(),
}


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@pytest.mark.parametrize(
    "placements",
    [("S0", "R"), ("R", "S1"), ("S0", "P+"), ("P+", "P+")],
    ids=str,
)
def test_a_tensor_may_be_read_by_all(placements, separate):
    """Pending sums, too: the first reader forms them for the others."""
    _C.separate_cpu_memories(separate)
    mesh = mesh_of("2x2")
    # Integers: sums are exact in every order.
    value = torch.randint(-4, 5, (6, 8)).float()
    expected = [
        torch.as_tensor(read(value)) if name != "full" else value
        for name, read in READERS.items()
    ]
    for _ in range(30):
        _C.clear_plans()  # plans are made while others form the sum
        x = place(value, mesh, placements)
        view = x[1:, 2:]
        shared = (x, view, x.t(), x.detach())

        def read(number, shared=shared):
            x, view, turned, detached = shared
            results = []
            names = list(READERS)
            for step in range(len(names)):
                name = names[(number + step) % len(names)]
                results.append((name, READERS[name](x)))
            assert_equal(view, value[1:, 2:])
            assert_equal(turned, value.t())
            assert_equal(detached, value)
            return results

        for results in on_threads(read, num_threads=len(READERS)):
            for name, result in results:
                torch.testing.assert_close(
                    tm.full(result), expected[list(READERS).index(name)]
                )


@pytest.fixture
def often_switched():
    """Threads are taken off the interpreter every 10 us."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


VIEWS = {
    "columns": lambda x: x[:, ::2],
    "turned": lambda x: x.t()[1:],
    "flat": lambda x: x.view(-1),
    "rows": lambda x: x[2:5],
}


@pytest.mark.parametrize("placements", [("S0", "P+"), ("P+", "S0")], ids=str)
def test_a_view_is_made_while_its_base_gets_another_shape(
    placements, often_switched
):
    """A sum that is formed of `x.view(-1)` makes that the base of the storage.

    Views of `x` that were begun before it are views of older shards.
    """
    _C.separate_cpu_memories(True)
    mesh = mesh_of("2x2")
    value = torch.randint(-4, 5, (6, 8)).float()
    views = list(VIEWS.values())
    for _ in range(700):
        x = place(value, mesh, placements)

        def work(number, x=x):
            if number % 2:
                return x.view(-1).softmax(0)
            return views[number // 2](x)

        results = on_threads(work)
        for number in range(0, NUM_THREADS, 2):
            assert_equal(results[number], views[number // 2](value))
            assert_close(results[number + 1], value.view(-1).softmax(0))


@pytest.mark.parametrize("placements", [("S0", "P+"), ("P+", "S1")], ids=str)
def test_a_window_is_copied_while_its_base_gets_another_shape(
    placements, often_switched
):
    """What no local view expresses is taken of one base, not of two."""
    _C.separate_cpu_memories(True)
    mesh = mesh_of("2x2")
    value = torch.randint(-4, 5, (6, 8)).float()

    def window_of(x):
        return x.as_strided((5, 7), (7, 1), 1)

    for _ in range(700):
        x = place(value, mesh, placements)
        window = window_of(x)

        def work(number, x=x, window=window):
            if number % 2:
                return x.view(-1).softmax(0)
            return (window if number < 4 else window_of(x)) + 1

        results = on_threads(work)
        for number in range(0, NUM_THREADS, 2):
            assert_equal(results[number], window_of(value) + 1)
            assert_close(results[number + 1], value.view(-1).softmax(0))


@pytest.mark.parametrize("separate", [False, True], ids=["one", "separate"])
@pytest.mark.parametrize("name", ["relu", "add", "double", "dot", "mixed"])
def test_a_pending_sum_is_formed_once_whoever_comes_first(name, separate):
    """Ops that form the sum race with ops that carry it on."""
    _C.separate_cpu_memories(separate)
    ops = {
        "relu": [torch.relu],
        "add": [lambda x: x + 1],
        "double": [lambda x: x * 2, lambda x: x + x],
        "dot": [lambda x: x.t() @ torch.ones(6, 2)],
        "mixed": [torch.relu, lambda x: x * 2, lambda x: x.sum(), tm.full],
    }[name]
    value = torch.randint(-4, 5, (6, 8)).float()
    expected = [op(value) for op in ops]
    for _ in range(60):
        _C.clear_plans()
        x = place(value, mesh_of("2x2"), ("P+", "S0"))
        results = on_threads(lambda n, x=x: ops[n % len(ops)](x))
        for number, result in enumerate(results):
            assert_equal(result, expected[number % len(ops)])
        assert_equal(x, value)


def test_of_threads_that_want_one_sum_one_forms_it():
    """Others wait for it; it is counted once, and so are its bytes."""
    _C.separate_cpu_memories(True)
    mesh = mesh_of("2x2")
    value = torch.arange(48.0).view(6, 8)
    for _ in range(300):
        a, b, c, d = (place(value, mesh, ("P+", "P+")) for _ in range(4))
        lists = [[a, b, c], [c, b, d], [d, a], [c]]
        with tm.counting() as counts:
            on_threads(lambda n: tm.reduce_partials(lists[n]), num_threads=4)  # noqa: B023
        moved = sum(counts.moved.values())
        # Each of four sums once: 24, 24 and 24 elements for each device.
        assert moved == 4 * 4 * 72 * 4
        assert counts.moved == counts.received
        for x in (a, b, c, d):
            assert tm.layout(x).placements == ("R", "R")
            assert_equal(x, value)


def test_a_view_that_was_left_behind_is_taken_again_once():
    """Readers of one window, after its base was written."""
    mesh = mesh_of("2x2")
    for round_number in range(40):
        x = tm.distribute(torch.zeros(6, 8), mesh, ("S0", "S1"))
        view = x.view(-1)[3:41:2]  # no local view of a shard
        x.fill_(float(round_number))
        results = on_threads(lambda n, view=view: tm.full(view + n))
        for number, result in enumerate(results):
            assert_equal(
                result, torch.full((19,), float(round_number + number))
            )


def test_gradients_of_shared_weights_add_up():
    """Several threads go backward through one leaf, as torch allows."""
    mesh = mesh_of("2x2")
    w = tm.distribute(torch.ones(8, 4), mesh, ("S0", "R")).requires_grad_()
    x = tm.distribute(torch.ones(3, 8), mesh, ("R", "S1"))

    def backward(number):
        for _ in range(10):
            ((x * (number + 1)) @ w).sum().backward()

    on_threads(backward)
    assert_equal(w.grad, torch.full((8, 4), 3.0 * 10 * sum(range(1, 9))))


# --- the end of the process ---------------------------------------------------

# Daemon threads that are inside torch when the interpreter ends are no matter
# of the mesh: with plain tensors too, CPython 3.11 unwinds them through C++ and
# the process aborts.
EXITS = {
    "a_thread_that_ended": """
def work():
    w = tm.distribute(torch.randn(512, 512), mesh, ("S0", "R"))
    w.requires_grad_()
    (w @ w).sum().backward()
thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
    "an_exception": """
w = tm.distribute(torch.randn(8, 8), mesh, ("S0", "R")).requires_grad_()
(w @ w).sum().backward()
try:
    torch.linalg.cholesky(-w.detach())
except RuntimeError:
    pass
""",
    "a_forked_child": """
import os
w = tm.distribute(torch.randn(512, 64), mesh, ("S0", "R")).requires_grad_()
(w * w).sum().backward()
child = os.fork()
if child == 0:
    y = (w.detach() * 2).sum().item()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    "tensors_that_outlive_main": """
import builtins
builtins.kept = tm.distribute(torch.randn(64, 64), mesh, ("S0", "P+"))
builtins.kept.requires_grad_()
builtins.graph = (builtins.kept @ builtins.kept).sum()
sys.modules["kept_here"] = builtins.graph
""",
}


@pytest.mark.parametrize("name", EXITS)
def test_the_process_ends_well_with(name):
    program = (
        "import sys, threading, time\nimport torch, torch_mesh as tm\n"
        'mesh = tm.Mesh({"data": 2, "model": 2})\n' + EXITS[name]
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "memories, axes",
    [([0, 1], {"data": 2}), ([0, 1, 2, 3], {"data": 4})],
    ids=str,
)
@pytest.mark.parametrize(
    "other", [lambda half: half.add_(1), lambda half: tm.full(half)]
)
def test_views_of_a_pending_sum_are_written_beside_others(
    memories, axes, other
):
    _C.set_memories_for_testing(memories)
    mesh = tm.Mesh(axes)
    _C.set_memories_for_testing([])
    a, b = torch.arange(96.0).reshape(12, 8) % 5, torch.ones(8, 6)
    right = (a @ b)[:6] * 2
    for _ in range(300):
        x = tm.distribute(a, mesh, ("S1",)) @ tm.distribute(b, mesh, ("S0",))
        upper, lower = x[:6], x[6:]
        assert tm.layout(upper).placements == ("P+",)

        def work(number, upper=upper, lower=lower):
            upper.mul_(2) if number == 0 else other(lower)

        on_threads(work, num_threads=2)
        assert torch.equal(tm.full(upper), right)
