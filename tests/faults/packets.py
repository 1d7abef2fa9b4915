"""Random and mutated packets to each port at which a job listens.

A job without a password cannot keep them out. But what it computes must be
right, or it must end with an error that has a name, and soon.
"""

import collections
import os
import pathlib
import random
import re
import socket
import struct
import tempfile
import threading
import time

from tests.faults import failures

# Steps until the file "enough" is there.
PROGRAM = """
import pathlib, zlib
mesh = tm.Mesh({"data": 2})
x = tm.distribute(torch.arange(8.0) + 1, mesh, ("S0",))
enough = pathlib.Path(FOLDER, "enough")
pathlib.Path(FOLDER, f"ready{tm.process_id()}").write_text(str(os.getpid()))
is_over = 0
count = 0
while not is_over:
    total = (x * 3).sum().item()
    if total != 108.0:
        print("wrong number", total, flush=True)
        os._exit(9)
    count += 1
    mine = torch.tensor([float(enough.exists())])
    is_over = tm.distribute(mine.repeat(2), mesh, ("S0",)).amax().item()
    time.sleep(0.002)
print("right", count, flush=True)
"""
PATIENCE = 60.0
LONGEST = 4096
# What torch's store asks, as its first byte of a message: so that random ones
# get beyond the first look.
QUERIES = range(16)


def main(count, first):
    """Sends `count` packets to each port; prints what became of the jobs."""
    sent = collections.Counter()
    ends = collections.Counter()
    wrong = []
    seed = first
    server = failures.Server()
    for transport in ("c10d", "shared_memory"):
        while min_sent(sent, transport) < count:
            result = attack(server, transport, random.Random(seed), count, sent)
            seed += 1
            ends[result] += 1
            if not result.startswith(("right", "[")):
                wrong.append(result)
                print(f"--- {seed}: {result}", flush=True)
            if len(wrong) > 5:
                break
    server.close()
    for (transport, kind), number in sorted(sent.items()):
        print(f"{transport:14} {kind:10} {number:7} packets")
    for result, number in ends.most_common():
        print(f"{number:6} jobs  {result}")
    return bool(wrong)


def min_sent(sent, transport):
    numbers = [n for (t, _), n in sent.items() if t == transport]
    return min(numbers, default=0)


def attack(server, transport, rng, count, sent):
    """Runs one job under packets; says how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        text = f"FOLDER = {folder!r}\n{PROGRAM}"
        tasks = failures.tasks_of(folder, 2, program=text, transport=transport)
        ends = []
        runner = threading.Thread(
            target=lambda: ends.extend(server.run(tasks, None, PATIENCE))
        )
        runner.start()
        pids = wait_until_ready(folder, runner)
        store = int(tasks[0]["address"].rpartition(":")[2])
        ports = listening(pids)
        deadline = time.monotonic() + PATIENCE / 2
        while runner.is_alive() and ports and time.monotonic() < deadline:
            for port, host in ports.items():
                kind = "store" if port == store else "gloo"
                if sent[transport, kind] < count and send(rng, host, port):
                    sent[transport, kind] += 1
            if min_sent(sent, transport) >= count:
                break
        pathlib.Path(folder, "enough").touch()
        runner.join()
        logs = [
            pathlib.Path(t["log"]).read_text("utf-8", "replace") for t in tasks
        ]
    return verdict_of(ends, logs)


def verdict_of(ends, logs):
    """How a job ended: "right", the names of its errors, or what is wrong."""
    if ends == [0, 0] and all("right" in log for log in logs):
        return "right"
    codes = set()
    for end, log in zip(ends, logs, strict=True):
        found = re.findall(
            r"\[([a-z]+-[a-z]+)\]$", failures.headline(log), re.M
        )
        if end == 0 and "right" in log:
            codes.add("right")
        elif end == 1 and found:
            codes.add(found[-1])
        else:
            return f"a process ended with {end}\n{log[-2500:]}"
    return "[" + ", ".join(sorted(codes)) + "]"


def wait_until_ready(folder, runner):
    """The processes' ids, once all have begun."""
    files = [pathlib.Path(folder, f"ready{i}") for i in range(2)]
    while runner.is_alive() and not all(f.exists() for f in files):
        time.sleep(0.02)
    time.sleep(0.1)
    return [int(f.read_text()) for f in files if f.exists()]


def listening(pids):
    """The ports at which some processes listen, and their addresses."""
    inodes = set()
    for pid in pids:
        for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
            except OSError:
                continue
            inodes |= {found[1]} if found else set()
    ports = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                address, port = local.split(":")
                is_4 = len(address) == 8
                raw = struct.pack("=I", int(address, 16)) if is_4 else b""
                host = socket.inet_ntoa(raw) if is_4 else "127.0.0.1"
                host = "127.0.0.1" if host == "0.0.0.0" else host
                ports[int(port, 16)] = host
    return ports


def send(rng, host, port):
    """One connection, with one packet. False if nobody takes it."""
    try:
        with socket.create_connection((host, port), 2) as connection:
            connection.settimeout(0.05)
            connection.sendall(packet(rng))
            if rng.random() < 0.1:
                connection.recv(64)
            if rng.random() < 0.2:  # a reset
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def packet(rng):
    """Random bytes, or a message of torch's store that is wrong somewhere."""
    size = rng.choice([0, 1, 4, 8, 16, 160, rng.randrange(LONGEST)])
    if rng.random() < 0.4:
        return rng.randbytes(size)
    # Its greeting first, then a query: texts with their lengths.
    greeting = bytes([0]) + struct.pack("<I", 0x3C85F7CE)
    text = rng.choice([b"/", b"torch_mesh/", b"beat/0", rng.randbytes(8)])
    query = bytes([rng.choice(QUERIES)])
    for _ in range(rng.randint(0, 3)):
        length = rng.choice([len(text), rng.randrange(1 << 10), 1 << 40])
        query += struct.pack("<Q", length) + text
    whole = bytearray(greeting + query)
    for _ in range(rng.randint(0, 3)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole[: rng.randint(1, len(whole))])
