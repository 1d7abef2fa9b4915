"""What the other modules know of the Keras that is there.

At the bottom: all of this package may import it, and it imports nothing but
the standard library, so that it loads while Keras does.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# All tests of this package that use Keras; and Keras's own, for releases.
CHECKED_VERSIONS = ("3.15.1", "3.16.0")  # the second as of 2026-08-22

CORE = "keras.src.backend.torch.core"
TRAINER = "keras.src.backend.torch.trainer"
DISTRIBUTION = "keras.src.distribution.distribution_lib"
BACKEND_LIB = "keras.src.backend.torch.distribution_lib"

# Where CORE is in a Keras whose backends are packages of ops.
CORE_ELSEWHERE = "keras.src.backend.torch.ops.core"


def core() -> Any:
    """Keras's module of torch variables and devices.

    Returns:
        `keras.src.backend.torch.core`, from where this Keras has it.

    Raises:
        ImportError: if it has none.
    """
    for name in (CORE, CORE_ELSEWHERE):
        if name in sys.modules:
            return sys.modules[name]
    return importlib.import_module(CORE)


def module(name: str) -> Any:
    """A module of Keras by the name that 3.15 has for it.

    Args:
        name: Such as "keras.src.backend.torch.trainer".

    Raises:
        ImportError: if this Keras has none.
    """
    return core() if name == CORE else importlib.import_module(name)


def is_on_torch() -> bool:
    """Whether Keras has chosen its torch backend."""
    config = sys.modules.get("keras.src.backend.config")
    return config is not None and config.backend() == "torch"


def version() -> str:
    """Keras's version, as text.

    Returns:
        It, also while Keras loads: its module needs nothing of the rest.
    """
    found: str = importlib.import_module("keras.src.version").__version__
    return found
