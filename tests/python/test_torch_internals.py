"""What the package knows of torch that torch does not promise, asked of torch.

docs/torch-internals.md lists all of it, each with its check here or in
src/device/compat_checks.cpp.
"""

import inspect
import re
import threading
from pathlib import Path

import private_names
import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "torch-internals.md").read_text()
# name -> the files that rely on it, and what is relied on
ROWS = {
    name: (re.findall(r"`([^`]+)`", files), relied_on)
    for name, files, relied_on in re.findall(
        r"^\| `([a-z0-9-]+)` \| (`[^|]+`) \| ([^|]+) \|", PAGE, re.MULTILINE
    )
}
HINT = f"torch {torch.__version__}: see docs/torch-internals.md, "

IN_CPP = {name: (source, run) for name, source, run in _C.compat_checks()}


def of_the_context_without_dispatch():
    with torch._C._DisableTorchDispatch():
        return torch.ones(2).sum().item() == 2


def of_the_profiler():
    return torch.autograd._profiler_enabled() is False


def of_the_kernel_table():
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return has("aten::mm", "CPU") and not has("aten::matmul", "CPU")


def of_jagged_tensors():
    from torch.nested._internal import nested_tensor, ops

    return callable(ops.jagged_scaled_dot_product_attention) and callable(
        nested_tensor.nested_view_from_values_offsets_lengths
    )


def of_the_graph_task():
    return torch._C._current_graph_task_id() == -1


def of_the_archive():
    writer = torch.serialization._open_zipfile_writer
    return (
        callable(writer)
        and hasattr(torch._C, "PyTorchFileWriter")
        and callable(torch.storage._StorageBase.cpu)
    )


def of_the_copy_of_lists():
    to, lists = [torch.zeros(2)], [torch.ones(2)]
    torch._foreach_copy_(to, lists)
    return torch.equal(to[0], lists[0])


def of_a_scheduler_of_rates():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    calls = []

    def step():
        raise AssertionError

    step.__func__ = lambda self: calls.append(self)
    optimizer.step = step
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    return calls == [optimizer]


def of_norms_of_gradients():
    from torch.nn.utils import clip_grad

    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    calls = []

    def norm(tensors, *more):
        calls.extend(tensors)
        return torch.ones(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_grad, "_get_total_norm", norm)
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
    return calls == [weight.grad]


def of_printing():
    import torch._tensor_str as tensor_str

    return {"self", "tensor_contents"} <= set(
        inspect.signature(tensor_str._str).parameters
    )


def of_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch._subclasses.functional_tensor import FunctionalTensor

    with FakeTensorMode():
        fake = torch.ones(2)
    return not isinstance(fake, FunctionalTensor) and type(fake) is not (
        torch.Tensor
    )


def of_the_accelerator():
    return callable(torch._C._accelerator_getAccelerator) and callable(
        torch._C._get_accelerator
    )


def of_the_device_module():
    return callable(torch._register_device_module)


def of_objects_of_a_thread():
    seen = []
    other = threading.Thread(target=lambda: seen.append(tm.current_mesh()))
    with tm.use(tm.Mesh({"rows": 2})):
        other.start()
        other.join()
        return tm.current_mesh() is not None and seen == [None]


def of_the_objects_of_tensors():
    def made():
        rows = [[1.0], [2.0]]
        return torch.tensor(rows).to("mesh"), torch.tensor(rows, device="mesh")

    with tm.use(tm.Mesh({"rows": 2}), batch="rows"):
        return [str(tm.layout(x)) for x in made()] == ["(S0)", "(R)"]


