"""Messages over the process group of torch.distributed."""

from spawn import check

# Without Keras, which takes seconds.
PREAMBLE = """
import sys
import numpy as np, torch
import torch_mesh as tm
me, addresses = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
"""

START = """
import torch.distributed as dist
from torch_mesh import _C

num = {num}
dist.init_process_group(
    "gloo",
    init_method="tcp://" + addresses.split(",")[0],
    rank=me,
    world_size=num,
)
group = dist.group.WORLD.group_name


def transport(job=5):
    return _C.c10d_transport_for_testing(group, me, num, job)


def error_of(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


def bytes_of(seed, size):
    return np.random.default_rng(seed).bytes(size)
"""


def run(program, num=2):
    start = START.format(num=num)
    return check(program, ids=range(num), start=start, preamble=PREAMBLE)


def test_messages_arrive_however_their_runs_are_cut():
    run(
        """
        t = transport()
        # A block holds 352 bytes besides its head.
        sizes = [1, 3, 351, 352, 353, 512, 100_001, 20_000_000, 2]
        for size in sizes:
            mine, theirs = (bytes_of(p * size, size) for p in (me, 1 - me))
            cuts = sorted({0, size // 7, size // 2, min(size, 352), size})
            parts = [(1 - me, mine[a:b]) for a, b in zip(cuts, cuts[1:])]
            a = size // 3
            wanted = [(1 - me, n) for n in (a, size - a) if n]
            for sends, receives in (
                ([(1 - me, mine)], [(1 - me, size)]),
                (parts, wanted),
                (parts, [(1 - me, size)]),
                ([(1 - me, mine)], wanted),
            ):
                came = t.exchange("swap", size, sends, receives)
                assert b"".join(came) == theirs, size
            # One speaks, the other listens.
            for speaker in (0, 1):
                sends = parts if me == speaker else []
                receives = [] if me == speaker else wanted
                came = t.exchange("one way", size, sends, receives)
                assert b"".join(came) == (b"" if me == speaker else theirs)
        t.exchange("nothing", 0, [], [])
        """
    )


def test_three_processes_exchange_uneven_runs():
    run(
        """
        t = transport()
        others = [p for p in range(3) if p != me]
        for step in range(40):
            def size(a, b):
                return (7 * a + 3 * b + 1) * (1 + step * step * 20)
            def data(a, b):
                return bytes_of(a * 10 + b, size(a, b))
            came = t.exchange(
                "all_to_all",
                step,
                [(p, data(me, p)) for p in others],
                [(p, size(p, me)) for p in others],
            )
            assert came == [data(p, me) for p in others]
            if me != 1:  # process 1 has no part in it
                other = 2 - me
                came = t.exchange(
                    "pair", step, [(other, data(me, other))],
                    [(other, size(other, me))],
                )
                assert came == [data(other, me)]
        """,
        num=3,
    )


def test_processes_that_differ_are_named_and_none_is_ended():
    run(
        """
        other = 1 - me
        def differ(job, hashes=(1, 1), sizes=(8, 8), texts=("a", "b")):
            t = transport(job)
            t.exchange("same", 1, [(other, b"x" * 9)], [(other, 9)])
            def call():
                n = sizes[me]
                t.exchange(
                    texts[me], hashes[me], [(other, b"x" * n)], [(other, n)]
                )
            error = error_of(call)
            assert f"process {other} runs another program" in error, error
            assert "[processes-differ]" in error
            assert texts[me] in error and texts[other] in error
            assert error_of(call) == error  # and stays so

        job = 10
        for sizes in (
            (1000, 999), (1, 2), (3936, 3937), (5000, 5001), (9, 1_000_000),
            (4_000_000, 1_000_000), (1_000_000, 1_000_004),
        ):
            differ(job, sizes=sizes)
            job += 1
        differ(job, hashes=(1, 2))
        differ(job + 1, hashes=(1, 2), sizes=(1_000_000, 1_000_000))

        # Another transport of the same group does not feel it.
        t = transport(100)
        for n in (5, 100_000):
            assert t.exchange("on", 1, [(other, bytes([me]) * n)], [(other, n)])
        # The group itself neither.
        x = torch.tensor([float(me)])
        dist.all_reduce(x)
        assert x.item() == 1
        """
    )


def test_a_message_too_many_is_seen_by_its_number():
    run(
        """
        t = transport()
        if me == 0:
            t.exchange("a", 1, [(1, b"x")], [])
            t.exchange("a", 1, [(1, b"x")], [])
            dist.barrier()
        else:
            t.exchange("a", 1, [], [(0, 1)])
            t = transport()  # which does not count the first
            error = error_of(lambda: t.exchange("a", 1, [], [(0, 1)]))
            assert "a (message 1, 1 bytes)" in error, error
            assert "[processes-differ]" in error
            dist.barrier()
        """
    )


def test_long_waits_leave_the_connection_alive():
    run(
        """
        import time
        t = transport()
        other = 1 - me
        for size in (10, 1_000_000):
            for late in (0, 1):
                if me == late:
                    time.sleep(0.6)
                data = bytes_of(size, size)
                came = t.exchange("swap", 1, [(other, data)], [(other, size)])
                assert came == [data]
                if me == late:
                    time.sleep(0.6)
                came = t.exchange(
                    "to the late one", 1,
                    [(other, data)] if me != late else [],
                    [(other, size)] if me == late else [],
                )
        """
    )


def test_a_group_without_gloo_is_refused():
    run(
        """
        error = error_of(lambda: _C.c10d_transport_for_testing("no", me, 2, 1))
        assert "[no-process-group]" in error, error
        import torch.testing._internal.distributed.fake_pg  # makes it known
        pair = dist.new_group([0, 1], backend="fake")
        error = error_of(
            lambda: _C.c10d_transport_for_testing(pair.group_name, me, 2, 1)
        )
        assert "[no-process-group]" in error, error
        """
    )
