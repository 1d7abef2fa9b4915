"""Which engine goes with the torch that runs.

An engine is the C++ library of this package, compiled against one minor release
of torch, which promises no layout of its structures from one minor to the next.
A wheel may hold several, each in a folder of its own, `engines/torch_2_13` for
one; `fitting` finds the folder that the package then has on its path.
"""

import json
import re
from pathlib import Path

_FOLDER = Path(__file__).parent / "engines"
_WAY_OUT = (
    "pip install --force-reinstall --no-deps --no-binary torch-mesh torch-mesh"
)


def minor(version: str) -> str:
    """The minor release that a version belongs to.

    Args:
        version: As `torch.__version__`: "2.13.0+cpu".

    Returns:
        "2.13"; all of `version` where it does not begin with two numbers.
    """
    found = re.match(r"\d+\.\d+", version)
    return found.group() if found else version


def minors(folder: Path = _FOLDER) -> list[str]:
    """The minor releases of torch that have an engine, oldest first.

    Args:
        folder: Where the engines lie.

    Returns:
        ["2.13", "2.14"] where there are two.
    """
    numbers = sorted(
        tuple(int(part) for part in found.groups())
        for path in folder.glob("torch_*/engine.json")
        if (found := re.fullmatch(r"torch_(\d+)_(\d+)", path.parent.name))
    )
    return [f"{major}.{minor}" for major, minor in numbers]


def fitting(version: str, folder: Path = _FOLDER) -> Path:
    """The folder of the engine for a release of torch.

    Nothing is loaded: what an engine was compiled against stands beside it.

    Args:
        version: As `torch.__version__`.
        folder: Where the engines lie.

    Returns:
        The engine's folder, which holds `_C`.

    Raises:
        ImportError: if no engine is for this minor release, or the one that
            should be was compiled against another.
    """
    wanted = minor(version)
    engine = folder / f"torch_{wanted.replace('.', '_')}"
    try:
        told = json.loads((engine / "engine.json").read_text())
        compiled = str(told["torch"])
    except FileNotFoundError:
        there = " and ".join(minors(folder))
        raise ImportError(
            f"torch_mesh: torch {version} is installed, and this torch-mesh has"
            + (
                f" engines for {there}: install one of those, or compile"
                if there
                else " no engine: compile"
            )
            + f" an engine for yours with `{_WAY_OUT}`. [no-engine]"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ImportError(
            f"torch_mesh: {engine / 'engine.json'} does not say what the engine"
            f" was compiled against ({type(error).__name__}: {error}): install"
            " torch-mesh again. [wrong-engine]"
        ) from None
    if minor(compiled) != wanted:
        raise ImportError(
            f"torch_mesh: the engine in {engine.name} was compiled against"
            f" torch {compiled}, and torch {version} is installed: compile one"
            f" for it with `{_WAY_OUT}`. [wrong-engine]"
        )
    return engine
