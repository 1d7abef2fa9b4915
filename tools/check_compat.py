"""Checks the syntax of every source against the headers of an older torch.

The headers are taken from torch's wheel, which pip downloads once into build/.
Nothing is linked or run.
"""

import argparse
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


def headers_of(version: str, cache: Path) -> Path:
    """The include folder of torch `version`, downloaded if it is not there."""
    home = cache / f"torch-{version}"
    done = home / "unpacked"
    if not done.exists():
        print(f"Downloading torch {version} (530 MB, once) ...", flush=True)
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            + ["--disable-pip-version-check", "-d", str(home)]
            + [f"torch=={version}"],
            check=True,
        )
        [wheel] = home.glob("torch-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(
                home,
                [
                    n
                    for n in archive.namelist()
                    if n.startswith("torch/include/")
                ],
            )
        wheel.unlink()
        done.touch()
    return home / "torch" / "include"


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default="2.11.0")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/compat")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("sources", nargs="*", type=Path)
    args = parser.parse_args()

    sources = args.sources or sorted((ROOT / "src").rglob("*.cpp"))
    include = headers_of(args.torch, args.cache)
    failures = []
    for source, seconds, errors in compile_all(sources, include, args.jobs):
        name = source.resolve().relative_to(ROOT.resolve())
        verdict = "error" if errors else "ok"
        print(f"{verdict:5}  {seconds:5.1f} s  {name}", flush=True)
        if errors:
            failures.append(errors)
    print(
        f"torch {args.torch}: {len(sources) - len(failures)} of {len(sources)}"
        " sources compile."
    )
    for errors in failures:
        print(errors[:4000])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