class Modes(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch.utils._python_dispatch._disable_current_modes():
            self.seen.append(func)
            return func(*args, **(kwargs or {}))


def of_modes_that_see_each_op():
    x = tm.distribute(torch.ones(4, 2), tm.Mesh({"rows": 2}), ("S0",))
    with Modes() as modes:
        x.sum(), x + 1
    return modes.seen == [torch.ops.aten.sum.default, torch.ops.aten.add.Tensor]


def of_flex_attention():
    from torch.nn.attention import flex_attention

    own = inspect.unwrap(flex_attention._validate_device)
    return list(inspect.signature(own).parameters) == ["query", "key", "value"]


def of_the_options_of_losses():
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    return options is None or "device" in (
        inspect.signature(inspect.unwrap(options._adjust)).parameters
    )


def of_ops_of_functions():
    op = torch.ops.higher_order.cond
    return isinstance(op, torch._ops.HigherOrderOperator) and (
        op.name() == "cond" and not hasattr(op, "_schema")
    )


def of_trees():
    pytree = torch.utils._pytree
    leaves, spec = pytree.tree_flatten({"a": [1, (2,)], "b": 3})
    paths, _ = pytree.tree_flatten_with_path(
        {"a": [1, (2,)]}, is_leaf=lambda node: isinstance(node, tuple)
    )
    named = [(pytree.keystr(path), leaf) for path, leaf in paths]
    return (
        leaves == [1, 2, 3]
        and pytree.tree_unflatten(leaves, spec) == {"a": [1, (2,)], "b": 3}
        and named == [("['a'][0]", 1), ("['a'][1]", (2,))]
        and paths[0][0][1].idx == 0
    )


def of_views_that_are_read_in_another_way():
    x = torch.ones(2, dtype=torch.complex64)
    return torch._neg_view(x).is_neg() and torch._conj(x).is_conj()


def of_convolutions():
    return all(
        isinstance(kind(1, 1, 1), torch.nn.modules.conv._ConvNd)
        for kind in (torch.nn.Conv1d, torch.nn.Conv3d, torch.nn.ConvTranspose2d)
    )


def of_the_groups_of_a_device_mesh():
    from torch.distributed import device_mesh

    # A torch whose meshes have none has nothing to let go.
    return "_pg_registry" in inspect.getsource(device_mesh) or not (
        torch.distributed.is_available()
    )


IN_PYTHON = {
    "thread-locals": of_objects_of_a_thread,
    "held-by-python": of_the_objects_of_tensors,
    "flex-attention": of_flex_attention,
    "loss-options": of_the_options_of_losses,
    "higher-order": of_ops_of_functions,
    "dispatch-modes": of_modes_that_see_each_op,
    "pytree": of_trees,
    "lazy-bits": of_views_that_are_read_in_another_way,
    "convolutions": of_convolutions,
    "group-registry": of_the_groups_of_a_device_mesh,
    "no-dispatch": of_the_context_without_dispatch,
    "profiler": of_the_profiler,
    "kernel-names": of_the_kernel_table,
    "jagged": of_jagged_tensors,
    "graph-task": of_the_graph_task,
    "zip-archive": of_the_archive,
    "list-copies": of_the_copy_of_lists,
    "scheduled-steps": of_a_scheduler_of_rates,
    "gradient-norms": of_norms_of_gradients,
    "printing": of_printing,
    "fake-tensors": of_fake_tensors,
    "accelerator": of_the_accelerator,
    "device-module": of_the_device_module,
}


def ask(name, check):
    """Fails with the row and the version, also where the check itself raises.

    Args:
        name: The row.
        check: Gives True or, in C++, no text if all is as the row has it.
    """
    try:
        found = check()
    except Exception as error:
        pytest.fail(f"{HINT}{name}: {error!r}")
    if found not in (True, ""):
        pytest.fail(f"{HINT}{name}: {found or 'it is not so'}")


@pytest.mark.parametrize("name", IN_CPP)
def test_the_engine_finds_torch_as_it_knows_it(name):
    ask(name, IN_CPP[name][1])


@pytest.mark.parametrize("name", IN_PYTHON)
def test_the_package_finds_torch_as_it_knows_it(name):
    ask(name, IN_PYTHON[name])


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (lambda: torch._C._planted(), "AttributeError.*_planted"),
        (lambda: False, "it is not so"),
        (lambda: "another order", "another order"),
    ],
)
def test_a_check_that_fails_names_the_row_and_the_version(check, told):
    with pytest.raises(
        pytest.fail.Exception,
        match=f"^{re.escape(HINT)}planted: .*{told}",
    ):
        ask("planted", check)


MOVES = {
    "ToCopyBackward0": lambda x: x.cpu(),
    "CopyBackwards": lambda x: torch.zeros(4, 3).copy_(x),
    "CopySlices": lambda x: copied_into_rows(torch.zeros(5, 3), x),
}


def copied_into_rows(plain, x):
    plain[:4].copy_(x)
    return plain


