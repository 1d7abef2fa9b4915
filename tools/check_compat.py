"""Checks the syntax of every source against the headers of other torches.

The headers are taken from torch's wheel for macOS, which holds the same ones as
those for Linux in a sixth of the bytes; pip downloads it once into build/.
Nothing is linked or run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c++20", "-fsyntax-only", "-fopenmp", "-w"]

# The last release of each minor that has an engine somewhere, but for the one
# that `make build` compiles against.
VERSIONS = ("2.11.0", "2.12.1", "2.14.1", "2.15.0")


def headers_of(version: str, cache: Path) -> Path:
    """The include folder of torch `version`, downloaded if it is not there."""
    home = cache / f"torch-{version}"
    done = home / "unpacked"
    if not done.exists():
        print(f"Downloading torch {version} (100 MB, once) ...", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            + ["--disable-pip-version-check", "-d", str(home)]
            + ["--platform", "macosx_14_0_arm64", "--python-version", "3.13"]
            + ["--only-binary=:all:", f"torch=={version}"],
            check=True,
            # A constraint on torch is meant for what runs here. An empty name
            # would leave that of a configuration file in force.
            env={**os.environ, "PIP_CONSTRAINT": os.devnull},
        )
        [wheel] = home.glob("torch-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            archive.extractall(
                home, [n for n in names if n.startswith("torch/include/")]
            )
        wheel.unlink()
        done.touch()
    return home / "torch" / "include"


def uses_torch(source: Path) -> bool:
    """Whether a source is of a layer that may include torch's headers."""
    layer = source.resolve().relative_to(ROOT / "src").parts[0]
    return layer not in ("core", "rules", "plan", "trace")


def compile_one(source: Path, include: Path) -> tuple[Path, float, str]:
    """(source, seconds, what the compiler says: empty if all is well)."""
    folders = [ROOT / "include", ROOT / "src"]
    system = [include, include / "torch/csrc/api/include"]
    system.append(Path(sysconfig.get_path("include")))
    start = time.monotonic()
    result = subprocess.run(
        ["g++", *FLAGS, '-DTORCH_MESH_VERSION="compat"']
        + [f"-I{folder}" for folder in folders]
        + [f"-isystem{folder}" for folder in system]
        + [str(source)],
        capture_output=True,
        text=True,
    )
    errors = result.stderr or "g++ failed" if result.returncode else ""
    return source, time.monotonic() - start, errors


def compile_all(
    sources: list[Path], include: Path, jobs: int
) -> Iterator[tuple[Path, float, str]]:
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(
            lambda source: compile_one(source, include), sources
        )


def check(version: str, args: argparse.Namespace) -> list[str]:
    """What the compiler has against the sources; prints a line for each."""
    sources = args.sources or sorted((ROOT / "src").rglob("*.cpp"))
    sources = [source for source in sources if uses_torch(source)]
    include = headers_of(version, args.cache)
    failures = []
    for source, seconds, errors in compile_all(sources, include, args.jobs):
        name = source.resolve().relative_to(ROOT.resolve())
        verdict = "error" if errors else "ok"
        print(f"{verdict:5}  {seconds:5.1f} s  {name}", flush=True)
        if errors:
            failures.append(f"torch {version}: {errors[:4000]}")
    print(
        f"torch {version}: {len(sources) - len(failures)} of {len(sources)}"
        " sources compile."
    )
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", action="append", metavar="2.12.1")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/compat")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("sources", nargs="*", type=Path)
    args = parser.parse_args()
    failures = [
        f for version in args.torch or VERSIONS for f in check(version, args)
    ]
    for errors in failures:
        print(errors)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
