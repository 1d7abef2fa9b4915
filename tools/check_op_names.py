"""Checks that ops of torch are named in few places.

What an op does stands in the rules, in the table of programs and in that of ops
on storages: an op touches a line of these, and no list elsewhere. So the name
of one as text ("aten::add") may stand in `MAY_NAME_OPS`, and in the files of
`EXCEPTIONS`, each of which says why. Comments do not count.
"""

import argparse
import re
import sys
from pathlib import Path

# Folders, and files, under src/.
MAY_NAME_OPS = (
    "rules/",
    "program/",
    "device/autocast.cpp",
)

# file under src/ -> why
EXCEPTIONS = {
    "device/compat_checks.cpp": "looks whether torch has what it relies on",
    "device/composed_out.cpp": "two ops resize as no other does",
    "device/plain_beside.cpp": "compositions of torch that compare devices",
    "device/registration.cpp": "kernels in place of torch's, by kind of tensor",
    "run/foreach.cpp": "ops on lists, by the names that torch gives them",
    "run/list_call.cpp": "the same",
    "run/list_executor.cpp": "the same: some kernels take numbers for tensors",
    "run/local_kernel.cpp": "the CPU's kernels that like other strides",
    "run/stand_ins.cpp": "where torch's meta kernels lay out otherwise",
}

_NAME = re.compile(r'"((?:aten|prims)::\w+)')
_COMMENT = re.compile(r"//.*$", re.MULTILINE)


def check(root: Path, exceptions: dict[str, str]) -> list[str]:
    """One line for each name that stands elsewhere.

    Args:
        root: of the project.
        exceptions: files that may name ops, each with the reason.
    """
    src = root / "src"
    errors = []
    unused = set(exceptions)
    for path in sorted(src.rglob("*")):
        name = path.relative_to(src).as_posix()
        if path.suffix not in {".h", ".cpp"} or name.startswith(MAY_NAME_OPS):
            continue
        text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
        for match in _NAME.finditer(text):
            if name in exceptions:
                unused.discard(name)
                break
            line = text.count("\n", 0, match.start()) + 1
            errors.append(
                f"src/{name}:{line}: names {match[1]}: let a word of its rule"
                " say what is special, or a program do it"
            )
    errors += [
        f"src/{name}: names no op, so it needs no exception"
        for name in sorted(unused)
    ]
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="another tree than ours")
    root = parser.parse_args().root
    errors = (
        check(root, {})
        if root
        else check(Path(__file__).parents[1], EXCEPTIONS)
    )
    for error in errors:
        print(error)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
