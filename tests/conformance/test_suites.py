"""The suites themselves: do they see errors, crashes and hangs?"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.conformance import compare, exclusions, layouts, record
from tests.conformance.exactness import Draws, OtherRoundings, watched

import torch_mesh as tm

ROOT = Path(__file__).parents[2]


def test_parts_of_a_sum_are_exact():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        x = torch.randn(1000, dtype=torch.float64).to(dtype)
        x[:4] = torch.tensor([0.0, -0.0, float("inf"), float("nan")])
        high, low = layouts.split(x)
        compare.assert_same(high + low, x, "sum", exact=True)
        assert (high[4:] != x[4:]).float().mean() > 0.5
    n = torch.arange(-5, 5, dtype=torch.int8)
    high, low = layouts.split(n)
    assert torch.equal(high + low, n)


@pytest.mark.parametrize("mesh_name", layouts.MESHES)
def test_placed_tensors_keep_value_and_strides(mesh_name):
    mesh = layouts.mesh_of(mesh_name)
    for x in (
        torch.randn(4, 5, 3),
        torch.randn(2, 3).to(torch.bfloat16),
        torch.randn(3, 2).t().clone(),  # column by column
    ):
        for _, (placements,) in layouts.assignments([x], mesh_name):
            placed = layouts.place(x, mesh, placements)
            assert tm.layout(placed).placements == placements
            compare.assert_same(placed, x, "placed", exact=True)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_no_tolerance_passes_an_error_of_one_percent(dtype, size):
    assert compare.tolerance_of(dtype, size) < 0.01


def test_error_of_one_percent_is_wrong():
    x = torch.randn(50)
    y = x.clone()
    y[x.abs().argmax()] *= 1.01
    with pytest.raises(record.Wrong, match="off by"):
        compare.assert_same(y, x, "result", draws=lambda: [x] * 3)


def test_what_plain_torch_leaves_open_is_right():
    x = torch.tensor([1.0, 1e-7, -1.0])  # cancels
    draws = Draws(lambda: x.sum())

    def check(y):
        compare.assert_same(
            torch.tensor(y), x.sum(), "sum", draws=lambda: draws.tensors(same)
        )

    def same(made):
        return made

    check(1.5e-7)
    with pytest.raises(record.Wrong, match="off by"):
        check(1e-5)


def test_other_roundings_are_those_of_a_step():
    x = torch.arange(1.0, 101)
    x = torch.cat([x, -x])
    with OtherRoundings(5):
        moved = x.sum()
        doubled = x * 2
        ordered = x.sort().values
        largest = torch.linalg.vector_norm(x, ord=float("inf"))
        loss = torch.nn.functional.binary_cross_entropy(
            torch.ones(2), torch.ones(2)
        )
    assert largest == 100 and loss < 1e-5
    assert x.sum() == 0 and 0 < abs(moved) < 200 * 100 * 2**-23
    assert torch.equal(doubled, x + x)
    assert torch.equal(ordered, x.sort().values)
    z = torch.randn(8, 8, dtype=torch.complex64)
    with OtherRoundings(None):
        pinv = torch.linalg.pinv(z)
    assert torch.equal(pinv, torch.linalg.pinv(z))


def test_destinations_may_differ_by_what_plain_torch_leaves_free():
    from tests.conformance import writes  # ten seconds: too long for the fakes
    from tests.conformance.call import Call

    def draws_of(dtype, out_dtype):
        inputs = [torch.randn(3, 3, dtype=dtype) for _ in "ab"]
        call = Call(torch.matmul, inputs, {})
        result = call(inputs)
        out = result.to(out_dtype)
        return writes.Out(call, inputs, [out], result).draws_of(0)

    spread = compare.spread_of(draws_of(torch.float64, torch.float64)())
    assert 1e-16 < spread < 1e-14
    assert draws_of(torch.float32, torch.float64) is None


def test_what_reorders_no_sum_must_agree_bit_for_bit():
    x = torch.randn(4, 5)
    assert watched(lambda: (x * 2).t().sort(0).values.relu())[1]
    assert watched(lambda: x.scatter(0, torch.zeros(1, 5).long(), 1.0))[1]
    assert not watched(lambda: x.sum())[1]
    assert not watched(lambda: x @ x.t())[1]
    assert not watched(
        lambda: x.index_put((torch.tensor([0]),), x[:1], accumulate=True)
    )[1]


def test_at_most_twelve_exclusions():
    assert len(exclusions.EXCLUSIONS) <= 12


def excluded_calls():
    """Of each exclusion, the plain op and its arguments."""
    x = torch.randn(2, 3, 7, 5)
    return {
        "linalg.lu": (torch.linalg.lu, (x,)),
        "lu_unpack": (torch.lu_unpack, torch.linalg.lu_factor(x)),
        "tril": (torch.tril, (x,)),
        "triu": (torch.triu, (x,)),
    }


@pytest.mark.parametrize("name, kind", sorted(exclusions.BROKEN_OUT))
def test_plain_torch_fails_where_excluded(name, kind):
    assert kind == "transposed"
    op, args = excluded_calls()[name]
    results = op(*args)
    one = isinstance(results, torch.Tensor)
    outs = []
    for r in [results] if one else results:
        memory = torch.zeros(20 * r.numel())  # what is outside lies in it too
        order = torch.empty(r.shape[::-1]).permute(*reversed(range(r.dim())))
        outs.append(memory.as_strided(r.shape, order.stride(), 8 * r.numel()))
    op(*args, out=outs[0] if one else tuple(outs))
    assert any(
        not torch.equal(out, r)
        for out, r in zip(outs, [results] if one else results, strict=True)
    )


# A suite of units that are right, crash, hang and are wrong.
def units(options):
    return ["right", "crash", "hang", "wrong"]


def run(unit, options, record_):
    def act():
        if unit == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif unit == "hang":
            time.sleep(1000)
        elif unit == "wrong":
            raise record.Wrong("3, not 4")

    record_.case("2", "before", lambda: None)
    record_.case("2", "middle", act)
    record_.case("2", "after", lambda: None)


RUN_FAKE = """
import json
from tests.conformance.pool import Job, run_jobs
from tests.conformance.record import Options
jobs = [Job("test_suites", u) for u in ("right", "crash", "hang", "wrong")]
for d in run_jobs(jobs, Options(), hang_after=15):
    outcomes = [(o.case, o.kind, o.text) for o in d.outcomes]
    print(json.dumps([d.job.unit, d.right, outcomes]))
"""


def test_crash_or_hang_fails_one_case():
    done = subprocess.run(
        [sys.executable, "-c", RUN_FAKE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        unit, right, outcomes = json.loads(line)
        found[unit] = right.get("2"), [o[:2] for o in outcomes]
    assert found["right"] == (3, [])
    assert found["crash"] == (2, [["middle", "raises"]])
    assert "Segmentation fault" in done.stderr and "in act" in done.stderr
    assert found["hang"] == (2, [["middle", "raises"]])
    assert found["wrong"] == (2, [["middle", "wrong"]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant, suite, only",
    [
        ("scaled", "ops", "^(add|sum|matmul|sort|argmax)$"),
        ("swapped", "ops", "^(add|cumsum|matmul|sort)$"),
        ("doubled_gradient", "ops", "^(mul|sum|matmul|softmax)$"),
        ("lost_write", "writes", "^(add|exp|clamp|cumsum)$"),
        ("lost_write", "views", "^(slice_first|t|diagonal|set mask)$"),
    ],
)
def test_planted_error_is_found_in_each_op(plant, suite, only):
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--suite", suite]
        + ["--only", only, "--mesh", "2", "--samples", "2", "--plant", plant],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path()},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "caught in 100.0 %" in done.stdout


def path():
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
