"""The two hosts are two, and nothing of them stays behind."""

import os
import pathlib
import signal
import subprocess
import sys

import psutil
import pytest
from network import ADDRESSES, NAMES, Network

HERE = pathlib.Path(__file__).parent

HOLD = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from network import Network
with Network() as network:
    program = network.start(1, ["sleep", "1000"])
    print(*network.pids, program.pid, flush=True)
    time.sleep(1000)
"""

ECHO = """
import socket, sys
server = socket.create_server(("10.77.0.1", 5000))
print("ready", flush=True)
sys.stdout.write(server.accept()[0].makefile().read())
"""

SAY = """
import socket
socket.create_connection(("host-a", 5000)).sendall(b"x" * 200_000)
"""


def test_hosts_have_names_and_memory_of_their_own():
    with Network() as network:
        for host in (0, 1):
            touched = network.output(
                host,
                ["sh", "-c", "ls /dev/shm; touch /dev/shm/here; hostname"],
            )
            assert touched == NAMES[host] + "\n"
        assert not os.path.exists("/dev/shm/here")
        assert network.listening(0) == set()


def test_what_is_sent_arrives_late_and_in_spite_of_losses():
    with Network(delay=0.02, loss=0.05) as network:
        server = network.start(0, [sys.executable, "-c", ECHO])
        assert server.stdout.readline() == "ready\n"
        assert network.listening(0) == {(ADDRESSES[0], 5000)}
        network.output(1, [sys.executable, "-c", SAY])
        assert server.stdout.read() == "x" * 200_000
        sent = [s for s in network.streams() if s["unique"]]
    (stream,) = sent
    assert stream["destination"] == [ADDRESSES[0], 5000]
    assert stream["unique"] == 200_000
    assert stream["lost"] > 0
    assert stream["payload"] > 200_000


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_behind(how):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(pid) for pid in holder.stdout.readline().split()]
    assert len(pids) == 4
    processes = [psutil.Process(pid) for pid in pids]
    holder.send_signal(how)
    holder.wait(timeout=30)
    holder.stdout.close()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
