"""How processes meet, and what is said when they do not."""

import sys
import textwrap
import time

import pytest
import spawn

SECOND_PROGRAM = """
import torch.distributed as dist
assert dist.is_initialized() and dist.get_backend() == "gloo"
assert distribution_lib.num_processes() == 2
assert keras.distribution.DataParallel(
    devices=distribution_lib.list_local_devices(), auto_shard_dataset=False
).num_processes == 2
total = distribution_lib.all_reduce(torch.ones(1) * (me + 1))
assert total.item() == 3
print("did it")
"""


def test_keras_initialize_with_arguments():
    spawn.check(
        SECOND_PROGRAM,
        start="keras.distribution.initialize(addresses, 2, me)\n",
    )


def test_the_address_of_process_0_is_enough():
    spawn.check(
        SECOND_PROGRAM,
        start='keras.distribution.initialize(addresses.split(",")[0], 2, me)\n',
    )


def test_addresses_may_be_a_list():
    spawn.check(
        SECOND_PROGRAM,
        start='distribution_lib.initialize(addresses.split(","), 2, me)\n',
    )


@pytest.mark.parametrize("module", ["keras.distribution", "distribution_lib"])
def test_the_environment_says_the_arguments(module):
    addresses = spawn.free_addresses(2)
    spawn.check(
        SECOND_PROGRAM,
        start=f"{module}.initialize()\n",
        environment=lambda i: {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(i),
        },
    )


def test_torchruns_environment_and_a_group_made_before():
    host, port = spawn.free_addresses(1).split(":")
    for start in (
        "distribution_lib.initialize()\n",
        'torch.distributed.init_process_group("gloo")\n'
        "distribution_lib.initialize(addresses, 2, me)\n",
        'torch.distributed.init_process_group("gloo")\n',
    ):
        spawn.check(
            "assert distribution_lib.all_reduce(torch.ones(1)).item() == 2\n"
            "assert distribution_lib.process_id() == me\n",
            start=start,
            environment=lambda i: {
                "RANK": str(i),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": host,
                "MASTER_PORT": port,
            },
        )


def test_initialize_twice_and_a_new_job_after_the_end():
    spawn.check(
        """
        try:
            distribution_lib.initialize(addresses, 2, me)
            raise SystemExit("no error")
        except RuntimeError as error:
            assert "[initialized-twice]" in str(error), str(error)
            assert f"process {me} of 2" in str(error)
        try:
            distribution_lib.initialize()
            raise SystemExit("no error")
        except RuntimeError as error:
            assert "[initialized-twice]" in str(error), str(error)
        torch.distributed.destroy_process_group()
        assert distribution_lib.num_processes() == 1
        assert len(distribution_lib.list_devices()) == 4
        assert distribution_lib.all_reduce(torch.ones(1)).item() == 1
        other = ",".join(reversed(addresses.split(",")))
        distribution_lib.initialize(other, 2, me, timeout=60)
        assert distribution_lib.all_reduce(torch.ones(1)).item() == 2
        """,
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": "4"},
    )


HELD_TO_THE_END = """
        from torch.distributed.tensor import Shard, distribute_tensor
        own = tm.list_local_devices()[:2]
        mesh = tm.Mesh({"data": 2}, own)
        x = tm.distribute(torch.ones(4, 6), mesh, ("S1",))
        held = tm.to_dtensor(x)
        also_held = distribute_tensor(held.full_tensor(), held.device_mesh)
"""


# A thread of gloo that is left may need the GIL of an interpreter that is gone.
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", HELD_TO_THE_END])
def test_the_group_ends_before_the_interpreter(ending):
    results = spawn.run(
        f"""
        distribution_lib.all_reduce(torch.ones(1))
        {ending}
        """,
        # What is registered first is called last.
        start=textwrap.dedent("""
        import atexit, pathlib
        def show():
            tasks = pathlib.Path("/proc/self/task").glob("*/comm")
            threads = [task.read_text() for task in tasks]
            print(torch.distributed.is_initialized())
            print(any("gloo" in thread for thread in threads))
        atexit.register(show)
        """)
        + spawn.START,
    )
    expected = (3 if "raise" in ending else 0, ["False", "False"])
    for code, out, err in results:
        assert (code, out.split()) == expected, err


def test_a_peer_that_never_comes():
    begin = time.monotonic()
    for me, variables, words in [
        (0, {}, ["process 1 of 2 did not come within 3 s", "timeout="]),
        (1, {}, ["process 0 did not answer at 127.0.0.1:"]),
        (0, {"TORCH_MESH_TIMEOUT": "3"}, ["process 1 of 2 did not come"]),
    ]:
        timeout = "" if variables else ", timeout=3"
        ((code, _, err),) = spawn.run(
            "",
            ids=[me],
            start=f"distribution_lib.initialize(addresses, 2, me{timeout})\n",
            environment=lambda i, v=variables: v,
        )
        assert code != 0
        for word in [*words, "TimeoutError", "[peer-missing]"]:
            assert word in err, err
        # One line while it waits, and no traces of C++.
        whom = "process 0 at 127.0.0.1:" if me else "process 1 of 2, at most"
        assert err.count(f"initialize: waiting for {whom}") == 1, err
        assert "c10d" not in err, err
    assert time.monotonic() - begin < 120


def test_peers_that_come_at_once_are_not_waited_for_aloud():
    results = spawn.run(
        "", start="distribution_lib.initialize(addresses, 2, me)\n"
    )
    assert [code for code, _, _ in results] == [0, 0]
    assert not any("c10d" in err for _, _, err in results)


def test_processes_that_disagree():
    results = spawn.run(
        "",
        ids=[0, 0],
        start="distribution_lib.initialize(addresses, 2, 0, timeout=5)\n",
    )
    errors = "".join(err for _, _, err in results)
    assert all(code != 0 for code, _, _ in results)
    # One has the port; the other, the same index, cannot have it.
    assert "[address-in-use]" in errors, errors
    results = spawn.run(
        "",
        start="distribution_lib.initialize("
        "addresses.split(',')[0], 2 + me, me, timeout=5)\n",
    )
    assert all(code != 0 for code, _, _ in results)
    assert any("[job-addresses]" in err for _, _, err in results), results


def test_two_processes_of_one_index():
    results = spawn.run(
        "",
        ids=[0, 1, 1],
        start="distribution_lib.initialize("
        "addresses.split(',')[0], 3, me, timeout=6)\n",
    )
    errors = [err for code, _, err in results if code != 0]
    assert len(errors) == 3
    assert sum("there is another process 1 of 3" in e for e in errors) == 1
    assert "process 2 of 3 did not come" in errors[0]


def test_a_peer_that_ends_is_an_error_and_no_hang():
    begin = time.monotonic()
    results = spawn.run("""
    if me == 1:
        import os
        os._exit(7)
    distribution_lib.all_reduce(torch.ones(1))
    """)
    assert results[1][0] == 7
    assert "[peer-lost]" in results[0][2], results[0][2]
    assert time.monotonic() - begin < 100


def test_a_peer_that_is_late_for_a_collective():
    results = spawn.run(
        """
    import time
    if me == 1:
        time.sleep(12)
    distribution_lib.all_reduce(torch.ones(1))
    """,
        start="distribution_lib.initialize(addresses, 2, me, timeout=8)\n"
        "torch.ones(1)\n",
    )
    assert "[peer-lost]" in results[0][2], results[0][2]
