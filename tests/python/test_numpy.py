"""NumPy takes a global tensor for what it is on one plain CPU device."""

import operator
import types

import numpy as np
import pytest
import torch
from sklearn import metrics

import torch_mesh as tm
from torch_mesh import arrays

# NumPy says so of torch's own `__array__`, on any device.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
]

MESH = tm.Mesh({"data": 2, "model": 2})
PLACED = ["(R, R)", "(S0, R)", "(S0, S1)", "(S1, S0)", "(R, S1)"]


def values(dtype=torch.float32):
    """Numbers [3, 5]: no axis of the mesh divides them."""
    return (torch.arange(15.0).reshape(3, 5) - 6).to(dtype)


def on_mesh(x, placements="(S0, S1)"):
    return tm.distribute(x, MESH, placements)


A = np.linspace(0.5, 2, 15, dtype="float32").reshape(3, 5)

# Each is a use of a tensor [3, 5], as one plain CPU device has it.
USES = {
    "numpy": lambda x: x.numpy(),
    "numpy(force=False)": lambda x: x.numpy(force=False),
    "numpy(force=True)": lambda x: x.numpy(force=True),
    "numpy of a view": lambda x: x[1:, ::2].numpy(),
    "numpy of a transpose": lambda x: x.t().numpy(),
    "numpy of one number": lambda x: x[1, 2].numpy(),
    "numpy of none": lambda x: x[:0].numpy(),
    "asarray": np.asarray,
    "asarray of a dtype": lambda x: np.asarray(x, "float64"),
    "array": np.array,
    "array of a list": lambda x: np.array(list(x)),
    "__array__": lambda x: x.__array__(),
    "__array__(float16)": lambda x: x.__array__(np.float16),
    "stack": lambda x: np.stack([x, x]),
    "concatenate": lambda x: np.concatenate([x, A]),
    "allclose": lambda x: np.allclose(x, 0),
    "isclose": lambda x: np.isclose(x, A),
    "where": lambda x: np.where(x > 0, x, 0),
    "dot": lambda x: np.dot(A, x.t()),
    "sum of a list": lambda x: np.sum([x, x], axis=0),
    "argmax": lambda x: np.argmax(x, 1),
    "sum": np.sum,  # refused by torch's own `sum`
    "sin": np.sin,
    "greater": lambda x: np.greater(x, 0),
    "add": lambda x: np.add(A, x),
    "index of an array": lambda x: A[x[:, 0].abs().long().clamp(max=2)],
    "index of a list": lambda x: [4, 5, 6, 7][x[2, 0].long() - 3],
    "rows by a mask": lambda x: A[x > 0],
    "assigned to an array": lambda x: A.copy().__setitem__(0, x[0]),
    "tolist": lambda x: x.tolist(),
    "float": lambda x: float(x[0, 0]),
    "list": lambda x: [float(v) for v in list(x)[0]],
    "format": lambda x: f"{x[0, 1]:.3f}",
    "wrong argument": lambda x: x.numpy(1),
    "wrong name": lambda x: x.numpy(copy=True),
    "wrong force": lambda x: x.numpy(force="yes"),
    "mean squared error": lambda x: metrics.mean_squared_error(A, x),
    "roc": lambda x: metrics.roc_auc_score([0, 1, 1], x[:, 0]),
    "accuracy": lambda x: metrics.accuracy_score([0, 1, 2], x.argmax(1)),
    "confusion": lambda x: metrics.confusion_matrix([0, 1, 2], x.argmax(1)),
}
for name in (*("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"), "eq"):
    function = getattr(operator, name)
    USES[f"tensor {name} array"] = lambda x, f=function: f(x, A)
    USES[f"array {name} tensor"] = lambda x, f=function: f(A, x)
    USES[f"number {name} tensor"] = lambda x, f=function: f(np.float32(2), x)
USES["array @ tensor"] = lambda x: A @ x.t()
USES["tensor @ array"] = lambda x: x @ A.T


def outcome(use, x):
    """Kind, dtype and value of what a use gives, or its error."""
    try:
        result = use(x)
    except Exception as error:
        text = str(error).replace("mesh:0", "cpu")
        return type(error).__name__, text, None
    kind = type(result).__name__
    if isinstance(result, torch.Tensor):
        return kind, result.dtype, repr(tm.full(result).tolist())
    if isinstance(result, (np.ndarray, np.generic)):
        return kind, result.dtype, repr(result.tolist())
    return kind, None, repr(result)


@pytest.mark.parametrize("placements", PLACED)
def test_numpy_gives_what_it_gives_for_a_plain_tensor(placements):
    for name, use in USES.items():
        expected = outcome(use, values())
        assert outcome(use, on_mesh(values(), placements)) == expected, name


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool),
        *(torch.complex64, torch.bfloat16),
    ],
)
def test_every_dtype_of_numpy_is_one_and_others_are_torchs_error(dtype):
    x = values(dtype)
    for use in (lambda x: x.numpy(), np.asarray, lambda x: x.t().numpy()):
        assert outcome(use, on_mesh(x)) == outcome(use, x)


def test_an_open_sum_is_formed():
    x = tm.from_shards(
        [torch.full((3,), 1.0 + i) for i in range(4)], MESH, ("P+", "P+")
    )
    assert x.numpy().tolist() == [10.0] * 3
    assert np.asarray(x).tolist() == [10.0] * 3


