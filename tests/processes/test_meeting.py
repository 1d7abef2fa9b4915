"""What processes learn of each other when they meet, and who may listen."""

import contextlib
import json
import socket
import sys

import pytest
import spawn
import torch
import torch.distributed as dist

from torch_mesh import interfaces, meeting, processes

FACTS = {
    "torch": "2.13.0",
    "torch_mesh": "1",
    "capability": "AVX2",
    "threads": 1,
    "devices": {"cpu": 2, "gpu": 0},
    "seed": [5, 7],
}

LISTENING = """
import os, pathlib
def listening():
    found = []
    sockets = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if name.startswith("socket:"):
            sockets.add(name[8:-1])
    for table in ("tcp", "tcp6"):
        path = pathlib.Path(f"/proc/self/net/{table}")
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        for row in (row.split() for row in rows):
            if row[3] == "0A" and row[9] in sockets:
                address, port = row[1].split(":")
                found.append((address, int(port, 16)))
    return found
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nobody_listens_but_where_the_processes_meet():
    """And what else needs two processes but no Keras."""
    host, port = "127.0.0.2", spawn.free_addresses(1).rpartition(":")[2]
    spawn.check(
        LISTENING
        + f"""
        found = listening()
        loopback = "0100007F"  # bytes of 127.0.0.1, as the kernel has them
        store = ("0200007F", {port})
        assert (store in found) == (me == 0), found
        rest = [address for address in found if address != store]
        assert rest and all(a == loopback for a, _ in rest), found
        import os
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"

        # No process has set a seed: that of process 0 is everyone's.
        import torch.distributed as dist
        drawn = torch.rand(3)
        everyone = [torch.empty(3), torch.empty(3)]
        dist.all_gather(everyone, drawn)
        assert torch.equal(*everyone)

        # Who is told something finds done what was done before.
        from torch_mesh import job
        assert job.told("test", [0, 1], ["a\\n", "b"][me]) == "a\\n"
        assert job.told("test", [me], "mine") == "mine"
        assert job.told("test", [0, 1]) == ""
        job.meet("test", [0, 1])

        # An exception that nobody catches is told to the others.
        from torch_mesh import _C
        told = []
        _C.report_failure = told.append
        sys.excepthook(ValueError, ValueError("too " + 1000 * "long"), None)
        assert told[0].startswith("ValueError: too long"), told
        assert len(told[0]) < 600
        """.replace("\n        ", "\n"),
        addresses=f"{host}:{port}",
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
    )


def test_a_slurm_step_of_two():
    with socket.socket() as probe:
        for port in range(61440, 65536):
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                break
    spawn.check(
        """
        assert (tm.process_id(), tm.num_processes()) == (me, 2)
        assert len(tm.list_devices()) == 2 * len(tm.list_local_devices())
        """.replace("\n        ", "\n"),
        start="tm.initialize(timeout=60)\n",
        environment=lambda i: {
            "SLURM_JOB_ID": str(port),
            "SLURM_STEP_ID": "1",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(i),
            "SLURM_STEP_NODELIST": "localhost",
        },
        preamble=spawn.PLAIN,
    )


def test_processes_that_would_compute_other_bits_are_refused():
    results = spawn.run(
        "",
        environment=lambda i: {"OMP_NUM_THREADS": str(1 + i)},
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
    )
    for me, (code, _, error) in enumerate(results):
        assert code != 0
        for words in (
            "different numbers of threads",
            f"process {me}  {1 + me} (this one)",
            f"process {1 - me}  {2 - me}\n",
            "Hint: set OMP_NUM_THREADS",
            "[processes-differ]",
        ):
            assert words in error, error


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("torch", "2.14.0", "versions of torch"),
        ("torch_mesh", None, "versions of torch_mesh"),
        ("capability", "AVX512", "instructions of their CPUs"),
        ("threads", 8, "numbers of threads"),
        ("torch", "\x1b[2J" + 9000 * "x", "\\x1b[2Jxxx"),
    ],
)
def test_what_must_be_equal(name, value, words):
    processes._compare([FACTS, FACTS], 0)
    with pytest.raises(ValueError, match="processes-differ") as error:
        processes._compare([FACTS, {**FACTS, name: value}], 0)
    assert words in str(error.value)
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 800


@pytest.mark.parametrize(
    "said",
    [b"", b"\xff\x1b[2J", b"[" * 9999, b"7", b'{"a": ' + b"1" * 20000 + b"}"],
)
def test_facts_that_are_none(said):
    store = dist.HashStore()
    store.set("facts/1", said)
    with pytest.raises(ValueError, match="processes-differ") as error:
        meeting.exchange(store, 0, 2, FACTS, 5.0)
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 800


def test_facts_of_all():
    store = dist.HashStore()
    store.set("facts/1", json.dumps(FACTS))
    assert meeting.exchange(store, 0, 2, {"a": 1}, 5.0) == [{"a": 1}, FACTS]
    assert processes._devices_in(FACTS, 0) == {"cpu": 2, "gpu": 0}
    for read, facts in (
        (processes._devices_in, {"devices": [2]}),
        (processes._devices_in, {"devices": {"cpu": -1, "gpu": 0}}),
        (processes._devices_in, {"devices": {"cpu": True, "gpu": 0}}),
        (processes._seed_in, {"seed": [1]}),
        (processes._seed_in, {"seed": [1, "2"]}),
        (processes._seed_in, {}),
    ):
        with pytest.raises(ValueError, match="processes-differ"):
            read(facts, 1)


def test_seeds():
    before = torch.get_rng_state()
    try:
        processes._settle_seeds([[5, 7], [5, 7]])
        assert torch.equal(torch.get_rng_state(), before)
        processes._settle_seeds([[1 << 40, 7], [1 << 41, 8]])
        assert torch.initial_seed() == 1 << 40
        for others in ([6, 7], [5, 8], [1 << 40, 7]):
            with pytest.warns(UserWarning, match="seeds-differ"):
                processes._settle_seeds([[5, 7], others])
    finally:
        torch.set_rng_state(before)


def test_a_network_by_its_address():
    assert interfaces.name_of("127.0.0.1") in ("lo", None)
    assert interfaces.name_of("not one") is None
    assert interfaces.name_of("203.0.113.77") is None
    assert interfaces.is_loopback("127.0.1.1")
    assert interfaces.is_loopback("::ffff:127.0.0.1")
    assert not interfaces.is_loopback("203.0.113.77")


@pytest.mark.parametrize("is_child", [False, True])
def test_who_comes_twice_is_told_why(is_child, monkeypatch):
    parent = object() if is_child else None
    monkeypatch.setattr("multiprocessing.parent_process", lambda: parent)
    store = dist.HashStore()
    meeting.say_who(store, 2, 1)
    with pytest.raises(ValueError, match="another process 1 of 2") as error:
        meeting.say_who(store, 2, 1)
    assert ("__main__" in str(error.value)) == is_child
