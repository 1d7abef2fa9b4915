"""Two processes on one machine: the job, its collectives, replicate_model."""

import pytest
import spawn


def test_a_job_of_two_and_its_collectives():
    spawn.check("""
    assert distribution_lib.num_processes() == 2
    assert distribution_lib.process_id() == me
    assert distribution_lib.is_distributed()
    lib = distribution_lib

    # The same random numbers everywhere.
    drawn = lib.gather_tensor(torch.rand(3)[None])
    assert torch.equal(drawn[0], drawn[1])

    # Each dtype, also those that gloo does not know.
    for dtype in lib.all_reduce.__globals__["_DTYPES"]:
        x = torch.tensor([1, 0, 1]).to(dtype) * (me + 1)
        x = x.to(dtype)
        total = lib.all_reduce(x)
        expected = torch.tensor([1, 0, 1]) * (1 if dtype == torch.bool else 3)
        assert total.dtype == dtype
        assert torch.equal(total, expected.to(dtype)), dtype
        sent = lib.broadcast(x, src=1)
        assert torch.equal(sent, (torch.tensor([1, 0, 1]) * 2).to(dtype))
        assert torch.equal(lib.gather_tensor(x)[3 * me :][:3], x)
    numbers = torch.tensor([[1.0, -2.0], [3.0, 4.0]])[me]
    for op, expected in {
        "sum": [4.0, 2.0], "mean": [2.0, 1.0],
        "max": [3.0, 4.0], "min": [1.0, -2.0],
    }.items():
        assert lib.all_reduce(numbers, op).tolist() == expected, op
    assert lib.all_reduce(torch.tensor(me + 1.0)).item() == 3.0
    assert lib.all_reduce(np.float32([1, 2])).tolist() == [2.0, 4.0]
    assert lib.all_reduce(torch.ones(0, 3)).shape == (0, 3)
    v = keras.Variable(np.float32([me]))
    assert lib.all_reduce(v).tolist() == [1.0]
    before = numbers.clone()
    lib.all_reduce(numbers), lib.broadcast(numbers)
    assert torch.equal(numbers, before)  # arguments stay

    # Uneven parts, and a part of none; strides do not matter.
    for size in (5, 4, 1, 0):
        whole = torch.arange(3.0 * size).reshape(3, size)
        mine = whole if me == 0 else torch.zeros(3, size)
        part = lib.scatter_tensor(mine, dim=-1)
        chunk = -(-size // 2)
        assert torch.equal(part, whole[:, me * chunk : (me + 1) * chunk])
        assert torch.equal(lib.gather_tensor(part, dim=1), whole)
        turned = lib.gather_tensor(part.t(), dim=0)
        assert torch.equal(turned, whole.t())
    pieces = lib.gather_tensor(torch.full((me + 1, 2), float(me)))
    assert pieces.tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]

    # A global tensor has one value, here as with one process.
    mesh = tm.Mesh({"data": 2}, tm.list_local_devices()[:2])
    g = tm.distribute(torch.arange(6.0), mesh, ("S0",))
    assert lib.all_reduce(g.sum()).item() == 15.0
    assert tm.layout(lib.gather_tensor(g)).placements == ("R",)
    assert torch.equal(tm.full(lib.scatter_tensor(g)), torch.arange(6.0))
    """)


def test_gradients_of_collectives():
    """Those of one program whose loss is the sum over the processes."""
    spawn.check("""
    lib = distribution_lib
    torch.manual_seed(0)
    xs = torch.randn(2, 3, 2)
    ws = torch.randn(2, 6, 2)

    def gradient(collective, weights):
        x = xs[me].clone().requires_grad_()
        y = collective(x)
        (y * weights[: y.shape[0]]).sum().backward()
        return x.grad

    def expected(whole, weights):
        both = xs.clone().requires_grad_()
        loss = 0
        for process in range(2):
            y = whole(both, process)
            loss = loss + (y * weights[process][: y.shape[0]]).sum()
        loss.backward()
        return both.grad[me]

    cases = [
        (lib.all_reduce, lambda x, _: x.sum(0)),
        (lambda x: lib.all_reduce(x, "mean"), lambda x, _: x.mean(0)),
        (lambda x: lib.broadcast(x, 1), lambda x, _: x[1]),
        (lib.gather_tensor, lambda x, _: x.reshape(6, 2)),
        (lib.scatter_tensor, lambda x, i: x[0][2 * i : 2 * i + 2]),
    ]
    for ours, whole in cases:
        torch.testing.assert_close(
            gradient(ours, ws[me]), expected(whole, ws)
        )
    x = xs[me].clone().requires_grad_()
    try:
        lib.all_reduce(x, "max").sum().backward()
        raise SystemExit("no error")
    except NotImplementedError as error:
        assert "[no-gradient]" in str(error)
    """)


