"""`torch.mesh` and `tm.memory` answer with figures that are true."""

import copy
import gc

import numpy as np
import pytest
import torch
from placing import assert_equal
from programs import run_program
from torch import nn

import torch_mesh as tm

MESH = tm.Mesh({"data": 4})
MiB = 2**20


def test_libraries_find_what_they_ask_a_device_for():
    x = tm.distribute(torch.ones(4), MESH, ("S0",))
    module = torch.get_device_module(x.device)
    assert module is torch.mesh
    with tm.use(MESH):
        assert module.get_device_name() == "mesh of 4 CPU devices"
        properties = module.get_device_properties(x.device)
    assert properties.name == "mesh of 4 CPU devices"
    assert properties.devices == MESH.devices
    free, total = module.mem_get_info()
    assert 0 < free <= total == properties.total_memory
    assert properties.multi_processor_count >= 1
    assert (properties.major, properties.minor) == (0, 0)
    assert module.get_device_capability(0) == (0, 0)
    assert module.is_bf16_supported()
    module.empty_cache()
    module.synchronize()
    with module.device(0):
        pass
    with pytest.raises(ValueError, match="device-name"):
        module.memory_allocated("cpu")


def test_memory_allocated_is_what_the_fullest_device_holds():
    gc.collect()
    torch.mesh.reset_peak_memory_stats()
    before = torch.mesh.memory_stats()
    x = tm.distribute(torch.ones(3 * MiB // 4), tm.Mesh({"data": 2}), ("S0",))
    now = torch.mesh.memory_stats()
    for name in ("cpu:0", "cpu:1"):
        key = f"allocated_bytes.{name}.current"
        assert now[key] - before.get(key, 0) == 3 * MiB // 2
    assert torch.mesh.memory_allocated() == max(
        value
        for key, value in now.items()
        if key.endswith(".current") and ".all." not in key
    )
    assert torch.mesh.memory_allocated() == now["allocated_bytes.all.current"]
    held = torch.mesh.memory_allocated()
    y = x * 2
    assert torch.mesh.memory_allocated() == held + 3 * MiB // 2
    del y
    assert torch.mesh.memory_allocated() == held
    assert torch.mesh.max_memory_allocated() == held + 3 * MiB // 2
    torch.mesh.reset_peak_memory_stats()
    assert torch.mesh.max_memory_allocated() == held
    assert torch.mesh.memory_reserved() == held


def test_the_first_question_finds_what_lives():
    run_program("""
import torch, torch_mesh as tm
mesh = tm.Mesh({"data": 2})
x = tm.distribute(torch.ones(1000), mesh, ("S0",)).requires_grad_()
(x * x).sum().backward()
with tm.memory() as block:
    assert torch.mesh.memory_allocated() == 4000  # x and its gradient
    kept = x.detach() * 3
assert block.now == {"cpu:0": 2000, "cpu:1": 2000}, block.now
assert torch.mesh.memory_allocated() == 6000
x.grad = None
assert torch.mesh.memory_allocated() == 4000
del kept, x
assert torch.mesh.memory_allocated() == 0
assert torch.mesh.max_memory_allocated() == 6000
""")


def test_events_take_times():
    first, last = (torch.mesh.Event(enable_timing=True) for _ in range(2))
    first.record()
    x = tm.distribute(torch.ones(256, 256), MESH, ("S0",))
    (x @ x).sum()
    last.record(torch.mesh.current_stream())
    last.synchronize()
    last.wait()
    assert last.query()
    assert 0 < first.elapsed_time(last) < 60_000
    assert last.elapsed_time(first) < 0
    with pytest.raises(RuntimeError, match="event-timing"):
        torch.mesh.Event().elapsed_time(last)
    with pytest.raises(RuntimeError, match="event-timing"):
        first.elapsed_time(torch.mesh.Event(enable_timing=True))


def test_streams_are_one_order():
    stream = torch.mesh.Stream()
    assert stream.device == torch.device("mesh:0")
    event = stream.record_event()
    stream.wait_event(event)
    stream.wait_stream(torch.mesh.default_stream())
    stream.synchronize()
    assert stream.query() and event.query()
    with torch.mesh.stream(stream) as entered:
        assert entered is stream
    with torch.mesh.stream(None):
        pass


def model_and_optimizer():
    model = nn.Linear(8, 4)
    model.register_buffer("count", torch.ones(3))
    with tm.use(MESH):
        model.to("mesh")
    weight = tm.redistribute(model.weight.detach(), ("S0",))
    model.weight = nn.Parameter(weight)
    optimizer = torch.optim.Adam(model.parameters())
    x = tm.distribute(torch.ones(4, 8), MESH, ("R",))
    model(x).sum().backward()
    optimizer.step()
    return model, optimizer


def test_memory_of_a_model_and_an_optimizer():
    model, optimizer = model_and_optimizer()
    shown = tm.memory(model)
    assert shown.parameters == {f"cpu:{i}": 32 + 16 for i in range(4)}
    assert set(shown.gradients) == set(shown.parameters)
    assert all(n >= 32 + 16 for n in shown.gradients.values())
    assert shown.buffers == {f"cpu:{i}": 12 for i in range(4)}
    assert shown.states == {}
    of_optimizer = tm.memory(optimizer)
    assert of_optimizer.parameters == shown.parameters
    assert of_optimizer.gradients == shown.gradients
    on_mesh = {n: c for n, c in of_optimizer.states.items() if n != "cpu"}
    assert min(on_mesh.values()) >= 2 * (32 + 16)
    for device, count in shown.parameters.items():
        assert shown.peak[device] >= shown.now[device] >= count
    tied = tm.memory([model.weight, model.weight, model.weight.detach()])
    assert tied.parameters == {f"cpu:{i}": 32 for i in range(4)}


def test_memory_prints_a_table():
    model, optimizer = model_and_optimizer()
    lines = str(tm.memory(model)).splitlines()
    assert lines[0].split() == [
        "device", "parameters", "gradients", "buffers", "now", "peak"
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == MESH.devices
    assert lines[1].split()[1:3] == ["48", "B"]
    assert len(set(map(len, lines))) == 1
    assert "states" in str(tm.memory(optimizer)).splitlines()[0]
    with tm.memory() as block:
        kept = tm.distribute(torch.ones(MiB), MESH, ("R",))
    assert kept.shape == (MiB,)
    assert str(block).splitlines()[1].split() == [
        "cpu:0", "4.0", "MiB", "4.0", "MiB"
    ]  # fmt: skip
    assert str(tm.memory()).split() == ["device", "now", "peak"]


def test_memory_of_something_else_is_refused():
    for value in (3, [1, 2], "model"):
        with pytest.raises(TypeError, match="argument-type"):
            tm.memory(value)


# ------------------------------------------------- shards are there to be read

WRITES = {
    "zero_": lambda s: s.zero_(),
    "add_": lambda s: s.add_(1),
    "iadd": lambda s: s.__iadd__(1),
    "setitem": lambda s: s.__setitem__(0, 1.0),
    "setitem_slice": lambda s: s.__setitem__(slice(0, 1), torch.zeros(1, 3)),
    "setitem_mask": lambda s: s.__setitem__(s > 0, 1.0),
    "view": lambda s: s.view(-1)[1:].fill_(2),
    "row": lambda s: s[0].mul_(2),
    "transpose": lambda s: s.t().copy_(torch.zeros(3, 2)),
    "detach": lambda s: s.detach().zero_(),
    "data": lambda s: s.data.zero_(),
    "out": lambda s: torch.add(s, 1, out=s),
    "out_of_another": lambda s: torch.exp(torch.ones(2, 3), out=s),
    "foreach": lambda s: torch._foreach_add_([torch.ones(2), s], 1.0),
    "normal": lambda s: s.normal_(),
    "index_put": lambda s: s.index_put_((torch.tensor([0]),), torch.ones(3)),
    "parameter": lambda s: torch.optim.SGD(
        [_with_gradient(nn.Parameter(s))], lr=1.0
    ).step(),
    "init": lambda s: nn.init.ones_(s),
    "no_grad": lambda s: _quietly(s.zero_),
}


def _with_gradient(p):
    p.grad = torch.ones(p.shape)
    return p


@torch.inference_mode()
def _quietly(function):
    function()


@pytest.mark.parametrize("placement", ["R", "S0"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_to_a_shard_is_refused(name, placement):
    value = torch.arange(12.0).view(4, 3)[: 2 if placement == "R" else 4]
    x = tm.distribute(value, tm.Mesh({"data": 2}), (placement,))
    for shard in tm.shards(x):
        before, version = shard.clone(), shard._version
        with pytest.raises(RuntimeError, match="shards-read-only") as caught:
            WRITES[name](shard)
        assert "from_shards" in str(caught.value)
        assert "map_shards" in str(caught.value)
        assert_equal(shard.clone(), before)
        assert shard._version == version


def test_a_shard_is_read_as_any_tensor():
    value = torch.arange(12.0).view(4, 3)
    x = tm.distribute(value, tm.Mesh({"data": 2}), ("S0",))
    shard, plain = tm.shards(x)[0], value[:2].clone()
    assert type(shard) is torch.Tensor and shard.device.type == "cpu"
    for f in (
        lambda t: t + 1,
        lambda t: t @ torch.ones(3, 2),
        lambda t: t.softmax(1).sum(0),
        lambda t: torch.cat([t, t]),
        lambda t: torch.linalg.svd(t).S,
        lambda t: t.view(-1)[1:4].unsqueeze(0).expand(2, 3).contiguous(),
        lambda t: torch.func.vmap(torch.sum)(t),
        lambda t: nn.functional.linear(t, torch.ones(2, 3)),
        lambda t: t.sort(dim=1, descending=True).values,
        lambda t: t[t > 2],
        lambda t: t.to(torch.float64).cumsum(0),
        lambda t: torch.from_numpy(t.numpy()),
        lambda t: torch.tensor(np.asarray(t)),
        lambda t: torch.stack(list(t)),
        lambda t: copy.deepcopy(t).zero_(),
        lambda t: t.clone().add_(1),
        lambda t: torch.zeros(2, 3).copy_(t),
        lambda t: torch.ones(2, 3).mul_(t),
        lambda t: torch.ones(2, 3).index_add_(0, torch.tensor([1, 0]), t),
    ):
        assert_equal(f(shard), f(plain))
    assert str(shard) == str(plain)
    assert shard.tolist() == plain.tolist() and shard.sum().item() == 15
    weight = torch.ones(2, 3, requires_grad=True)
    (weight * shard).sum().backward()
    assert_equal(weight.grad, plain)
    leaf = tm.shards(x)[1].requires_grad_()
    (leaf * 2).sum().backward()
    assert_equal(leaf.grad, torch.full((2, 3), 2.0))
    other = shard.t_() if hasattr(shard, "t_") else shard
    assert other.shape == (3, 2)
    assert_equal(tm.from_shards(tm.shards(x), tm.layout(x)), value)


def test_a_function_of_shards_may_write_to_its_own():
    x = tm.distribute(torch.ones(4, 3), tm.Mesh({"data": 2}), ("S0",))
    y = tm.map_shards(lambda t: t.add_(1), x, out=("S0",))
    assert_equal(y, torch.full((4, 3), 2.0))
    assert_equal(x, torch.ones(4, 3))


def test_what_torch_asks_an_accelerator_is_answered():
    torch.accelerator.synchronize()
    torch.accelerator.empty_cache()
    for ask in ("memory_allocated", "max_memory_allocated", "memory_stats"):
        with pytest.raises(NotImplementedError, match="accelerator-memory"):
            getattr(torch.accelerator, ask)()
