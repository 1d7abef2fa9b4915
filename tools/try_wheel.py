"""Tries a wheel as a user would, beside each torch that it has an engine for.

    python tools/try_wheel.py dist/torch_mesh-*.whl --torch 2.13.0 2.14.1

Each torch gets a virtual environment of its own: torch first, then the wheel.
With no compiler on PATH the programs of the README run; torch is the one that
was there, and no other was fetched; one OpenMP runtime is loaded, with the
number of threads that torch was told; and what `import torch` costs more is
measured. First check_wheel looks at the wheel itself. An environment that is
there is used again.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import check_wheel
from package_engines import engines

ROOT = Path(__file__).parents[1]
# Those of requirements/torch.txt and torch-newest.txt: `make wheel` compiles an
# engine for each.
TORCHES = ["2.13.0", "2.14.1"]
PROGRAM = """
import json, re
import torch
torch.set_num_threads(2)
import torch_mesh as tm
before = torch.get_num_threads()
mesh = tm.Mesh({"data": 4})
x = tm.distribute(torch.randn(512, 512), mesh, ("S0",))
(x @ x.T).relu().sum().item()
maps = open("/proc/self/maps").read()
print(json.dumps({
    "torch": torch.__version__,
    "engine": tm._C.__file__.split("/")[-2],
    "openmp": sorted(set(re.findall(r"\\S*/lib[gi]?omp\\S*", maps))),
    "threads": [before, torch.get_num_threads()],
}))
"""


def python_of(folder: Path, torch: str) -> Path:
    """The interpreter of an environment with that torch and no torch_mesh."""
    home = folder / f"torch-{torch}"
    python = home / "bin/python"
    if not python.exists():
        venv.create(home, with_pip=True)
        pip(python, "install", "-q", f"torch=={torch}", "numpy")
    pip(python, "uninstall", "-q", "-y", "torch-mesh")
    return python


def pip(python: Path, *arguments: str) -> str:
    command = [python, "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


def torches(python: Path) -> list[str]:
    """What of torch's is installed, with versions."""
    listed = json.loads(pip(python, "list", "--format=json"))
    return sorted(
        f"{one['name']} {one['version']}"
        for one in listed
        if re.match(r"torch|nvidia|triton|cuda", one["name"])
        and one["name"] not in ("torch-mesh", "torch_mesh")
    )


def run(python: Path, program: str, folder: Path) -> str:
    """What a program prints with no compiler on PATH."""
    environment = {"PATH": str(python.parent), "KERAS_BACKEND": "torch"}
    kept = {k: os.environ[k] for k in ("HOME", "LANG") if k in os.environ}
    done = subprocess.run(
        [python, "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment | kept,
    )
    if done.returncode:
        raise SystemExit(f"{program}\n{done.stderr}")
    return done.stdout


def try_beside(wheel: Path, torch: str, folder: Path) -> None:
    python = python_of(folder, torch)
    before = torches(python)
    pip(python, "install", "-q", f"{wheel}[keras]", "scikit-learn", "rich")
    after = torches(python)
    if before != after:
        raise SystemExit(f"torch was touched: {before} became {after}")
    told = json.loads(run(python, PROGRAM, folder))
    print(f"beside torch {told['torch']}: {told['engine']}")
    engine = engines.name(torch)
    if not told["torch"].startswith(torch) or told["engine"] != engine:
        raise SystemExit(f"It is not torch {torch} with {engine}: {told}")
    if len(told["openmp"]) != 1:
        raise SystemExit(f"It is not one OpenMP runtime: {told}")
    if told["threads"] != [2, 2]:
        raise SystemExit(f"The number of threads changed: {told}")
    print(f"  {len(after)} packages, torch and its libraries, are as before")
    print(f"  one OpenMP runtime, {Path(told['openmp'][0]).name}, 2 threads")
    readme = (ROOT / "README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for program in programs:
        run(python, program, folder)
    print(f"  {len(programs)} programs of the README run")
    cost = subprocess.run(
        [python, ROOT / "benchmarks/import_time.py", "--rounds", "10"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    print("".join(f"  {line}\n" for line in cost.splitlines()), end="")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", nargs="+", default=TORCHES)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/try-wheel")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        check_wheel.check(arguments.wheel)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for torch in arguments.torch:
        try_beside(arguments.wheel.resolve(), torch, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
