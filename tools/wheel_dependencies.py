"""What a wheel depends on: the minor release of torch that it was compiled for.

torch promises no layout of its structures from one minor release to the next;
within one it does not change them. `tools/join_wheels.py` widens the range of a
wheel that holds several engines.
"""

import os
from collections.abc import Mapping
from typing import Any


def dynamic_metadata(
    settings: Mapping[str, Any], project: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Called by scikit-build-core; returns what to add to [project]."""
    # Set by build_backend where it compiles: sources fit every torch, also when
    # they are packed beside one.
    torch = os.environ.get("TORCH_MESH_TORCH_VERSION")
    if torch is None:
        return {"dependencies": ["torch>=2.11"]}
    major, minor = torch.split(".")[:2]
    return {"dependencies": [f"torch=={major}.{minor}.*"]}
