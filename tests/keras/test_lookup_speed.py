"""Look-ups of a LayoutMap are many times as fast as Keras's."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "lookup.py"


@pytest.fixture(scope="module")
def lookup():
    spec = importlib.util.spec_from_file_location("lookup", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["50 patterns", "600 patterns"])
def test_each_path_once_and_cold(lookup, mesh, name):
    """A third of what is promised, in the best of three tries.

    Our 10,000 look-ups take 10 ms: the first to suffer where a machine does
    other things too. A look-up that is slow by itself is so in each try.
    """
    for _ in range(3):
        result = lookup.measure(mesh, name, rounds=5)
        assert result["found"] > 0.7 * result["paths"]
        if result["ratio"] >= lookup.PROMISED[name] / 3:
            break
    assert result["ratio"] >= lookup.PROMISED[name] / 3, result
