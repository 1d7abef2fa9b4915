"""What the package knows of torch that torch does not promise, asked of torch.

docs/torch-internals.md lists all of it, each with its check here or in
src/device/compat_checks.cpp.
"""

import inspect
import re
from pathlib import Path

import pytest
import torch

from torch_mesh import _C

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "torch-internals.md").read_text()
ROWS = dict(
    re.findall(r"^\| `([a-z0-9-]+)` \| `([^`]+)` \|", PAGE, re.MULTILINE)
)
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
    return callable(writer) and hasattr(torch._C, "PyTorchFileWriter")


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
    return callable(torch._C._accelerator_getAccelerator)


def of_the_device_module():
    return callable(torch._register_device_module)


IN_PYTHON = {
    "no-dispatch": of_the_context_without_dispatch,
    "profiler": of_the_profiler,
    "kernel-names": of_the_kernel_table,
    "jagged": of_jagged_tensors,
    "graph-task": of_the_graph_task,
    "zip-archive": of_the_archive,
    "printing": of_printing,
    "fake-tensors": of_fake_tensors,
    "accelerator": of_the_accelerator,
    "device-module": of_the_device_module,
}


@pytest.mark.parametrize("name", IN_CPP)
def test_the_engine_finds_torch_as_it_knows_it(name):
    problem = IN_CPP[name][1]()
    assert not problem, f"{HINT}{name}: {problem}"


@pytest.mark.parametrize("name", IN_PYTHON)
def test_the_package_finds_torch_as_it_knows_it(name):
    assert IN_PYTHON[name](), f"{HINT}{name}"


def test_the_page_lists_what_is_checked():
    assert set(ROWS) == {*IN_CPP, *IN_PYTHON, *COMPILED}
    for name, (source, _) in IN_CPP.items():
        assert ROWS[name] == source


# A new torch in which these differ does not compile, and so has no engine.
COMPILED = {
    "hooks": "PrivateUse1HooksInterface",
    "guard": "DeviceGuardImplInterface",
    "native-recurrent": "at::native::lstm",
    "meta-kernels": "at::meta::",
    "autograd-meta-size": "static_assert",
    "generator": "CPUGeneratorImpl",
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_the_compiler_checks_stands_where_the_page_says(name):
    assert COMPILED[name] in (ROOT / ROWS[name]).read_text()


@pytest.mark.parametrize("name", ROWS)
def test_the_page_names_files_that_exist(name):
    assert (ROOT / ROWS[name]).is_file()
