"""Checks that dependencies go one way: of C++, and of Python.

From the #include lines:

    core <- rules <- plan <- lower <- trace <- shard <- comm <- tensor <- run
    <- dispatch <- program <- device <- python;  core <- job <- comm

A folder of src/ may include itself and what `MAY_INCLUDE` lists for it. A
public header belongs to the folder that `HEADERS` names or that has a source of
its name; one without either belongs to none, and what it includes counts for
those who include it.

Ops on shards belong to few folders: `.local()`, which makes a tensor of a
shard, is counted in the others.

From the import statements of python/: no module leads back to itself. Those
inside of functions count, and those for type checkers alone do not. A package
stands above its modules: to import one of them is no import of the package, to
import the package or a name of its `__init__` is. Names of modules in texts, as
in a table of patches, are no imports.
"""

import argparse
import ast
import collections
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_CORE = {"core"}
_RULES = _CORE | {"rules"}
_PLAN = _RULES | {"plan"}
_LOWER = _PLAN | {"lower"}
_SHARD = _LOWER | {"trace", "shard"}
_COMM = _SHARD | {"job", "comm"}
_TENSOR = _COMM | {"tensor"}
_RUN = _TENSOR | {"random", "run"}
_DISPATCH = _RUN | {"dispatch"}
_PROGRAM = _DISPATCH | {"program"}
_DEVICE = _PROGRAM | {"device"}

MAY_INCLUDE = {
    "core": _CORE,
    "crew": {"crew"},
    "job": _CORE | {"job"},
    "rules": _RULES,
    "plan": _PLAN,
    "lower": _LOWER,
    "trace": _PLAN | {"trace"},
    "shard": _SHARD,
    "comm": _COMM,
    "tensor": _TENSOR,
    "random": _TENSOR | {"random"},
    "run": _RUN,
    "dispatch": _DISPATCH,
    "program": _PROGRAM,
    "device": _DEVICE,
    "layout_map": {"core", "tensor", "layout_map"},
    "python": _DEVICE | {"layout_map", "python"},
}
TORCH_FREE = {"core", "job", "rules", "plan", "lower"}
# Who may reach into a shard with `.local()`; of other folders, how often they
# still do. These numbers fall as their calls move into run/.
MAY_REACH_INTO_SHARDS = {"shard", "comm", "run", "random"}
STILL_REACHES_INTO_SHARDS = {
    "tensor": 26,
    "program": 12,
    "device": 6,
}
# Public headers whose source has another name.
HEADERS = {
    "communicator": "comm",
    "distribution": "layout_map",
    "error": "core",
    "plan": "plan",
    "redistribute": "plan",
    "rule": "rules",
    "tensor": "tensor",
    "trace": "trace",
}

_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
_LOCAL = re.compile(r"\.local\(\)")
_TORCH = re.compile(r"(torch|ATen|c10|caffe2)/")
_TORCH_PYTHON = re.compile(
    r"(Python\.h|pybind11/.*|torch/csrc/utils/(pybind|py\w*|python\w*)\.h"
    r"|torch/csrc/(.*/)?(python_|THP|Exceptions|DynamicTypes|Device\.h).*)$"
)
# header -> what to include instead
_NEVER = {
    "torch/extension.h": "torch/csrc/utils/pybind.h, at a third of the cost",
    "torch/torch.h": "the headers of what is used: it costs 16 s a file",
}


class Tree:
    """The C++ files under `root`, and what they include of each other."""

    def __init__(self, root: Path):
        self.src = root / "src"
        self.include = root / "include"
        self.files = sorted(
            path
            for folder in (self.src, self.include)
            for path in folder.rglob("*")
            if path.suffix in {".h", ".cpp"}
        )
        # Folders in the order of the layers, so that the lowest one wins.
        self._owner_of_header = {
            path.stem: path.parent.name
            for folder in reversed(list(MAY_INCLUDE))
            for path in (self.src / folder).glob("*.cpp")
        }

    def layer(self, path: Path) -> str | None:
        """The folder of src/ that `path` belongs to, if any."""
        if path.is_relative_to(self.src):
            return path.relative_to(self.src).parts[0]
        return HEADERS.get(path.stem, self._owner_of_header.get(path.stem))

    def includes(self, path: Path) -> list[tuple[int, str, Path | None]]:
        """(line, text, file or None if it is not of this project)."""
        text = path.read_text(encoding="utf-8")
        return [
            (
                text.count("\n", 0, match.start(2)) + 1,
                match[2],
                self._resolve(path, match[1], match[2]),
            )
            for match in _INCLUDE.finditer(text)
        ]

    def _resolve(self, path: Path, quote: str, name: str) -> Path | None:
        folders = [self.src, self.include]
        if quote == '"':
            folders.insert(0, path.parent)
        for folder in folders:
            if (folder / name).is_file():
                return (folder / name).resolve()
        return None


