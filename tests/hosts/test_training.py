"""A model trains on two hosts as on one plain device."""

import numpy as np
import pytest
from network import ADDRESSES, Network
from programs import PORT, Job, bytes_by_kind
from tests.processes import test_any_number as one_host

# The hosts of the processes, and the devices that each has.
SPREADS = {"one a host": ((0, 1), 2), "two a host": ((0, 0, 1, 1), 1)}

# Beside what it carries: of a message of less than a block, a block and three
# times gloo's 48 bytes, less what it carries; of a larger one a head of 160
# bytes and six times 48.
MOST_BESIDE = 512 + 3 * 48

# Process 0 alone runs on a plain device what all run on the mesh.
BEFORE = """
import keras
stop()
"""

TRAIN = """
counts = tm.counting().__enter__()
{program}
counts.__exit__()
stop(
    moved=sum(counts.moved.values()),
    received=sum(counts.received.values()),
    bytes=counts.bytes,
    calls=counts.calls,
    shares_memory="/dev/shm/" in open("/proc/self/maps").read(),
)
"""


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.timeout(900)
def test_numbers_are_those_of_one_device(name, tmp_path):
    hosts, devices = SPREADS[name]
    environment = {"TORCH_MESH_CPU_DEVICES": str(devices)}
    if devices > 1:  # then what moves between memories moves between hosts
        environment["TORCH_MESH_CPU_MEMORIES"] = "shared"
    (tmp_path / "plain").mkdir()
    plain = one_host.PROGRAM.format(
        kind="data", out=str(tmp_path / "plain"), is_on_mesh=False
    )
    program = BEFORE + f"if me == 0:\n    exec({plain!r})\n"
    for kind in ("data", "model"):
        (tmp_path / kind).mkdir()
        of_kind = one_host.PROGRAM.format(
            kind=kind, out=str(tmp_path / kind), is_on_mesh=True
        )
        program += TRAIN.format(program=of_kind)
    with Network(delay=0.02, loss=0.01) as network:
        job = Job(network, program, hosts, environment)
        job.stopped()
        before = bytes_by_kind(network.streams())
        check_listening([network.listening(host) for host in (0, 1)], hosts)
        for kind in ("data", "model"):
            job.go_on()
            counted = job.stopped()
            after = bytes_by_kind(network.streams())
            line = after.messages - before.messages
            check_bytes(kind, hosts, counted, line)
            before = after
        job.end()
    shared = [c["shares_memory"] for c in counted]
    assert shared == [hosts.count(host) > 1 for host in hosts]
    for kind in ("data", "model"):
        files = [tmp_path / kind / f"{i}.npz" for i in range(len(hosts))]
        check_numbers(
            [dict(np.load(file)) for file in files],
            dict(np.load(tmp_path / "plain" / "0.npz")),
        )


def check_bytes(kind, hosts, counted, line):
    """What was counted crosses, and beside it no more than messages need."""
    crossing = crossing_bytes(kind, hosts, counted[0])
    print(f"\n{kind} {hosts}: {crossing} bytes cross, {line - crossing} beside")
    # A sum is two exchanges, and now and then the host reads a value.
    ways = 2 * hosts.count(0) * hosts.count(1)
    messages = 3 * ways * sum(counted[0]["calls"].values())
    assert crossing < line <= crossing + messages * MOST_BESIDE


def crossing_bytes(kind, hosts, counted):
    """What the plans say that devices receive of the other host.

    Along an axis a device receives equal parts of each other one on it.
    """
    if len(hosts) == 2:
        return counted["received"]
    if kind == "data":  # of 3 others 2
        return counted["received"] * 2 // 3
    by_axis = counted["bytes"].items()
    return 4 * sum(n for key, n in by_axis if key.endswith("@batch"))


def check_numbers(found, plain):
    for of_process in found:
        assert of_process.keys() == plain.keys()
        for name, value in of_process.items():
            is_history = name in ("losses", "val_loss", "accuracy")
            np.testing.assert_allclose(
                value,
                plain[name],
                rtol=1e-5 if is_history else 1e-4,
                atol=1e-6 if is_history else 1e-5,
            )
            assert np.array_equal(value, found[0][name]), name


def check_listening(listening, hosts):
    """Only the store and gloo listen, and on the line's network alone."""
    for host, found in enumerate(listening):
        assert {address for address, _ in found} == {ADDRESSES[host]}
        store = {(ADDRESSES[host], PORT)} if host == 0 else set()
        assert store <= found
        assert len(found - store) == hosts.count(host)