def test_processes_that_ask_for_different_things_learn_so():
    spawn.check("""
    lib = distribution_lib
    def fails(call, *words):
        try:
            call()
        except ValueError as error:
            assert all(w in str(error) for w in words), str(error)
        else:
            raise SystemExit("no error")

    fails(lambda: lib.all_reduce(torch.ones(2 + me)),
          "process 0  all_reduce(float32[2], op=sum)",
          "process 1  all_reduce(float32[3], op=sum)", "[processes-differ]")
    fails(lambda: [lib.all_reduce, lib.broadcast][me](torch.ones(2)),
          "process 1  broadcast(float32[2], src=0)", "[processes-differ]")
    fails(lambda: lib.all_reduce(torch.ones(2), ["sum", "max"][me]), "op=max")
    fails(lambda: lib.broadcast(torch.ones(2), src=me), "src=1")
    fails(lambda: lib.gather_tensor(torch.ones(2), dim=1), "[layout-dim]")
    fails(lambda: lib.broadcast(torch.ones(2), src=2), "[process-id]")
    fails(lambda: lib.all_reduce(torch.ones(2).int(), "mean"), "[unknown-op]")
    fails(lambda: lib.all_reduce(torch.ones(2, device="meta")), "meta")
    # ... and the job goes on.
    assert lib.all_reduce(torch.ones(2)).tolist() == [2.0, 2.0]
    """)


TRAIN = """
lib = distribution_lib
keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
y = (x @ np.ones((6, 1), "float32")) ** 2

def build():
    model = keras.Sequential([
        keras.Input((6,)),
        keras.layers.Dense(8, activation="tanh"),
        keras.layers.Dense(1),
    ])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model

alone = build()
model = build()
model.set_weights(alone.get_weights())
if me:  # replicate_model begins with the weights of process 0
    model.set_weights([w * 0 for w in model.get_weights()])
"""


def test_a_keras_model_fits_as_on_one_process():
    spawn.check(
        TRAIN
        + """
assert lib.replicate_model(model) is model
assert lib.replicate_model(model) is model
mine = slice(8 * me, 8 * me + 8)
model.fit(x[mine], y[mine], batch_size=4, epochs=3, shuffle=False, verbose=0)
# One process sees the same batches: rows of both processes, step by step.
rows = np.concatenate([np.r_[0:4, 8:12], np.r_[4:8, 12:16]])
alone.fit(x[rows], y[rows], batch_size=8, epochs=3, shuffle=False, verbose=0)
for a, b in zip(model.get_weights(), alone.get_weights()):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
whole = lib.gather_tensor(torch.from_numpy(model.predict(x[mine], verbose=0)))
np.testing.assert_allclose(
    whole, alone.predict(x, verbose=0), rtol=1e-4, atol=1e-4
)
# A model under DDP is still a model: it saves, and is called symbolically.
model(keras.Input((6,)))
assert model.get_config()["layers"]
"""
    )


FROZEN = """
lib = distribution_lib
x = np.random.default_rng(me).normal(size=(8, 5)).astype("float32")
y = x[:, :3] * (me + 1)
model = keras.Sequential([
    keras.Input((5,)), keras.layers.Dense(8), keras.layers.Dense(3),
])
base, head = model.layers

def train(base_trains, head_trains):
    model.trainable = True
    base.trainable, head.trainable = base_trains, head_trains
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    for v, old in zip(model.variables, before):
        both = lib.gather_tensor(v.value.detach()[None])
        assert torch.equal(both[0], both[1]), v.path
        changed = not np.array_equal(old, v.numpy())
        assert changed == v.trainable, v.path
"""


