"""Large sums over torch.distributed, which gloo's own all-reduce forms."""

import re

import pytest
import spawn

C10D = {"TORCH_MESH_TRANSPORT": "c10d", "TORCH_MESH_CPU_DEVICES": "1"}

START = """
tm.initialize(addresses.split(",")[0], {num}, me, timeout=60)
"""


def check(program, num):
    return spawn.check(
        program,
        ids=range(num),
        preamble=spawn.PLAIN,
        start=START.format(num=num),
        environment=lambda i: C10D,
    )


SUMS = """
mesh = tm.Mesh({{"data": {num}}})


def parts_of(numel, dtype):
    g = torch.Generator().manual_seed(numel)
    parts = []
    for _ in range({num}):
        if dtype.is_floating_point or dtype.is_complex:
            parts.append(torch.randn(numel, generator=g).to(dtype))
        else:
            kind = torch.iinfo(dtype)
            parts.append(
                torch.randint(
                    kind.min // 2, kind.max // 2, (numel,), generator=g
                ).to(dtype)
            )
    return parts


def assert_counted(counts):
    ((own, moved),) = counts.moved.items()
    assert moved == counts.received[own] > 0


def pending(parts):
    own = [p if i == me else None for i, p in enumerate(parts)]
    return tm.from_shards(own, mesh, ("P+",))
"""


@pytest.mark.parametrize("num", [2, 3])
def test_sums_are_those_of_pieces(num):
    outs = check(
        SUMS.format(num=num)
        + """
import hashlib
num = mesh.size
print("says", end=" ")
for dtype in (torch.float32, torch.float64, torch.int32, torch.int64,
              torch.int16, torch.bfloat16, torch.complex64):
    # Some are small, some large, none the same in all pieces.
    for numel in (5, 16_383, 16_385, 300_001):
        parts = parts_of(numel, dtype)
        before = [p.clone() for p in parts]
        x = pending(parts)
        with tm.counting() as counts:
            x = tm.redistribute(x, ("R",))
        value = tm.local_value(x)
        right = sum(parts[1:], parts[0].clone())
        if num == 2 or not dtype.is_floating_point and not dtype.is_complex:
            assert torch.equal(value, right), (dtype, numel)
        else:
            wide = sum(p.to(torch.complex128 if dtype.is_complex
                            else torch.float64) for p in parts)
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(
                value.to(wide.dtype), wide, rtol=2 * eps, atol=8 * eps
            )
        # What was handed in is not written.
        assert torch.equal(parts[me], before[me])
        assert_counted(counts)
        assert counts.calls == counts.collectives == {"all_reduce@data": 1}
        print(hashlib.sha256(bytes(value.view(torch.uint8).numpy())).hexdigest())
# Many values are one sum.
values = [torch.full((9, 5000), float(me + k)) for k in range(6)]
xs = [tm.from_shards([v if i == me else None for i in range(num)], mesh,
                     ("P+",)) for k, v in enumerate(values)]
with tm.counting() as counts:
    tm.reduce_partials(xs)
assert counts.calls == {"all_reduce@data": 1}
assert_counted(counts)
for k, x in enumerate(xs):
    assert torch.equal(
        tm.local_value(x),
        torch.full((9, 5000), float(sum(range(num)) + num * k)),
    )
""",
        num,
    )
    assert len(set(outs)) == 1  # the same bits in all processes
    assert outs[0].count("\n") == 28


def test_sums_of_other_sizes_never_meet():
    outs = check(
        SUMS.format(num=2)
        + """
x = tm.distribute(torch.ones(300, 400 + me), mesh, ("S0",))
x = x.t() @ x
assert tm.layout(x).placements == ("P+",)
try:
    tm.redistribute(x, ("R",))
except RuntimeError as error:
    print(error)
""",
        2,
    )
    for out in outs:
        assert "[processes-differ]" in out
        assert "sum along data of float32[160000]" in out
        assert "sum along data of float32[160801]" in out


LOOP = (
    SUMS
    + """
import os, signal, threading, time
import torch.distributed as dist
pids = [None] * {num}
dist.all_gather_object(pids, os.getpid())
parts = parts_of(6_000_000, torch.float32)


def loop():
    for _ in range(2000):
        tm.redistribute(pending(parts), ("R",))


loop_begins = time.time()
if me == {victim}:
    threading.Timer(1.0, lambda: os.kill(os.getpid(), {signal})).start()
try:
    loop()
except Exception as error:
    print(f"after {{time.time() - loop_begins - 1:.2f}} s: {{error}}",
          flush=True)
if me == {killer}:
    os.kill(pids[{victim}], signal.SIGKILL)
"""
)


# One who hears of the lost process, and ends, closes connections on which
# another waits: that one is then told of the first, or of nobody by name.
OF_ANOTHER = pytest.mark.xfail(
    reason="told of a process that has ended after it heard of the lost one",
    strict=False,
)


@pytest.mark.parametrize(
    ("how", "num"),
    [
        ("SIGKILL", 2),
        pytest.param("SIGKILL", 3, marks=OF_ANOTHER),
        ("SIGSTOP", 2),
        pytest.param("SIGSTOP", 3, marks=OF_ANOTHER),
    ],
)
def test_who_waits_in_a_sum_hears_of_a_lost_process(num, how):
    victim = num - 1
    results = spawn.run(
        LOOP.format(
            num=num,
            victim=victim,
            killer=0 if how == "SIGSTOP" else None,
            signal="signal." + how,
        ),
        ids=range(num),
        preamble=spawn.PLAIN,
        start=START.format(num=num),
        environment=lambda i: C10D,
    )
    assert results[victim][0] == -9
    for code, out, err in results[:victim]:
        assert code == 0, f"{out}\n{err}"
        # The verdict is all that is written, and nothing of gloo's.
        assert err.startswith("torch_mesh: process"), err
        assert err.count("\n") == 1, err
        assert "[peer-lost]" in out, out
        assert f"process {victim}" in out, out
        # Nothing holds up the end of a process, either: spawn waits for it.
        assert float(re.search(r"after ([\d.]+) s", out)[1]) < 6, out
