"""Misuse: the exception that plain torch raises, words that help, law 15.

After each misuse its arguments are what they were, or are marked broken and a
whole overwrite heals them; other tensors and later ops are as if nothing was.
"""

import re
import warnings

import pytest
import torch
from misuses import World, read_table
from placing import assert_close, assert_equal
from test_error_codes import sections

import torch_mesh as tm
from torch_mesh import _C

OF_TORCH = read_table("torch")
OF_MESH = read_table("mesh")

# Placements for a tensor of so many dims; on a mesh of these sizes; whether
# each device has a memory of its own.
LAYOUTS = {
    "replicated": ({"data": 2}, lambda value: ("R",), False),
    "rows": ({"data": 2}, lambda value: ("S0",), False),
    "columns": ({"data": 3}, lambda value: (f"S{value.dim() - 1}",), False),
    "blocks": (
        {"data": 2, "model": 2},
        lambda value: ("S0", f"S{value.dim() - 1}"),
        True,
    ),
    "sums": (
        {"data": 2},
        lambda value: ("P+" if value.dtype.is_floating_point else "R",),
        True,
    ),
}


def world_of(name):
    """A World in this layout, a plain one under "plain"."""
    if name == "plain":
        return World(lambda value: value.detach().clone(), None)
    axes, placements, separate = LAYOUTS[name]
    _C.separate_cpu_memories(separate)
    mesh = tm.Mesh(axes)

    def place(value):
        whole = ("R",) * len(mesh.axes)
        return tm.distribute(
            value, mesh, placements(value) if value.dim() else whole
        )

    return World(place, mesh)


def error_of(call, world):
    """What the misuse raises; None for nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(world)
        except Exception as error:
            # Without its traceback, which would keep tensors alive.
            return error.with_traceback(None)
    return None


class Facts:
    """What must be as before: values, layouts, metadata, torch's state."""

    def __init__(self, world):
        self.world = world
        self.values = {}
        for name, tensor in world.tensors().items():
            self.values[name] = tm.full(tensor.detach())
        self.metadata = self._metadata()
        self.state = self._state()

    def _metadata(self):
        return {
            name: (
                tensor.shape,
                tensor.dtype,
                tensor.stride(),
                tensor.storage_offset(),
                tensor.requires_grad,
                tensor.is_leaf,
                tm.layout(tensor) if tm.is_global(tensor) else None,
            )
            for name, tensor in self.world.tensors().items()
        }

    def _state(self):
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            tm.current_mesh(),
        )

    def check(self, breaks, plain):
        """`plain`: the plain world, after the same misuse."""
        assert self._metadata() == self.metadata
        assert self._state() == self.state
        for name, tensor in self.world.tensors().items():
            try:
                value = tm.full(tensor.detach())
            except RuntimeError as error:
                assert "[broken-tensor]" in str(error)
                assert name in breaks
                with torch.no_grad():
                    tensor.copy_(self.values[name])
                value = tm.full(tensor.detach())
            if name in breaks:
                # Plain torch may have written some of it; so may we.
                expected = plain.tensors()[name].detach()
                if torch.equal(value, expected):
                    continue
            assert_equal(value, self.values[name])


def check_later_ops(world):
    """Forward, backward, a write and a view, on tensors of the world."""
    results = []
    for where in (world, None):
        x, w = world.x, world.leaf.detach()
        if where is None:
            x, w = tm.full(x), tm.full(w)
        w = w.clone().requires_grad_()
        y = (x @ w).relu()
        y.sum().backward()
        z = x.clone()
        z[1:, 2:].mul_(3)
        results.append([y.detach(), w.grad, z])
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected)