@pytest.mark.parametrize("again", ["", "lib.replicate_model(model)"])
def test_layers_may_be_frozen_and_thawed(again):
    """The averages are always those of what is trained."""
    spawn.check(
        FROZEN
        + f"""
base.trainable = False
lib.replicate_model(model)
for trains in [(0, 1), (1, 1), (1, 0), (1, 1)]:
    {again or "pass"}
    train(*map(bool, trains))
"""
    )


def test_a_model_may_be_frozen_as_a_whole():
    spawn.check(
        FROZEN
        + """
if me:
    model.set_weights([w * 0 for w in model.get_weights()])
model.trainable = False
lib.replicate_model(model)
for v in model.variables:
    both = lib.gather_tensor(v.value.detach()[None])
    assert torch.equal(both[0], both[1]), v.path
model(x, training=True)
train(True, True)
"""
    )


def test_fit_ends_with_one_set_of_moving_statistics():
    spawn.check("""
    lib = distribution_lib
    model = keras.Sequential([
        keras.Input((4,)), keras.layers.BatchNormalization(),
        keras.layers.Dense(2),
    ])
    model.compile("adam", "mse")
    lib.replicate_model(model)
    x = np.random.default_rng(me).normal(me, size=(16, 4))
    history = model.fit(x, x[:, :2], batch_size=4, verbose=0)
    assert history.history["loss"]
    norm = model.layers[0]
    for v in (norm.moving_mean, norm.moving_variance):
        both = lib.gather_tensor(v.value.detach()[None])
        assert torch.equal(both[0], both[1]), v.path
        assert not torch.equal(both[0], torch.ones(4) * both[0][0])
    """)


def test_a_custom_loop_and_moving_statistics():
    spawn.check("""
    lib = distribution_lib
    keras.utils.set_random_seed(3 + me)  # different weights, made equal
    model = keras.Sequential([
        keras.Input((4,)), keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5), keras.layers.Dense(2),
    ])
    lib.replicate_model(model)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    for step in range(3):
        loss = model(torch.randn(8, 4), training=True).square().mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            optimizer.apply(
                [v.value.grad for v in model.trainable_variables],
                model.trainable_variables,
            )
    model(torch.randn(8, 4), training=True)
    for v in model.trainable_variables:
        both = lib.gather_tensor(v.value.detach()[None])
        assert torch.equal(both[0], both[1]), v.path
    """)


def test_a_torch_module_is_under_ddp():
    spawn.check("""
    lib = distribution_lib
    torch.manual_seed(me)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)
    )
    replicated = lib.replicate_model(module)
    assert isinstance(replicated, torch.nn.parallel.DistributedDataParallel)
    assert lib.replicate_model(replicated) is replicated
    first = torch.cat([p.detach().flatten() for p in module.parameters()])
    both = lib.gather_tensor(first[None])
    assert torch.equal(both[0], both[1])
    torch.manual_seed(5)
    x = torch.randn(8, 3)
    replicated(lib.scatter_tensor(x)).square().mean().backward()
    mine = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    module(x).square().mean().backward()
    for a, p in zip(mine, module.parameters()):
        torch.testing.assert_close(a, p.grad)
    """)


