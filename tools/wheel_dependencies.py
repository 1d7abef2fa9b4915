"""What a wheel depends on: the very torch that it was compiled against.

torch's C++ interface changes with each release, so a range of versions would
promise too much; and on a machine without a GPU a range makes pip fetch the
build of torch for CUDA.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# What pyproject.toml installs for a build in a fresh environment.
DEFAULT = "2.13.0"


def dynamic_metadata(
    settings: Mapping[str, Any], project: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Called by scikit-build-core; returns what to add to [project]."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = DEFAULT
    # Without "+cpu" or "+cu130": either build of one release will do.
    return {"dependencies": [f"torch=={torch.partition('+')[0]}"]}