@pytest.fixture(scope="module", autouse=True)
def one_seed():
    """Misuses of random ops draw numbers, or not: others must not see it."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OF_TORCH)
def test_misuse_raises_what_plain_torch_raises(name, layout):
    misuse = OF_TORCH[name]
    plain = world_of("plain")
    expected = error_of(misuse.make, plain)
    assert expected is not None, "plain torch raises nothing"
    world = world_of(layout)
    before = Facts(world)
    error = error_of(misuse.make, world)
    assert error is not None, f"plain torch raises {expected!r}"
    assert type(error) is type(expected), error
    for text in misuse.says:
        assert text in str(error)
    before.check(misuse.breaks, plain)
    check_later_ops(world)


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize("name", OF_MESH)
def test_misuse_of_the_mesh_says_what_to_do(name, layout):
    misuse = OF_MESH[name]
    world = world_of(layout)
    before = Facts(world)
    error = error_of(misuse.make, world)
    assert error is not None
    assert type(error) is misuse.raises, error
    for text in misuse.says:
        assert text in str(error)
    # What torch says by itself for any device has no Hint.
    assert "Hint: " in str(error) or "Use Tensor.cpu()" in str(error)
    code = re.search(r"\[([a-z-]+)\]$", str(error).strip())
    if code or misuse.raises is not TypeError:
        assert code.group(1) in sections()
    before.check(misuse.breaks, None)
    check_later_ops(world)


def test_there_are_enough():
    assert len(OF_TORCH) + len(OF_MESH) >= 150


# --- what is left half written ------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one", "separate"])
def half_written(request):
    """A tensor of which the last of three devices could not write its part."""
    _C.separate_cpu_memories(request.param)
    mesh = tm.Mesh({"data": 3})
    x = tm.distribute(torch.zeros(4, 6), mesh, ("S1",))
    rows = torch.tensor([[0, 1, 2, 3, 0, 9]])
    view = x[1:]
    with pytest.raises(RuntimeError, match="index 9 is out of bounds"):
        x.scatter_(0, tm.distribute(rows, mesh, ("S1",)), 1.0)
    return x, view


def test_each_read_of_a_broken_tensor_names_the_first_error(half_written):
    x, view = half_written
    reads = [
        lambda: tm.full(x),
        lambda: x + 1,
        lambda: x[0],
        lambda: view.sum().item(),
        lambda: x.cpu(),
        lambda: tm.shards(x),
        lambda: tm.redistribute(x, ("R",)),
        lambda: torch._foreach_mul([x], 2),
        lambda: x.add_(1),
        lambda: x.__setitem__(0, 1.0),
        lambda: x.detach().clone(),
    ]
    for read in reads:
        with pytest.raises(RuntimeError) as error:
            read()
        assert "index 9 is out of bounds" in str(error.value)
        assert "[broken-tensor]" in str(error.value)
    assert tm.layout(x).placements == ("S1",)
    assert x.shape == (4, 6)


OVERWRITES = {
    "copy_": lambda x: x.copy_(torch.ones(4, 6)),
    "copy_ of its layout": lambda x: x.copy_(
        tm.distribute(torch.ones(4, 6), tm.layout(x))
    ),
    "fill_": lambda x: x.fill_(2),
    "zero_": lambda x: x.zero_(),
    "uniform_": lambda x: x.uniform_(),
    "out": lambda x: torch.add(torch.ones(4, 6), 1, out=x),
    "every row": lambda x: x.__setitem__(slice(None), 3.0),
}


@pytest.mark.parametrize("name", OVERWRITES)
def test_a_whole_overwrite_mends_a_broken_tensor(name, half_written):
    x, view = half_written
    expected = torch.zeros(4, 6)
    state = torch.get_rng_state()
    OVERWRITES[name](x)
    torch.set_rng_state(state)
    if name == "copy_ of its layout":
        expected.fill_(1)
    else:
        OVERWRITES[name](expected)
    assert_equal(x, expected)
    assert_equal(view, expected[1:])
    assert_equal(x + 1, expected + 1)


def test_an_overwrite_that_fails_mends_nothing(half_written):
    x, _ = half_written
    for overwrite in (
        lambda: x.copy_(torch.ones(5, 6)),
        lambda: x.fill_(1j),
        lambda: x.normal_(0, -1),
    ):
        with pytest.raises(RuntimeError):
            overwrite()
        with pytest.raises(RuntimeError, match="broken-tensor"):
            tm.full(x)


def test_an_error_before_the_first_write_breaks_nothing(separate_memories):
    x = tm.distribute(torch.ones(4, 6), tm.Mesh({"data": 2}), ("S0",))
    for write in (
        lambda: x.bitwise_and_(x),
        lambda: x.copy_(torch.ones(5, 6)),
        lambda: x.masked_fill_(x, 1.0),
        lambda: x.index_add_(0, x, x),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            write()
        assert_equal(x, torch.ones(4, 6))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_misuse_of_a_compiled_function_raises_as_plain(layout):
    compiled = torch.compile(lambda a, b: a @ b, backend="eager")
    expected = error_of(lambda t: compiled(t.x, t.y), world_of("plain"))
    torch._dynamo.reset()
    world = world_of(layout)
    before = Facts(world)
    error = error_of(lambda t: compiled(t.x, t.y), world)
    torch._dynamo.reset()
    assert type(error) is type(expected)
    before.check((), None)
    check_later_ops(world)
