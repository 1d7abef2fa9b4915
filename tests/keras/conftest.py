"""What the Keras tests share: four virtual devices, and a clean Keras."""

import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import keras
import one_device
import pytest
from keras.distribution import DeviceMesh


@pytest.fixture(autouse=True)
def clean_keras():
    """Each test begins and ends without a distribution, names and seeds."""
    keras.utils.clear_session(free_memory=False)
    yield
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def devices():
    """The names of four virtual devices."""
    return one_device.DEVICES[:4]


@pytest.fixture
def mesh():
    """A Keras mesh batch=2 model=2."""
    return DeviceMesh((2, 2), ["batch", "model"], one_device.DEVICES[:4])


@pytest.fixture
def layout_map(mesh):
    """Dense kernels and biases split over `model`."""
    return one_device.dense_map(mesh)
