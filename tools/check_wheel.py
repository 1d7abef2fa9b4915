"""Checks what a wheel says of itself, without installing it.

    python tools/check_wheel.py dist/torch_mesh-*.whl

auditwheel reads which system its libraries need, and the name has to say the
same; and no path of the builder is inside.
"""

import argparse
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

# An absolute path of sources or of an environment. The build has both begin at
# their roots, src/core/layout.cpp, and an rpath begins with $ORIGIN.
BUILDERS_PATH = re.compile(
    rb"(?<![\w.$-])/(?:[\w.+-]+/)*(?:site-packages|src|build)/[\w./+-]+"
)


def paths_of_builder(wheel: Path) -> list[str]:
    """Paths of the builder's machine in the libraries of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        found = {
            path.decode()
            for name in archive.namelist()
            if name.endswith(".so")
            for path in BUILDERS_PATH.findall(archive.read(name))
        }
    return sorted(found)


def platform_of(wheel: Path) -> str:
    """What the name says: "manylinux_2_28_x86_64".

    Raises:
        ValueError: if that is one system alone, as before repair_wheel.
    """
    platform = wheel.stem.split("-")[-1]
    if not re.fullmatch(r"manylinux_\d+_\d+_\w+", platform):
        raise ValueError(
            f"{wheel.name} is for {platform}, not for manylinux:"
            " tools/repair_wheel.py makes it portable."
        )
    return platform


def needed(wheel: Path) -> tuple[str, str]:
    """The platform that the libraries need, and their newest symbols."""
    told = json.loads(
        subprocess.run(
            [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    )
    newest: dict[str, tuple[int, ...]] = {}
    for symbols in told["versioned_symbols"].values():
        for symbol in symbols:
            library, version = symbol.rsplit("_", 1)
            numbers = tuple(int(part) for part in version.split("."))
            newest[library] = max(newest.get(library, ()), numbers)
    shown = ", ".join(
        f"{library} {'.'.join(map(str, numbers))}"
        for library, numbers in sorted(newest.items())
    )
    # The platform of the symbols: libtorch, which no manylinux has, is there.
    return told["sym_tag"], shown


def check(wheel: Path) -> None:
    """Prints what the wheel needs.

    Raises:
        ValueError: if that is not what its name says, or it names files of the
            builder.
    """
    platform = platform_of(wheel)
    needs, symbols = needed(wheel)
    print(
        f"{wheel.name}  {wheel.stat().st_size / 1e6:.1f} MB\n  needs {symbols}"
    )
    if needs != platform:
        raise ValueError(f"{wheel.name} needs {needs}.")
    if paths := paths_of_builder(wheel):
        raise ValueError(f"{wheel.name} names the builder's files: {paths[:5]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", type=Path, nargs="+")
    for wheel in parser.parse_args().wheels:
        try:
            check(wheel)
        except ValueError as error:
            raise SystemExit(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
