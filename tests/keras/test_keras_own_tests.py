"""Without a distribution, Keras's own tests do what they do without us."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

FILES = (
    "backend/torch/core_test.py",
    "layers/core/lambda_layer_test.py",
    "layers/core/masking_test.py",
    "layers/core/wrapper_test.py",
    "layers/normalization/group_normalization_test.py",
    "layers/normalization/layer_normalization_test.py",
    "models/sequential_test.py",
    "models/variable_mapping_test.py",
    "optimizers/adam_test.py",
    "optimizers/multi_optimizer_test.py",
    "optimizers/sgd_test.py",
)


def start(autoload):
    root = pathlib.Path(keras.__file__).parent / "src"
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rA",
            "--tb=no",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "--rootdir",
            str(root),
            "-W",
            "ignore",
            *(str(root / name) for name in FILES),
        ],
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "1" if autoload else "0",
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def outcomes(process):
    """The outcome of every test, by its name."""
    output, _ = process.communicate(timeout=280)
    lines = re.findall(
        r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\s+(\S+)",
        output,
        re.MULTILINE,
    )
    return {name: outcome for outcome, name in lines}


@pytest.mark.slow
def test_the_package_changes_no_outcome_of_keras_own_tests():
    processes = [start(autoload=True), start(autoload=False)]
    ours, stock = map(outcomes, processes)
    assert sum(outcome == "PASSED" for outcome in ours.values()) > 80
    assert ours == stock
