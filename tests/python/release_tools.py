"""The tools of a release, as modules."""

import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"

sys.path.insert(0, str(TOOLS))
try:
    import build_backend
    import check_compat
    import check_wheel
    import join_wheels
    import repair_wheel
    import try_wheel
finally:
    # Another tool has the name of a library.
    sys.path.remove(str(TOOLS))

__all__ = [
    "build_backend",
    "check_compat",
    "check_wheel",
    "join_wheels",
    "repair_wheel",
    "try_wheel",
]