def check(root: Path, still_reaches: dict[str, int] | None = None) -> list[str]:
    """One line for each include, or folder, that breaks a rule.

    Args:
        root: of the project.
        still_reaches: number of `.local()` by folder, as
            `STILL_REACHES_INTO_SHARDS`.
    """
    tree = Tree(root.resolve())
    errors = []
    for path in tree.files:
        layer = tree.layer(path)
        where = path.relative_to(root.resolve())
        if layer is not None and layer not in MAY_INCLUDE:
            errors.append(
                f"{where}: folder {layer!r} has no place in the order"
            )
            continue
        for line, name, reason in _violations(tree, path, layer):
            errors.append(f"{where}:{line}: includes {name}: {reason}")
    return errors + _check_reaches(tree, still_reaches or {})


def _check_reaches(tree: Tree, allowed: dict[str, int]) -> list[str]:
    """One line for each folder whose number of `.local()` is another."""
    found: collections.Counter[str] = collections.Counter()
    for path in tree.files:
        layer = tree.layer(path)
        if layer is not None and layer not in MAY_REACH_INTO_SHARDS:
            text = path.read_text(encoding="utf-8")
            found[layer] += len(_LOCAL.findall(text))
    errors = []
    for folder in sorted(found | collections.Counter(allowed)):
        most, number = allowed.get(folder, 0), found[folder]
        if number > most:
            errors.append(
                f"src/{folder}: reaches into shards {number} times, allowed"
                f" {most}: let run/ do it"
            )
        elif number < most:
            errors.append(
                f"src/{folder}: reaches into shards {number} times: write that"
                f" in place of {most}, so that it stays"
            )
    return errors


def _violations(tree: Tree, path: Path, layer: str | None):
    """(line, header, why not) for each include of `path`."""
    # A header without a layer is judged where it is included.
    seen = {path}
    todo = [(line, via, via, to) for line, via, to in tree.includes(path)]
    while todo:
        line, via, name, target = todo.pop(0)
        shown = name if name == via else f"{via} -> {name}"
        if target is None:
            reason = _reason_against_foreign(name, layer)
        else:
            reason = _reason_against(tree.layer(target), layer)
            if tree.layer(target) is None and target not in seen:
                seen.add(target)
                todo += [(line, via, n, t) for _, n, t in tree.includes(target)]
        if reason:
            yield line, shown, reason


def _reason_against(included: str | None, layer: str | None) -> str | None:
    if included is None or layer is None or included in MAY_INCLUDE[layer]:
        return None
    return f"{layer} may not include {included}"


def _reason_against_foreign(name: str, layer: str | None) -> str | None:
    if name in _NEVER:
        return f"use {_NEVER[name]}"
    if _TORCH_PYTHON.match(name) and layer != "python":
        return "only src/python includes torch's Python headers"
    if _TORCH.match(name) and not name.startswith("torch_mesh/"):
        if layer in TORCH_FREE:
            return f"{layer} is free of torch"
    elif name.startswith("torch_mesh/"):
        return "there is no such header"
    return None


# Module name to the modules that it imports, each with the first line.
Imports = dict[str, dict[str, int]]


def check_python(root: Path) -> list[str]:
    """One line for each circle of imports, by its shortest way."""
    folder = root / "python"
    files = {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for suffix in (".py", ".pyi")  # of what is compiled
        for path in sorted(folder.rglob(f"*{suffix}"))
    }
    graph: Imports = {}
    for name, path in files.items():
        graph[name] = {}
        for target, line in _imported(path, name):
            while target and target not in files:  # a name in a module
                target = target.rpartition(".")[0]
            if target:
                graph[name].setdefault(target, line)
    errors = []
    for circle in _circles(graph):
        line = graph[circle[0]][circle[1]]
        where = files[circle[0]].relative_to(root)
        way = " -> ".join(circle)
        errors.append(f"{where}:{line}: imports go round: {way}")
    return errors


def _imported(path: Path, name: str) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of all that the module `name` imports."""
    package = name.split(".")
    if path.stem != "__init__":
        package.pop()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level]
            parts = [*(above if node.level else []), node.module or ""]
            base = ".".join(filter(None, parts))
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno
        todo += ast.iter_child_nodes(node)


def _circles(graph: Imports) -> Iterator[list[str]]:
    """The shortest circle of each set of modules that lead to each other."""
    ways = {name: _ways_from(name, graph) for name in graph}
    knots = {
        frozenset(n for n in ways[name] if name in ways[n])
        for name in graph
        if name in ways[name]
    }
    for knot in sorted(knots, key=min):
        yield min((ways[name][name] for name in sorted(knot)), key=len)


def _ways_from(start: str, graph: Imports) -> dict[str, list[str]]:
    """The shortest way to each module that can be reached, by its end."""
    ways: dict[str, list[str]] = {}
    todo = [[start]]
    while todo:
        way = todo.pop(0)
        for target in sorted(graph[way[-1]].keys() - ways.keys()):
            ways[target] = [*way, target]
            todo.append(ways[target])
    return ways


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="another tree than ours")
    root = parser.parse_args().root
    errors = (
        check(root)
        if root
        else check(Path(__file__).parents[1], STILL_REACHES_INTO_SHARDS)
    )
    errors += check_python((root or Path(__file__).parents[1]).resolve())
    for error in errors:
        print(error)
    if errors:
        print(f"{len(errors)} against the order of the layers.")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
