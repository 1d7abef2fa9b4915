"""Law 14: collectives come from ops."""

import contextlib
import copyreg
import gc
import weakref

import pytest
import torch
from placing import place

import torch_mesh as tm
from torch_mesh import _C


def test_law_14_asking_about_a_tensor_starts_no_collective(mesh):
    x = place(torch.randn(4, 4), mesh, ("S0", "P+"))
    with tm.counting() as counts:
        _ = (x.shape, x.dtype, x.device, tm.layout(x), x.stride())
        _ = (tm.visualize(x), x.is_contiguous(), x.data_ptr(), hash(x))
        _ = (x.detach(), x.view(16), x.t())
        del x
        gc.collect()
    assert counts.collectives == {}


def test_law_14_the_same_program_makes_the_same_collectives(mesh):
    def program():
        torch.manual_seed(3)
        x = tm.distribute(torch.randn(8, 6), mesh, ("S0", "R"))
        w = tm.distribute(torch.randn(6, 4), mesh, ("R", "S1"))
        w.requires_grad_()
        (x @ w).softmax(1).log().mean().backward()
        tm.redistribute(w.grad, ("R", "R"))

    events = []
    for _ in range(2):
        with tm.counting() as counts:
            program()
        events.append(counts.events)
    assert events[0] == events[1]
    assert events[0]


# --- whatever the state ------------------------------------------------------


@pytest.fixture
def apart(separate_memories):
    """A mesh of which no two devices share a memory: all that moves is seen."""
    return tm.Mesh({"data": 2, "model": 2})


@contextlib.contextmanager
def nobody_communicates():
    """Every call of the communicator is an error."""
    _C.refuse_to_communicate_for_testing(True)
    try:
        yield
    finally:
        _C.refuse_to_communicate_for_testing(False)


def laid_out(x, view):
    """A view, the base of which got another layout after it."""
    tm.redistribute_(x, ("R", "S1"))
    return view


def stale_window(x):
    """A write-back window whose base was written since it was taken."""
    window = taken_window(x)
    x.add_(1)
    return window


def taken_window(x):
    window = x[3]
    window.sum()
    return window


def half_written(x):
    """Rows of the first device are in range, those of the second are not."""
    index = torch.tensor([[0], [1], [9], [9]])
    with pytest.raises((RuntimeError, IndexError)):
        x.scatter_(1, tm.distribute(index, x_mesh(x), ("S0", "R")), 5.0)
    return x


def x_mesh(x):
    return tm.layout(x).mesh


def inferred(x):
    with torch.inference_mode():
        return x * 2


def required(x):
    leaf = x.detach().requires_grad_()
    return (leaf * 2).t()


STATES = {
    "held": lambda x: x,
    "alias": lambda x: x[:, 1:3],
    "window never taken": lambda x: x[3],
    "taken window": taken_window,
    "stale window": stale_window,
    "window of another dtype": lambda x: x.view(-1).view(torch.int32)[3:9],
    "pending sum": lambda x: x.t() @ x,
    "window of a pending sum": lambda x: (x.t() @ x)[1:3],
    "transposed pending sum": lambda x: (x.t() @ x).t(),
    "pending sums": lambda x: place(torch.randn(4, 4), x_mesh(x), ("P+", "P+")),
    "reduced elsewhere": lambda x: (s := x.sum(0), s[1:], s.relu())[1],
    "view of another layout by now": lambda x: laid_out(x, x[:, 1:3]),
    "whole of another layout by now": lambda x: laid_out(x, x.detach()),
    "unwritten": torch.empty_like,
    "unwritten without a wish": lambda x: torch.empty(4, 4, device="mesh"),
    "blank": torch.zeros_like,
    "window of a blank": lambda x: torch.zeros_like(x)[3],
    "borrowed": lambda x: tm.borrow(torch.ones(4, 4), x_mesh(x), ("R", "R")),
    "half written": half_written,
    "conjugated": lambda x: x.cfloat().conj(),
    "negated": lambda x: torch._neg_view(x.t() @ x),
    "made in inference mode": inferred,
    "with a gradient function": required,
    "raw bytes": lambda x: torch.empty(0, device="mesh").set_(
        torch.UntypedStorage(64, device="mesh")
    ),
    "empty": lambda x: x[:0],
}


