"""tools/check_layers.py finds includes and imports that go the wrong way."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_layers.py"

SOUND = {
    "include/torch_mesh/macros.h": "#include <string>\n",
    "include/torch_mesh/mesh.h": "#include <torch_mesh/macros.h>\n",
    "include/torch_mesh/tensor.h": "#include <ATen/core/Tensor.h>\n",
    "src/core/mesh.cpp": "#include <torch_mesh/mesh.h>\n",
    "src/plan/plan.h": "#include <torch_mesh/mesh.h>\n",
    "src/tensor/tensor.cpp": (
        '#include <torch_mesh/tensor.h>\n#include "plan/plan.h"\n'
    ),
    "src/python/module.cpp": "#include <torch/csrc/utils/pybind.h>\n",
    "python/p/__init__.py": "from p import top\n",
    "python/p/_C.pyi": "",
    "python/p/bottom.py": "import sys\nfrom p import _C\n",
    "python/p/top.py": "from p.bottom import x\nfrom p import q\n",
    "python/p/q/__init__.py": "import p.q.inner\n",
    "python/p/q/inner.py": "from p import bottom\n",
}


@pytest.fixture
def check(tmp_path):
    """Runs the tool on SOUND with some files replaced; returns its lines."""

    def run(**changed):
        for name, text in {**SOUND, **changed}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        result = subprocess.run(
            [sys.executable, TOOL, "--root", tmp_path],
            capture_output=True,
            text=True,
        )
        lines = result.stdout.splitlines()
        assert result.returncode == (1 if lines else 0), result.stderr
        return lines[:-1]

    return run


def test_a_sound_tree_passes(check):
    assert check() == []


def test_an_include_of_a_higher_layer_is_found(check):
    lines = check(**{"src/core/mesh.cpp": '\n#include "plan/plan.h"\n'})
    assert lines == [
        "src/core/mesh.cpp:2: includes plan/plan.h: core may not include plan"
    ]


def test_a_public_header_belongs_to_the_folder_of_its_source(check):
    lines = check(**{"src/plan/plan.h": "#include <torch_mesh/tensor.h>\n"})
    assert lines == [
        "src/plan/plan.h:1: includes torch_mesh/tensor.h: "
        "plan may not include tensor"
    ]


def test_torch_in_the_core_is_found_through_a_header_without_source(check):
    lines = check(
        **{"include/torch_mesh/macros.h": "#include <c10/util/Exception.h>\n"}
    )
    assert "src/core/mesh.cpp" not in "".join(lines)
    assert lines == [
        "include/torch_mesh/mesh.h:1: includes torch_mesh/macros.h -> "
        "c10/util/Exception.h: core is free of torch"
    ]


@pytest.mark.parametrize("header", ["Python.h", "pybind11/pybind11.h"])
def test_python_headers_outside_the_bindings_are_found(check, header):
    lines = check(**{"src/tensor/tensor.cpp": f"#include <{header}>\n"})
    assert len(lines) == 1
    assert lines[0].endswith("only src/python includes torch's Python headers")


def test_the_costly_headers_are_found_in_the_bindings_too(check):
    lines = check(**{"src/python/module.cpp": "#include <torch/extension.h>\n"})
    assert len(lines) == 1
    assert "torch/csrc/utils/pybind.h" in lines[0]


def test_a_folder_outside_the_order_is_found(check):
    lines = check(**{"src/helpers/x.cpp": ""})
    assert lines == [
        "src/helpers/x.cpp: folder 'helpers' has no place in the order"
    ]


def test_a_folder_that_reaches_into_shards_is_found(check):
    lines = check(**{"src/tensor/tensor.cpp": "x = shard.local();\n"})
    assert lines == [
        "src/tensor: reaches into shards 1 times, allowed 0: let run/ do it"
    ]


def test_the_folders_that_run_ops_on_shards_may_reach_into_them(check):
    assert check(**{"src/run/joined.cpp": "x = shard.local();\n"}) == []


def test_a_number_that_has_fallen_is_to_be_written_down(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import check_layers

    (tmp_path / "src" / "tensor").mkdir(parents=True)
    (tmp_path / "src" / "tensor" / "x.cpp").write_text("shard.local();\n")
    assert check_layers.check(tmp_path, {"tensor": 2}) == [
        "src/tensor: reaches into shards 1 times: write that in place of 2, so"
        " that it stays"
    ]
    assert check_layers.check(tmp_path, {"tensor": 1}) == []


def test_modules_that_import_each_other_are_found(check):
    lines = check(**{"python/p/bottom.py": "\nfrom p import top\n"})
    assert lines == [
        "python/p/bottom.py:2: imports go round: p.bottom -> p.top -> p.bottom"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    import p.q.inner\n",
        "def f():\n    from p.q.inner import y\n",
        "class C:\n    def m(self):\n        from p.q import inner\n",
        "def f():\n    from .q import inner\n",
        "try:\n    from p.q import inner\nexcept ImportError:\n    pass\n",
    ],
)
def test_an_import_inside_of_a_function_counts(check, text):
    lines = check(**{"python/p/bottom.py": text})
    assert len(lines) == 1
    assert lines[0].endswith("p.bottom -> p.q.inner -> p.bottom")


@pytest.mark.parametrize("text", ["import p", "from p import name_of_init"])
def test_a_module_does_not_import_its_package(check, text):
    lines = check(**{"python/p/bottom.py": f"{text}\n"})
    assert [line.rpartition(": ")[2] for line in lines] == [
        "p -> p.top -> p.bottom -> p"
    ]


def test_imports_for_type_checkers_alone_do_not_count(check):
    text = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from p.top import T\n"
    )
    assert check(**{"python/p/bottom.py": text}) == []
    lines = check(**{"python/p/bottom.py": text + "else:\n    import p.top\n"})
    assert len(lines) == 1


def test_the_python_package_has_no_circle():
    result = subprocess.run(
        [sys.executable, TOOL], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