@pytest.mark.parametrize("name", MOVES)
def test_a_gradient_comes_back_in_its_layout_through_each_node(name):
    x = tm.distribute(torch.rand(4, 3), tm.Mesh({"rows": 2}), ("S0",))
    x.requires_grad_()
    moved = MOVES[name](x * 1)

    def check():
        moved.sum().backward()
        node = moved.grad_fn.name().removeprefix("torch::autograd::")
        return node == name and str(tm.layout(x.grad)) == "(S0)"

    ask("names-of-nodes", check)
    assert name in ROWS["names-of-nodes"][1]


def test_the_page_lists_what_is_checked():
    assert set(ROWS) == {*IN_CPP, *IN_PYTHON, *COMPILED}
    for name, (source, _) in IN_CPP.items():
        assert ROWS[name][0] == [source]


# A new torch in which these differ does not compile, and so has no engine. The
# words are of the code that would not.
COMPILED = {
    "hooks": ["struct Hooks final : at::PrivateUse1HooksInterface"],
    "guard": ["struct Guard final : c10::impl::DeviceGuardImplInterface"],
    "native-recurrent": [
        "(args, at::native::lstm)",
        "(args, at::native::lstm_cell)",
    ],
    "meta-kernels": ["at::meta::index(", "at::meta::cat("],
    "autograd-meta-size": ["sizeof(AutogradMeta) =="],
    "generator": ["at::check_generator<at::CPUGeneratorImpl>("],
    "thread-locals": ["= at::impl::ThreadLocalPythonObjects;"],
    "held-by-python": ["->pyobj_slot()->load_pyobj()"],
    "mode-stack": ["c10::impl::TorchDispatchModeTLS::any_modes_set()"],
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_the_compiler_checks_stands_where_the_page_says(name):
    code = "".join((ROOT / file).read_text() for file in ROWS[name][0])
    for words in COMPILED[name]:
        assert words in code


@pytest.mark.parametrize("name", ROWS)
def test_the_page_names_files_that_exist(name):
    assert ROWS[name][0]
    for file in ROWS[name][0]:
        assert (ROOT / file).is_file()


WITH_PRIVATE_NAMES = [
    file for file in private_names.files(ROOT) if private_names.of_file(file)
]
# Private names that are not torch's -> whose they are.
OF_OTHERS = {
    "_device_mesh": "Keras's distributions",
    "_inputs": "Keras's adapter of arrays",
    "_layout": "Keras's variables",
    "_layout_map": "Keras's distributions",
    "_torch_mesh_pattern": "this package, on Keras's variables",
    "_tp_plan": "transformers' models",
    "_trainable_variables": "Keras's layers",
    "_value": "Keras's variables",
}


@pytest.mark.parametrize("file", WITH_PRIVATE_NAMES, ids=lambda path: path.name)
def test_the_page_has_each_private_name_of_torch_with_its_file(file):
    path = str(file.relative_to(ROOT))
    told = " ".join(
        relied_on for files, relied_on in ROWS.values() if path in files
    )
    unlisted = {
        name
        for name in private_names.of_file(file) - set(OF_OTHERS)
        if not re.search(rf"{re.escape(name)}\b", told)
    }
    assert unlisted == set(), f"docs/torch-internals.md has no row of {path}"


def test_no_name_of_others_is_excused_in_vain():
    found = set().union(*map(private_names.of_file, WITH_PRIVATE_NAMES))
    assert set(OF_OTHERS) <= found


@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("torch._C._planted()", {"_planted"}),
        ("torch._C.Planted", {"Planted"}),
        ("torch.a._b.c", {"_b"}),
        ("from torch.a import _b as c, d", {"_b"}),
        ("from torch._a.b import C", {"_a"}),
        ("import torch._a as b", {"_a"}),
        ("name = 'torch.a._b'", {"_b"}),
        ("getattr(thing, '_planted', None)", {"_planted"}),
        ("torch.__version__; self._own; tm._C.x; '_own'", set()),
        ("from torch_mesh import _C", set()),
    ],
)
def test_private_names_of_torch_are_found(program, names):
    assert private_names.of_python(program) == names


def test_private_names_of_libtorch_are_found():
    program = """
      // at::native::in_a_comment
      x = at::native::planted(at::impl::Other{}, at::meta::third());
      y->pyobj_slot(); c10::impl::TorchDispatchModeTLS::any_modes_set();
    """
    assert private_names.of_cpp(program) == {
        "at::native::planted",
        "at::impl::Other",
        "at::meta::third",
        "pyobj_slot",
        "TorchDispatchModeTLS",
    }