def described(x):
    module = torch.nn.Module()
    module.register_buffer("weight", x)
    return str(tm.describe(module))


def profiled(x):
    """What the profiler reads of the arguments of an op: sizes and dtypes."""
    with torch.profiler.profile(record_shapes=True, profile_memory=True) as p:
        torch.ops.profiler._record_function_enter_new("a question", None)
        x.detach()
    return [event.input_shapes for event in p.events()]


def storage_in_words(x):
    """What a debugger shows of a storage but its values."""
    storage = x.untyped_storage()
    return (
        type(storage),
        torch.typename(storage),
        storage.device,
        storage.nbytes(),
        len(storage),
        storage._cdata,
        x.type(),
        torch.storage.TypedStorage(
            wrap_storage=storage, dtype=x.dtype, _internal=True
        ).dtype,
    )


QUESTIONS = {
    "layout": tm.layout,
    "text of the layout": lambda x: str(tm.layout(x)),
    "visualize": lambda x: str(tm.visualize(x)),
    "memory": lambda x: str(tm.memory()),
    "memory of tensors": lambda x: str(tm.memory([x.detach()])),
    "describe": described,
    "sizes": lambda x: (x.shape, x.size(), x.numel(), x.dim(), len(x)),
    "strides": lambda x: (x.stride(), x.storage_offset(), x.dim_order()),
    "is_contiguous": lambda x: (
        x.is_contiguous(),
        x.is_contiguous(memory_format=torch.channels_last),
        torch.ops.aten.is_non_overlapping_and_dense(x),
    ),
    "lazy bits": lambda x: (x.is_conj(), x.is_neg()),
    "dtype": lambda x: (x.dtype, x.itemsize, x.is_floating_point()),
    "device": lambda x: (x.device, x.get_device(), x.is_cpu, x.layout),
    "hash": lambda x: (hash(x), id(x), weakref.ref(x)),
    "data_ptr": lambda x: (x.data_ptr(), x.untyped_storage().data_ptr()),
    "is_shared": lambda x: (x.is_shared(), x.is_pinned()),
    "bytes": lambda x: (x.element_size(), x.nbytes),
    "autograd": lambda x: (x.grad_fn, x.is_leaf, x.requires_grad),
    "version": lambda x: None if x.is_inference() else x._version,
    "metadata of a pickle": lambda x: (
        torch._utils.get_tensor_metadata(x),
        copyreg.dispatch_table.get(type(x)),
        torch._utils._get_restore_location(x.device),
        x.__dict__,
    ),
    "profiler": profiled,
    "text of the storage": storage_in_words,
    "is_global": tm.is_global,
    "an alias": lambda x: x.detach(),
    "aliasing": lambda x: (
        x.is_set_to(x),
        torch._C._is_alias_of(x, x),
        x._is_view(),
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("state", STATES)
def test_law_14_a_question_moves_and_changes_nothing(apart, state, question):
    with tm.use(apart):
        x = place(torch.randn(4, 4), apart, ("S0", "R"))
        y = STATES[state](x)
        before = _C.state_text(y)
        with nobody_communicates(), tm.counting() as counts:
            QUESTIONS[question](y)
        assert _C.state_text(y) == before
        assert counts.collectives == {}
        assert counts.moved == {}


@pytest.mark.parametrize("state", [s for s in STATES if s != "half written"])
def test_law_14_the_layout_asked_for_is_that_of_the_value(apart, state):
    with tm.use(apart):
        x = place(torch.randn(4, 4), apart, ("S0", "R"))
        y = STATES[state](x)
        layout = tm.layout(y)
        y.cpu()
        assert tm.layout(y) == layout or "P+" in str(layout)


def test_law_14_what_needs_others_is_refused_where_nobody_communicates(apart):
    x = place(torch.ones(4, 4), apart, ("S0", "P+"))
    with nobody_communicates(), pytest.raises(RuntimeError, match="all_reduce"):
        x.cpu()
    y = place(torch.ones(4, 4), apart, ("S0", "P+"))
    before = _C.state_text(y)
    y.cpu()
    assert _C.state_text(y) != before