@pytest.mark.parametrize("force", [False, True])
def test_the_array_is_a_copy_that_cannot_be_written(force):
    for placements in PLACED:
        x = on_mesh(values(), placements)
        array = x.numpy(force=force)
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 7
        x.zero_()
        assert array.tolist() == values().tolist()
        mine = np.array(x)
        mine[0, 0] = 7
        assert x[0, 0] == 0


def test_lazy_conjugates_and_negatives_are_refused_as_in_torch():
    x = torch.arange(4.0) * (1 + 2j)
    for use in (
        lambda x: x.conj().numpy(),
        lambda x: x.conj().numpy(force=True),
        lambda x: x.conj().imag.numpy(),
        lambda x: x.conj().imag.numpy(force=True),
        lambda x: x.conj().resolve_conj().numpy(),
    ):
        there = tm.distribute(x, MESH, "(S0, R)")
        assert outcome(use, there) == outcome(use, x)


def test_a_tensor_that_requires_grad_raises_as_in_torch():
    for x in (values(), on_mesh(values())):
        x.requires_grad_()
        for use in (lambda x: x.numpy(), np.asarray, lambda x: A / x.sum(0)):
            assert use(x.detach()) is not None
        for use in (lambda x: x.numpy(), np.asarray, lambda x: (x * 2).numpy()):
            with pytest.raises(RuntimeError, match="Can't call numpy()"):
                use(x)
        assert x.numpy(force=True).shape == (3, 5)
        with torch.no_grad():
            assert np.asarray(x).shape == (3, 5)


def test_nothing_is_gathered_for_what_is_refused():
    x = on_mesh(values()).requires_grad_()
    with tm.counting() as c:
        with pytest.raises(RuntimeError):
            x.numpy()
        with pytest.raises(TypeError):
            on_mesh(values(torch.bfloat16), "(R, R)").numpy()
    assert not c.collectives


def test_all_arrays_come_from_one_function(monkeypatch):
    seen = []
    original = arrays.whole_on_host

    def whole_on_host(x):
        seen.append(tuple(x.shape))
        return original(x)

    monkeypatch.setattr(arrays, "whole_on_host", whole_on_host)
    x = on_mesh(values())
    for use in (
        lambda x: x.numpy(),
        np.asarray,
        lambda x: x.numpy(force=True),
        lambda x: x.__array__(),
        lambda x: np.asarray(x, np.float64),
        lambda x: metrics.mean_squared_error(A, x),
    ):
        seen.clear()
        use(x)
        assert seen and set(seen) == {(3, 5)}


def test_a_result_of_numpy_is_on_the_mesh():
    with pytest.warns(DeprecationWarning, match="__array_wrap__"):
        y = np.sin(on_mesh(values()))
    assert tm.is_global(y) and tm.layout(y).mesh == MESH
    assert tm.layout(y).placements == ("R", "R")
    with pytest.warns(DeprecationWarning, match="__array_wrap__"):
        assert np.sin(values()).device.type == "cpu"


def test_on_a_mesh_of_gpus_torch_refuses(monkeypatch):
    monkeypatch.setattr(arrays, "is_on_host", lambda x: False)
    x = on_mesh(values())
    for use in (lambda x: x.numpy(), np.asarray, lambda x: np.add(A, x)):
        with pytest.raises(TypeError, match="can't convert mesh:0 device"):
            use(x)
    assert x.numpy(force=True).tolist() == values().tolist()


def test_subclasses_and_modes_see_the_call():
    class Mine(torch.Tensor):
        called = []

        @classmethod
        def __torch_function__(cls, function, kinds, args=(), kwargs=None):
            cls.called.append(function)
            return super().__torch_function__(function, kinds, args, kwargs)

    x = on_mesh(values()).as_subclass(Mine)
    assert x.numpy().tolist() == values().tolist()
    assert torch.Tensor.numpy in Mine.called

    class Mode(torch.overrides.TorchFunctionMode):
        called = []

        def __torch_function__(self, function, kinds, args=(), kwargs=None):
            self.called.append(function)
            return function(*args, **(kwargs or {}))

    with Mode() as mode:
        assert on_mesh(values()).numpy().tolist() == values().tolist()
    assert torch.Tensor.numpy in mode.called


def test_a_plain_tensor_has_torchs_own_method_in_c():
    """No frame of Python stands before it, and memory is shared as ever."""
    assert isinstance(torch.Tensor.numpy, types.MethodDescriptorType)
    assert torch.Tensor.numpy.__doc__ == torch._C.TensorBase.numpy.__doc__
    x = values()
    x.numpy()[0, 0] = 9
    assert x[0, 0] == 9
    fake = torch.empty(2, device="meta")
    with pytest.raises(TypeError):
        fake.numpy()
    with pytest.raises(TypeError, match="descriptor"):
        torch.Tensor.numpy(3)


def test_separate_memories_give_the_same_arrays(separate_memories):
    for placements in PLACED:
        x = on_mesh(values(), placements)
        assert x.numpy().tolist() == values().tolist()
        x += 1
        assert np.asarray(x).tolist() == (values() + 1).tolist()
