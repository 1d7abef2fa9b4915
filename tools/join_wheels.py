"""Joins wheels that hold an engine each into one that holds them all.

    tools/join_wheels.py build/wheels/*/torch_mesh-*.whl --out dist

Each was built beside another minor release of torch, by the same Python and of
the same sources: all files but the engines are compared byte by byte. The wheel
asks for any torch that it has an engine for.
"""

import argparse
import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from package_engines import engines

# What differs from engine to engine: the libraries, and the CMake targets.
_OF_AN_ENGINE = re.compile(
    rf"torch_mesh/(engines|share/cmake/torch_mesh)/{engines.NAME}/.+"
)
_TORCH = re.compile(r"^Requires-Dist: torch\b.*$", re.MULTILINE)


def requirement(minors: Iterable[tuple[int, int]]) -> str:
    """What pip is told: "torch>=2.12,!=2.12.*,<2.15" for 2.13 and 2.14.

    Args:
        minors: (2, 13) and so on, of one major release.
    """
    numbers = sorted(set(minors))
    if not numbers:
        raise ValueError("The wheels hold no engine.")
    (major, first), (last_major, last) = numbers[0], numbers[-1]
    if major != last_major:
        raise ValueError(f"Engines for torch {major} and torch {last_major}.")
    there = {minor for _, minor in numbers}
    untried = [m for m in range(first, last) if m not in there]
    # Vendors number their builds 2.13.0a0+abc, which is before 2.13; and a
    # bound that is a pre-release itself would have pip take those of the index.
    below = f"{major}.{first - 1}" if first else f"{major - 1}"
    return f"torch>={below},!={below}.*,<{major}.{last + 1}" + "".join(
        f",!={major}.{minor}.*" for minor in untried
    )


def files_of(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
    }


def _told_but_torch(metadata: Path) -> str:
    return _TORCH.sub("", metadata.read_text())


def add(part: Path, whole: Path) -> None:
    """Adds the engines of an unpacked wheel to another's.

    Raises:
        ValueError: if they differ in anything else, or share an engine.
    """
    theirs, ours = files_of(part), files_of(whole)
    added = {name for name in theirs if _OF_AN_ENGINE.fullmatch(name)}
    common = {name for name in ours if not _OF_AN_ENGINE.fullmatch(name)}
    if twice := added & ours:
        raise ValueError(f"Two wheels hold {min(twice)}.")
    if odd := (theirs - added) ^ common:
        raise ValueError(f"Only one of two wheels holds {min(odd)}.")
    for name in sorted(common):
        if name.endswith(".dist-info/RECORD"):  # is written anew
            continue
        if name.endswith(".dist-info/METADATA"):  # its line of torch is, too
            same = _told_but_torch(part / name) == _told_but_torch(whole / name)
        else:
            same = filecmp.cmp(part / name, whole / name, shallow=False)
        if not same:
            raise ValueError(f"{name} differs from wheel to wheel.")
    for name in added:
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(part / name, whole / name)


def _wheel(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "wheel", *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def join(wheels: list[Path], out: Path) -> Path:
    """Writes one wheel of several.

    Args:
        wheels: Of one name, version and Python, with an engine each.
        out: The folder to write to.

    Returns:
        The path of the wheel.

    Raises:
        ValueError: if the wheels do not go together.
    """
    names = {wheel.name for wheel in wheels}
    if len(names) != 1:
        raise ValueError(f"Wheels of several names: {sorted(names)}.")
    with tempfile.TemporaryDirectory() as folder:
        unpacked = []
        for i, wheel in enumerate(wheels):
            _wheel("unpack", wheel, "--dest", Path(folder) / str(i))
            [root] = (Path(folder) / str(i)).iterdir()
            unpacked.append(root)
        whole = unpacked[0]
        for part in unpacked[1:]:
            add(part, whole)
        minors = [
            (int(major), int(minor))
            for version in engines.minors(whole / "torch_mesh/engines")
            for major, minor in [version.split(".")]
        ]
        [metadata] = whole.glob("*.dist-info/METADATA")
        text, found = _TORCH.subn(
            f"Requires-Dist: {requirement(minors)}", metadata.read_text()
        )
        if found != 1:
            raise ValueError(f"{found} lines of METADATA ask for torch.")
        metadata.write_text(text)
        out.mkdir(parents=True, exist_ok=True)
        _wheel("pack", whole, "--dest-dir", out)
    return out / names.pop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("dist"))
    arguments = parser.parse_args()
    print(join(arguments.wheels, arguments.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
