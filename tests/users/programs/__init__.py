"""The programs, a file for each family."""

import importlib

FAMILIES = [
    "vision",
    "nets",
    "generative",
    "recurrent",
    "language",
    "ecosystem",
    "loops",
    "graph",
    "functional",
    "training",
    "reported",
    "keras_programs",
]


def load():
    """Imports every family, so that `registry.PROGRAMS` is complete."""
    for family in FAMILIES:
        importlib.import_module(f"tests.users.programs.{family}")
