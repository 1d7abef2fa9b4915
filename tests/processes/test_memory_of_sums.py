"""Memory of the sums of a job: used again at each step, and not hoarded."""

from spawn import PLAIN, PLAIN_START, check

START = (
    PLAIN_START
    + """
import ctypes
import re
import resource
from torch import nn
from torch_mesh import _C

torch.set_num_threads(1)
mesh = tm.Mesh({"data": 2})


def pending(numel):
    part = torch.full((numel,), 1.0 + me)
    own = [part if i == me else None for i in range(2)]
    return tm.from_shards(own, mesh, ("P+",))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20
"""
)


def run(program):
    return check(
        program,
        preamble=PLAIN,
        start=START,
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": "1"},
    )


def test_a_step_needs_no_new_pages():
    """Else the system clears them: that costs as much as the sum."""
    run(
        """
        model = nn.Sequential(
            nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, 10),
        )
        for p in model.parameters():
            p.data = tm.distribute(p.data, mesh)
        x = tm.distribute(torch.ones(64, 784), mesh, ("S0",))
        optimizer = torch.optim.Adam(model.parameters())

        def faults(steps):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(steps):
                loss = model(x).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        faults(20)
        # The gradients have 263 pages, which were new at each step.
        assert faults(50) < 50 * 60
        """
    )


def test_sums_of_one_bucket_lie_in_one_run_and_are_values_of_their_own():
    run(
        """
        xs = [pending(30_000 + 4 * k) for k in range(4)]
        tm.reduce_partials(xs)
        runs = [
            re.search(f"lane {me}: .* memory (.*)", _C.state_text(x))[1]
            for x in xs
        ]
        assert len(set(runs)) == 1, runs
        # Whoever is written, the others stay.
        xs[1].mul_(2)
        xs[2].zero_()
        for x, right in zip(xs, (3.0, 6.0, 0.0, 3.0)):
            assert torch.equal(tm.local_value(x), torch.full(x.shape, right))
        # What is held is not used again.
        kept = xs[3]
        del xs, x
        for _ in range(5):
            ys = [pending(30_000 + 4 * k) for k in range(4)]
            tm.reduce_partials(ys)
        assert torch.equal(tm.local_value(kept), torch.full(kept.shape, 3.0))
        """
    )


def test_sums_of_a_bucket_may_be_viewed_as_any_dtype():
    run(
        """
        xs = [pending(n) for n in (30_001, 40_000, 2, 50_000, 3, 60_000)]
        tm.reduce_partials(xs)
        for x in xs[1::2]:
            pairs = torch.view_as_complex(x.view(-1, 2))
            assert tm.local_value(pairs)[-1] == 3 + 3j
            assert x.view(torch.float64).shape == (len(x) // 2,)
            assert x.view(torch.complex128).shape == (len(x) // 4,)
        """
    )


def test_what_is_kept_for_later_sums_is_bounded():
    run(
        """
        def sums():
            xs = [pending(2_000_000) for _ in range(2)]  # 16 MB
            tm.reduce_partials(xs)
            return xs

        sums()
        before = resident()
        held = [sums() for _ in range(20)]
        assert resident() > before + 300
        for xs in held:
            for x in xs:
                assert tm.local_value(x)[-1] == 3
        del held, xs, x
        # 100 MiB of them may stay, and what one collective needs.
        ctypes.CDLL(None).malloc_trim(0)
        assert resident() < before + 170, (before, resident())
        """
    )
