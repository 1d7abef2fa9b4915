"""Programs in the manner of Keras's guides give one device's numbers."""

import guides
import keras
import numpy as np
import pytest
from one_device import make_distribution, under


def numbers_of(result):
    """The leaves of a result, as arrays."""
    return [
        np.asarray(keras.ops.convert_to_numpy(leaf), "float64")
        for leaf in keras.tree.flatten(result)
    ]


# NumPy says so of torch's own `__array__`, on any device.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("program", guides.PROGRAMS, ids=lambda p: p.__name__)
def test_a_program_in_the_manner_of_the_guides_is_one_devices(program):
    expected = numbers_of(under(None, program))
    assert all(np.isfinite(leaf).all() for leaf in expected)
    for name in ("data=2", "data=3", "batch=2 model=2"):
        actual = numbers_of(under(make_distribution(name), program))
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=name)
