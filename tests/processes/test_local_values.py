"""Values that one process reads, and prints, without the others."""

from tests.processes import spawn

# Process 1 sleeps while process 0 reads: who waited for it would be late.
PROGRAM = """
import time
mesh = tm.Mesh({"rows": 2, "columns": 2}, tm.list_devices("cpu"))
whole = torch.arange(24.0).reshape(6, 4)
same = tm.distribute(whole, mesh, ("R", "R"))
rows = tm.distribute(whole, mesh, ("S0", "R"))
both = tm.distribute(whole, mesh, ("S0", "S1"))
columns = tm.distribute(whole, mesh, ("R", "S1"))
weight = same.clone().requires_grad_()
pending = both.sum()
names = ["cpu:0", "cpu:2", "cpu:3", "cpu:1"]
crossed = tm.Mesh({"rows": 2, "columns": 2}, names)
corners = tm.distribute(whole, crossed, ("S0", "S1"))
if me == 0:
    begin = time.monotonic()
    assert torch.equal(tm.local_value(same), whole)
    assert torch.equal(tm.local_value(weight), whole)
    assert not tm.local_value(weight).requires_grad
    assert torch.equal(tm.local_value(rows), whole[:3])
    assert torch.equal(tm.local_value(both), whole[:3])
    assert torch.equal(tm.local_value(columns), whole)
    assert torch.equal(tm.local_value(both.t()), whole[:3].t())
    own = tm.local_value(same)
    own += 1
    assert torch.equal(tm.local_value(same), whole)
    for x, name in (pending, "[pending-sum]"), (corners, "[no-block]"):
        try:
            tm.local_value(x)
        except ValueError as error:
            assert name in str(error), error
        else:
            raise AssertionError(name)
    assert repr(same[0]) == (
        "tensor([0., 1., 2., 3.], size=(4,), layout=(R, R))"
    ), repr(same[0])
    assert repr(rows[:, 0]) == (
        "tensor([0., 4., 8.], size=(6,), layout=(S0, R), "
        "of which process 0 has this)"
    ), repr(rows[:, 0])
    shown = repr(pending)
    assert shown.startswith("tensor(..., size=(), layout="), shown
    assert "requires_grad=True" in repr(weight)
    assert time.monotonic() - begin < 3, time.monotonic() - begin
else:
    time.sleep(4)
    assert torch.equal(tm.local_value(rows), whole[3:])
    assert torch.equal(tm.local_value(columns), whole)
assert float(pending) == 276.0
assert float(tm.local_value(pending)) == 276.0
"""


def test_one_process_reads_without_the_other():
    spawn.check(
        PROGRAM,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "2"},
    )