def test_devices_of_a_job_and_meshes_over_them():
    spawn.check(
        """
    lib = distribution_lib
    everyone = [f"cpu:{i}" for i in range(5)]
    assert keras.distribution.list_devices() == everyone == tm.list_devices()
    assert keras.distribution.get_device_count("cpu") == 5
    assert lib.list_devices("tpu") == [] == lib.list_local_devices("gpu")
    own = [["cpu:0", "cpu:1"], ["cpu:2", "cpu:3", "cpu:4"]][me]
    assert lib.list_local_devices() == own
    distribution = keras.distribution.DataParallel()
    assert distribution.num_processes == 2
    mesh = distribution.device_mesh.backend_mesh
    assert mesh.devices == everyone and mesh.processes == [0, 1]
    assert mesh == tm.Mesh({"batch": 5})
    def fails(call, kind, code):
        try:
            call()
        except kind as error:
            assert code in str(error), str(error)
        else:
            raise SystemExit("no error")
    set_distribution = keras.distribution.set_distribution
    other = [["cpu:2"], ["cpu:0"]][me]
    for devices, kind, code in [(["cpu:9"], ValueError, "[no-such-device]"),
                                (other, RuntimeError, "[not-on-mesh]")]:
        fails(lambda: set_distribution(
            keras.distribution.DataParallel(devices=devices)), kind, code)
    # A mesh of this process's own devices is as in one process.
    set_distribution(keras.distribution.DataParallel(devices=own))
    x = lib.scatter_tensor(torch.arange(6.0))
    assert tm.layout(x).mesh.devices == own
    assert x.sum().item() == 15.0
    assert list(tm.memory([x]).parameters) == own
    with tm.memory() as memory:
        y = x * 2
    assert list(memory.peak) == own, memory
    assert set(tm.memory([y]).now) <= set(own)
    """,
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": str(2 + i)},
    )


def test_dtensors_of_two_processes():
    spawn.check("""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import (
        DTensor, Partial, Replicate, Shard, distribute_tensor,
    )
    import copy
    for shape in [(5, 4), (1, 3), (4, 4)]:
        whole = torch.arange(float(np.prod(shape))).reshape(shape)
        mesh = tm.Mesh({"data": 2}, tm.list_local_devices()[:2])
        for placement, theirs in [
            ("S0", Shard(0)), ("S1", Shard(1)), ("R", Replicate())
        ]:
            g = tm.distribute(whole, mesh, (placement,))
            d = tm.to_dtensor(g)
            assert d.placements == (theirs,), d.placements
            assert d.device_mesh.mesh_dim_names == ("data",)
            assert d.shape == whole.shape
            reference = distribute_tensor(whole, d.device_mesh, [theirs])
            assert torch.equal(d.to_local(), reference.to_local())
            assert torch.equal(d.full_tensor(), whole)
            back = tm.from_dtensor(d)
            assert tm.layout(back) == tm.layout(g)
            assert torch.equal(tm.full(back), whole)
    g = tm.distribute(torch.ones(4, 6), mesh, ("S1",))
    p = torch.ones(2, 4) @ g.new_ones(4, 6) if False else g.sum(1)
    assert tm.layout(p).placements == ("P+",)
    d = tm.to_dtensor(p)
    assert d.placements == (Partial(),)
    assert torch.equal(d.full_tensor(), torch.full((4,), 6.0))
    assert torch.equal(tm.full(tm.from_dtensor(d)), torch.full((4,), 6.0))

    # Gradients, through both ways.
    a = tm.distribute(torch.arange(8.0), mesh, ("S0",)).requires_grad_()
    d = tm.to_dtensor(a * 2)
    (tm.from_dtensor(d * d) * torch.arange(8.0)).sum().backward()
    expected = 8 * torch.arange(8.0) ** 2
    assert torch.equal(tm.full(a.grad), expected), a.grad
    try:
        four = tm.Mesh({"data": 4}, tm.list_local_devices())
        tm.to_dtensor(tm.distribute(whole, four, ("S0",)))
        raise SystemExit("no error")
    except ValueError as error:
        assert "[dtensor-mesh]" in str(error)
    # A DTensor is an input like any other.
    layout = tm.Layout(mesh, ("S0",))
    placed = distribution_lib.distribute_tensor(tm.to_dtensor(g), layout)
    assert tm.layout(placed).placements == ("S0",)
    assert torch.equal(tm.full(placed), torch.ones(4, 6))
    # Its mesh holds groups to the end, and is known to who ends them.
    from torch_mesh import ending
    assert any(mesh is d.device_mesh for mesh in ending._meshes.values())
    """)
