"""Each survivor of a job names the process that is gone, and soon."""

import re

import pytest
import spawn
from test_c10d_transport import PREAMBLE, START

MONITOR = (
    START
    + """
import os, signal, subprocess, threading, time

_C.start_monitor_for_testing(group, me, num, 0.1, 1.0)
t = transport()
others = [p for p in range(num) if p != me]
pids = [None] * num
dist.all_gather_object(pids, os.getpid())


def exchange(text="all_gather"):
    _C.note_op_for_testing(text, "train.py:12")
    return t.exchange(
        text, 1, [(p, b"x" * 9) for p in others], [(p, 9) for p in others]
    )


def survive(call):
    begin = time.time()
    error = error_of(call)
    print(f"after {{time.time() - begin:.2f}} s: {{error}}", flush=True)
    assert error
    # The verdict stays.
    assert error_of(exchange) == error or _C.verdict()


def end(stop_monitor=True):
    if stop_monitor:
        _C.stop_monitor_for_testing()
    sys.stdout.flush()
    os._exit(0)


exchange()
time.sleep(0.3)  # and all have told it
"""
)


def run(program, num):
    return spawn.run(
        program,
        ids=range(num),
        start=MONITOR.format(num=num),
        preamble=PREAMBLE,
    )


def assert_quiet(results):
    """All processes ended well, and the engine has written nothing."""
    for code, out, err in results:
        assert code == 0, f"{out}\n{err}"
        assert "torch_mesh:" not in err


def survivors(program, victim, num=3, most=4.0, victim_code=0):
    """What each survivor says; its error came within `most` seconds."""
    results = run(program, num)
    texts = []
    for i, (code, out, err) in enumerate(results):
        assert code == (victim_code if i == victim else 0), f"{i}: {out}\n{err}"
        if i != victim:
            print(i, out, err)
            found = re.search(r"after ([\d.]+) s", out)
            assert found and float(found[1]) < most, f"{out}\n{err}"
            texts.append(out)
    return texts


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("does_wait", [True, False])
def test_a_killed_process_is_named(victim, does_wait):
    # Process 0 keeps the store.
    for out in survivors(
        f"""
        if me == {victim}:
            os.kill(os.getpid(), signal.SIGKILL)
        if {does_wait}:
            survive(exchange)
        else:
            survive(lambda: _C.wait_for_testing(-1))
        end()
        """,
        victim,
        victim_code=-9,
    ):
        assert "[peer-lost]" in out
        if victim == 1 or does_wait:
            assert f"process {victim}" in out
        if victim == 1:
            assert "pid " in out
            assert "all_gather (number" in out


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_named(victim):
    for out in survivors(
        f"""
        if me == {victim}:
            os.kill(os.getpid(), signal.SIGSTOP)
            end(stop_monitor=False)
        survive(exchange)
        # No thread that waits in the store holds up the end of a process.
        begin = time.time()
        _C.stop_monitor_for_testing()
        assert time.time() - begin < 4
        if me == 2:
            os.kill(pids[{victim}], signal.SIGCONT)
        end(stop_monitor=False)
        """,
        victim,
    ):
        assert "[peer-lost]" in out
        assert ("process 1" if victim else "the job's store") in out


def test_an_error_of_a_process_is_shown():
    for out in survivors(
        """
        if me == 1:
            try:
                raise ValueError("no such file")
            except ValueError as error:
                _C.report_failure(repr(error))
            end()
        survive(exchange)
        end()
        """,
        victim=1,
        most=2.0,
    ):
        assert "process 1 (" in out
        assert "ValueError('no such file')" in out
        assert "[peer-failed]" in out


def test_a_process_that_left_is_named_to_those_who_wait():
    for out in survivors(
        """
        if me == 1:
            end()
        survive(exchange)
        end()
        """,
        victim=1,
    ):
        assert "process 1 (" in out
        assert "[peer-left]" in out or "[peer-lost]" in out


def test_a_job_at_its_end_says_nothing():
    for victim in (0, 1):
        results = run(
            f"""
            if me == {victim}:
                end()
            time.sleep(1.5)
            assert _C.verdict() is None
            end()
            """,
            num=2,
        )
        assert_quiet(results)


def test_a_job_that_was_stopped_as_a_whole_goes_on():
    results = run(
        """
        begin = time.time()
        dist.barrier()
        if me == 0:
            all = " ".join(map(str, pids))
            stopper = subprocess.Popen(
                ["sh", "-c", f"kill -STOP {all}; sleep 3; kill -CONT {all}"]
            )
        for step in range(100):
            exchange()
            time.sleep(0.02)
        assert time.time() - begin > 4.5
        assert _C.verdict() is None
        end()
        """,
        num=2,
    )
    assert_quiet(results)


def test_without_a_monitor_a_broken_connection_names_its_process():
    (_, out, err), (code, *_) = run(
        """
        _C.stop_monitor_for_testing()
        if me == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        survive(exchange)
        end()
        """,
        num=2,
    )
    assert code == -9
    assert "process 1 closed its connection" in out, err
    assert "[peer-lost]" in out


def test_a_wait_for_the_store_ends_with_the_process_that_keeps_it():
    _, (code, out, err) = run(
        """
        store = _C.store_of_group_for_testing(group)
        dist.barrier()
        if me == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            end(stop_monitor=False)
        survive(lambda: store.get("never"))
        os.kill(pids[0], signal.SIGKILL)
        end()
        """,
        num=2,
    )
    assert code == 0, f"{out}\n{err}"
    assert "the job's store does not answer" in out
