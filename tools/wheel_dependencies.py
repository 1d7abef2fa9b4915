"""What a wheel depends on: the minor release of torch that it was compiled for.

torch promises no layout of its structures from one minor release to the next;
within one it does not change them. `tools/join_wheels.py` widens the range of a
wheel that holds several engines.
"""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def dynamic_metadata(
    settings: Mapping[str, Any], project: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Called by scikit-build-core; returns what to add to [project]."""
    # build_backend says what it compiles against.
    torch = os.environ.get("TORCH_MESH_TORCH_VERSION")
    try:
        torch = torch or version("torch")
    except PackageNotFoundError:  # of sources, which fit them all
        return {"dependencies": ["torch>=2.11"]}
    major, minor = torch.split(".")[:2]
    return {"dependencies": [f"torch=={major}.{minor}.*"]}
