"""What the tests of two hosts need of the machine."""

import os
import pathlib
import sys

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import network


def pytest_collection_finish(session):
    here = pathlib.Path(__file__).parent
    lacks = network.missing()
    if lacks and any(here in item.path.parents for item in session.items):
        # Whoever asks for these tests is not told that they have passed.
        raise pytest.UsageError(f"tests/hosts: {lacks}")
