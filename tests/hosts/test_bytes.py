"""What goes over the line is what was counted, and what is known besides."""

import time

from network import Network
from programs import Job, bytes_by_kind

COUNT = 2_000_000  # numbers of float32 in a sum
STEPS = 3

# Of each process in each step: a block, in which it says what it does, and 3
# times gloo's 48 bytes. Then gloo adds up, with heads of 48 bytes, too.
BLOCK = 512 + 3 * 48
GLOOS_HEAD = 48
# Of the store, by what all beats and answers need in a second.
STORE_BYTES_PER_SECOND = 5000

# Each host sends a half of its part, and then its half of the sum.
SUMS = f"""
mesh = tm.Mesh({{"data": 2}})
values = np.random.default_rng(0).normal(size=(2, {COUNT})).astype("float32")
x = tm.distribute(torch.from_numpy(values), mesh, ("S0",))
stop()
with tm.counting() as counts:
    for _ in range({STEPS}):
        total = x.sum(0)
        tm.reduce_partials([total])
stop(
    moved=sum(counts.moved.values()),
    received=sum(counts.received.values()),
)
found = tm.local_value(total).numpy()
np.testing.assert_array_equal(found, values[0] + values[1])
"""


def test_bytes_on_the_line_are_those_counted():
    with Network(delay=0.02, loss=0.01, mtu=9000) as network:
        job = Job(network, SUMS, (0, 1), {"TORCH_MESH_CPU_DEVICES": "1"})
        job.stopped()
        before, start = network.streams(), time.monotonic()
        job.go_on()
        counted = job.stopped()
        after, seconds = network.streams(), time.monotonic() - start
        job.end()
    moved = sum(c["moved"] for c in counted)
    assert moved == 2 * STEPS * 4 * COUNT
    assert all(c["received"] == moved for c in counted)  # planned for all

    old, new = bytes_by_kind(before), bytes_by_kind(after)
    blocks = 2 * STEPS * BLOCK
    heads, rest = divmod(
        new.messages - old.messages - moved - blocks, GLOOS_HEAD
    )
    assert rest == 0
    # Three for each of a sum's pieces, of which there are at least four.
    assert 12 * STEPS <= heads <= 60 * STEPS
    crossed = moved + blocks + heads * GLOOS_HEAD
    assert 0 < new.store - old.store < STORE_BYTES_PER_SECOND * (seconds + 1)
    # A hundredth is lost, and comes again, now and then more than once.
    again = (new.payload - old.payload) / crossed - 1
    assert 0.002 < again < 0.05
    packets = (new.num_bytes - new.payload) - (old.num_bytes - old.payload)
    assert packets < 0.05 * moved  # heads of IP and TCP, and answers
    print(
        f"\nmoved {moved}, blocks {blocks}, {heads} heads of gloo's, store "
        f"{new.store - old.store} in {seconds:.1f} s, sent again {again:.2%}, "
        f"heads of packets {packets / moved:.2%}"
    )
