"""tools/check_op_names.py finds ops that are named where they need not be."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_op_names.py"

SOUND = {
    "src/rules/matmul.cpp": 'table.add("aten::mm", "m k, k n -> m n");\n',
    "src/program/table.cpp": '{"aten::mean", kWhereCut, mean},\n',
    "src/device/autocast.cpp": 'cast("aten::bmm");\n',
    "src/dispatch/op.h": 'std::string name;  // "aten::add"\n',
    "src/dispatch/op.cpp": 'name.starts_with("aten::");\n',
    "python/p/__init__.py": 'NAME = "aten::add"\n',
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
        return lines

    return run


def test_rules_programs_and_comments_may_name_ops(check):
    assert check() == []


def test_a_name_elsewhere_is_found(check):
    text = '\nreturn name == "aten::copy_" || name == "aten::zero_";\n'
    lines = check(**{"src/dispatch/kernel.cpp": text})
    assert [line.split(": let")[0] for line in lines] == [
        "src/dispatch/kernel.cpp:2: names aten::copy_",
        "src/dispatch/kernel.cpp:2: names aten::zero_",
    ]


def test_an_exception_that_is_not_needed_is_found(monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    import check_op_names

    exceptions = {**check_op_names.EXCEPTIONS, "core/mesh.cpp": "none"}
    assert check_op_names.check(TOOL.parents[1], exceptions) == [
        "src/core/mesh.cpp: names no op, so it needs no exception"
    ]
