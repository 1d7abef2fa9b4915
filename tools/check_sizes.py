"""Checks that files stay short: headers 200 lines, sources 600.

A file that has a reason to be longer gets an allowance here, with the reason.
"""

import argparse
import sys
from pathlib import Path

LIMITS = {".h": 200, ".cpp": 600, ".py": 600, ".pyi": 600}
FOLDERS = (
    "include",
    "src",
    "python",
    "tests",
    "tools",
    "examples",
    "benchmarks",
)

# path -> (lines, why)
ALLOWANCES: dict[str, tuple[int, str]] = {
    "src/layout_map/pattern_text.cpp": (615, "one grammar, one parser"),
    "tests/conformance/ecosystem.py": (800, "one program an entry"),
}


def check(root: Path) -> tuple[list[str], list[str]]:
    """Errors (over limit and allowance) and warnings (over the limit)."""
    errors = []
    warnings = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            limit = LIMITS.get(path.suffix)
            if limit is None or "build" in path.relative_to(root).parts:
                continue
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines <= limit:
                continue
            name = path.relative_to(root).as_posix()
            allowed, why = ALLOWANCES.get(name, (limit, ""))
            if lines > allowed:
                errors.append(f"{name}: {lines} lines, at most {allowed}")
            else:
                warnings.append(f"{name}: {lines} lines, allowed: {why}")
    return errors, warnings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    errors, warnings = check(parser.parse_args().root)
    for line in warnings:
        print(f"warning: {line}")
    for line in errors:
        print(line)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
