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

# What `name` gives, for a regular expression.
NAME = r"torch_(\d+)_(\d+)"
# The oldest minor release whose headers the engine compiles against.
OLDEST = (2, 11)
# What compiles an engine for the torch that is there.
WAY_OUT = (
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


def name(version: str) -> str:
    """What an engine is called; cmake/torch_meshTorch.cmake says the same.

    Args:
        version: Of torch: "2.13.0+cpu", or a minor release alone.

    Returns:
        "torch_2_13": the name of its folder.
    """
    return f"torch_{minor(version).replace('.', '_')}"


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
        if (found := re.fullmatch(NAME, path.parent.name))
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
    if not re.fullmatch(r"\d+\.\d+", wanted):
        raise ImportError(
            "torch_mesh: the torch that is installed says"
            f" {f'{version!r}' if version else 'nothing'} of its version:"
            " install torch again. [no-engine]"
        )
    engine = folder / name(wanted)
    try:
        told = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
        compiled = str(told["torch"])
    except FileNotFoundError:
        raise ImportError(
            f"torch_mesh: torch {version} is installed, and this torch-mesh has"
            f" {_what_there_is(wanted, minors(folder))}. [no-engine]"
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
            f" for it with `{WAY_OUT}`. [wrong-engine]"
        )
    return engine


def _what_there_is(wanted: str, there: list[str]) -> str:
    """The engines that there are, and what to do without the one wanted."""
    ways = []
    if there:
        *first, last = there
        listed = f"{', '.join(first)} and {last}" if first else last
        engines = (
            f"engines for {listed}" if first else f"an engine for {listed}"
        )
        ways.append("install one of those" if first else "install that torch")
    else:
        engines = "no engine"
    if tuple(int(part) for part in wanted.split(".")) >= OLDEST:
        ways.append(f"compile an engine for yours with `{WAY_OUT}`")
    elif not there:
        ways.append("install torch {}.{} or newer".format(*OLDEST))
    return f"{engines}: {', or '.join(ways)}"
