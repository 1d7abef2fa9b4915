"""Each numbered example runs by itself, and prints what it promises."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NUMBERED = sorted(path.name for path in EXAMPLES.glob("[0-9]*_*.py"))


def run(name):
    """What an example prints, in an interpreter of its own."""
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", EXAMPLES / name],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "TORCH_MESH_CPU_DEVICES": "8",
        },
    )
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    return result.stdout


def losses(printed, where):
    """The numbers in the line that begins with `where`."""
    line = re.search(rf"^{re.escape(where)} +([\d. ]+)$", printed, re.MULTILINE)
    return [float(word) for word in line[1].split()]


def test_each_example_has_a_test():
    tested = {
        name.removeprefix("test_example_")[:2]
        for name in globals()
        if name.startswith("test_example_")
    }
    assert {name[:2] for name in NUMBERED} == tested


def test_the_numbers_have_no_gaps():
    numbers = [int(name[:2]) for name in NUMBERED]
    assert numbers == list(range(1, len(NUMBERED) + 1))


def test_example_01_lists_devices():
    printed = run("01_devices.py")
    names = " ".join(f"cpu:{i}" for i in range(8))
    assert f"cpu: 8 {names}\n" in printed
    assert "\ntpu: 0\n" in printed
    assert "now: cpu:0 cpu:1 cpu:2 cpu:3 cpu:4 cpu:5\n" in printed
    assert "Mesh(data=2 model=3) has 6 devices" in printed
    assert "Keras's mesh is the same: True" in printed
    assert "[mesh-devices]" in printed


def test_example_02_translates_paths():
    lines = run("02_path_adapter.py").splitlines()
    assert lines == [
        "sequential.dense.kernel",
        "sequential/dense/kernel",
        "dense.*kernel finds dense/kernel: True",
        "dense.*kernel finds sequential/dense/kernel: True",
        "dense.*kernel finds sequential.dense.kernel: True",
        "dense.*kernel finds sequential.dense.weight: True",
        "dense.*kernel finds sequential/dense/bias: False",
        "(None, 'model')",
        "('model', None)",
        "None",
    ]


def test_example_03_trains_alike_on_four_devices():
    printed = run("03_data_parallel.py")
    rows = re.findall(r"^ +(\d) +(\S+) +(\S+)$", printed, re.MULTILINE)
    plain = [float(row[1]) for row in rows]
    mesh = [float(row[2]) for row in rows]
    assert len(rows) == 3 and plain[2] < plain[1] < plain[0]
    assert mesh == pytest.approx(plain, rel=1e-4)
    assert re.search(r"^all_reduce@batch: [1-9]", printed, re.MULTILINE)
    assert "ops without a rule: none" in printed


def test_example_04_splits_weights_and_moments():
    printed = run("04_model_parallel.py")
    row = r"mlp/hidden/kernel +hidden/kernel +\(R, S1\) +\[20, 64\] +\[20, 32\]"
    assert re.search(row, printed)
    moments = r"mlp_hidden_kernel_\w+ \(R, S1\) \[20, 32\]"
    assert len(re.findall(moments, printed)) == 2
    plain = losses(printed, "one device")
    assert losses(printed, "2 x 2") == pytest.approx(plain, rel=1e-4)
    assert plain[-1] < plain[0]


def test_example_05_places_tensors():
    printed = run("05_tensors.py")
    assert "3:5    | cpu:2, cpu:3 |" in printed
    for operation, layout in (
        ("x @ w", "(S0, S1)"),
        ("(x @ w).sum(0)", "(P+, S0)"),
        ("a @ b", "(R, P+)"),
        ("redistributed", "(R, R) {'all_reduce@model': 1}"),
        ("value", "[8.0, 8.0, 8.0, 8.0]"),
    ):
        line = rf"^{re.escape(operation)} +{re.escape(layout)}$"
        assert re.search(line, printed, re.MULTILINE), operation
    assert "gradient is 2x: True" in printed
    assert "from four shards: [4, 4] (S0, S1)" in printed
    assert "map_shards: True" in printed
    assert "Keras's (None, model) is (R, S1)" in printed


def test_example_06_adds_up_twice_in_a_block():
    printed = run("06_transformer.py")
    plain = losses(printed, "one device")
    assert losses(printed, "2 x 2") == pytest.approx(plain, rel=1e-3)
    assert plain[1] < plain[0]
    assert "'all_reduce@model': 4" in printed
    assert "ops without a rule: none" in printed


def test_example_07_trains_an_unchanged_torch_model():
    printed = run("07_torch_model.py")
    plain = losses(printed, "one device")
    assert losses(printed, "2 x 2") == pytest.approx(plain, rel=1e-4)
    assert plain[-1] < plain[0]
    assert "linear1.weight (R, S0) a device holds [16, 16]" in printed
    assert "linear2.weight (R, S1) a device holds [16, 16]" in printed
    assert "collectives: all_reduce@data all_reduce@model" in printed
    assert "ops without a rule: none" in printed


def test_example_08_runs_a_loop_of_its_own():
    printed = run("08_custom_loop.py")
    plain = losses(printed, "one device")
    assert losses(printed, "4 x 2") == pytest.approx(plain, rel=1e-4)
    assert plain[-1] < plain[0]
    assert "hidden/kernel (R, S1) [12, 32]" in printed


def test_example_09_gives_an_op_a_rule():
    before, after = run("09_own_op.py").split("with a rule\n")
    for part in (before, after):
        assert "value right: True" in part
        assert "gradient right: True" in part
    assert "'examples::scores': 1" in before
    assert "bytes received: {" in before
    assert "layout (S0, S1)" in after
    assert "computed on replicas: nothing" in after


def test_example_10_trains_in_two_processes():
    lines = run("10_processes.py").splitlines()
    for number, own, part in ((0, [1.0, 2.0], 3), (1, [2.0, 4.0], 2)):
        start = 0 if number == 0 else 3
        shares = [float(i) for i in range(start, start + part)]
        assert [
            line for line in lines if line.startswith(f"process {number}:")
        ] == [
            f"process {number}: has {own}",
            f"process {number}: all_reduce [3.0, 6.0]",
            f"process {number}: broadcast [2.0, 4.0]",
            f"process {number}: gather [1.0, 2.0, 2.0, 4.0]",
            f"process {number}: scatter {shares}",
            f"process {number}: the weights are those of one process: True",
        ]


def test_example_11_loads_under_other_meshes():
    printed = run("11_saving.py")
    places = re.findall(r"^loaded: (.*?), predicts", printed, re.MULTILINE)
    assert places == [
        "(R, S1) on (1, 8)",
        "(R, S1) on (4, 1)",
        "one device on None",
    ]
    assert printed.count("predicts alike: True") == 6
    assert "False" not in printed
    assert printed.count("optimizer went on from step 4") == 3
    assert "torch.save holds a plain tensor: True" in printed
    assert "placed again: (S1) [2, 2, 0]" in printed
