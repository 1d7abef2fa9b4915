"""What the patterns of a LayoutMap have done for a built model.

Each pattern is *used*, if it gave a layout to something; *hidden*, if another
one wins wherever it matches; or *unused*. Of the last two a table warns, once
for each pattern. An unused one that is near to no name of the model is not in
it: a map may serve several models.
"""

from __future__ import annotations

import difflib
import functools
import re
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch_mesh import _C
from torch_mesh.keras import layout_map as maps
from torch_mesh.keras import torch_module

# Names that many layers have: they tell nothing of which one is meant.
_NAMES_OF_WEIGHTS = frozenset(
    ("kernel", "bias", "gamma", "beta", "embeddings", "weight", "output")
)
# Of difflib: "densse" and "dense" have 0.91, "conv" and "dense" 0.22.
_CLOSE = 0.75


class Report(NamedTuple):
    """What became of the patterns of a map.

    Attributes:
        used: Patterns that gave a layout to a path of any model so far, or tie
            with another one for it.
        hidden: Dict of pattern to the words about who wins, and why.
        unused: Dict of pattern to the nearest paths, if any is near.
    """

    used: list[str]
    hidden: dict[str, str]
    unused: dict[str, list[str]]


def report(layout_map: Any, model: Any) -> Report:
    """Tells what became of the patterns of a map.

    Args:
        layout_map: A `keras.distribution.LayoutMap`.
        model: A built Keras model.

    Returns:
        A `Report`, of all that was asked of the map so far.
    """
    lookups = maps.lookups_of(layout_map)
    used = lookups.used()
    hidden: dict[str, str] = {}
    unused: dict[str, list[str]] = {}
    if used.issuperset(layout_map):
        return Report(list(layout_map), hidden, unused)
    paths = _paths_of(model)
    for path in paths:
        layout_map[path]
    used = lookups.used()
    names = {path: frozenset(re.split(r"[/.]", path)) for path in paths}
    for pattern in layout_map:
        if pattern in used:
            continue
        why = _hidden_by(pattern, lookups, paths)
        if why:
            hidden[pattern] = why
        else:
            near = [path for path in paths if re.search(pattern, path)][:2]
            if not near and (candidates := _near(pattern, names)):
                near = _C.nearest_paths(pattern, candidates, 2)
            unused[pattern] = near
    return Report([p for p in layout_map if p in used], hidden, unused)


def warn(layout_map: Any, model: Any, found: Report) -> None:
    """Warns of patterns without effect, in one table.

    Args:
        layout_map: The map; it remembers which patterns were in a table.
        model: The model that `found` is about.
        found: What `report` gave.
    """
    told = layout_map.__dict__.setdefault("_torch_mesh_reported", set())
    rows = [
        *(("hidden", p, why) for p, why in found.hidden.items()),
        *(
            ("unused", p, f"nearest  {', '.join(near)}")
            for p, near in found.unused.items()
            if near
        ),
    ]
    rows = [row for row in rows if row[1] not in told]
    if not rows:
        return
    told.update(pattern for _, pattern, _ in rows)
    width = max(len(pattern) for _, pattern, _ in rows) + 2
    lines = [
        f"  {kind}  {_quoted(pattern).ljust(width)}  {words}"
        for kind, pattern, words in rows
    ]
    warnings.warn(
        f"LayoutMap: {len(rows)} of {len(layout_map)} patterns give no layout "
        f'to a variable of "{model.name}".\n'
        + "\n".join(lines)
        + "\nHint: torch_mesh.keras.describe(model) lists all paths, with the "
        "pattern of each; a pattern begins where a segment of the path does, "
        "or anywhere with TORCH_MESH_MATCH=search. [unused-pattern]",
        stacklevel=2,
    )


def line(found: Report) -> str:
    """The patterns in few words, for the line about a model."""
    parts = [f"{len(found.used)} used"]
    for name, patterns in (("hidden", found.hidden), ("unused", found.unused)):
        shown = ", ".join(_quoted(p) for p in patterns)
        parts.append(f"{len(patterns)} {name}" + (f" ({shown})" * bool(shown)))
    return f"patterns: {', '.join(parts)}"


def _paths_of(model: Any) -> list[str]:
    """Paths of a model's variables, and of the outputs of its layers."""
    paths = [torch_module.path_of(variable) for variable in model.variables]
    paths += [
        f"{layer.path}/output"
        for layer in model._flatten_layers()
        if layer.path is not None
    ]
    return paths


def _hidden_by(pattern: str, lookups: Any, paths: Iterable[str]) -> str:
    """Which pattern wins where this one matches, and why; "" if it does not."""
    find = maps.matcher_of(pattern)
    for path in paths:
        mine = find(path)
        if mine is None:
            continue
        match = lookups.match(path)
        if match.pattern is None:
            continue
        winner = _quoted(match.pattern)
        if match.rule == maps.EXACT:
            return f'{winner} wins: it is the path "{path}"'
        if match.rule == maps.KERAS:
            return f'{winner} wins: it matches all of "{path}"'
        why = f'{winner} wins: it matches "{match.matched}" of "{path}"'
        rule, ((_, text),) = mine
        if rule == match.rule:
            return f'{why}, a longer end than "{text}"'
        return f'{why}, and this one only its other form "{text}"'
    return ""


def _near(pattern: str, names: dict[str, frozenset[str]]) -> list[str]:
    """The paths that have a name like each of those in a pattern.

    One of them is enough if the pattern has alternatives.
    """
    text = re.sub(r"\\[A-Za-z]|\(\?[a-zA-Z]*", " ", pattern)
    words = set(re.findall(r"[A-Za-z_]\w+", text))
    words = {w for w in words if w not in _NAMES_OF_WEIGHTS} or words
    if not words:
        return []
    all_names = frozenset().union(*names.values())
    close = [{n for n in all_names if _are_alike(w, n)} for w in words]
    enough = any if "|" in pattern else all
    return [
        path
        for path, own in names.items()
        if enough(not own.isdisjoint(alike) for alike in close)
    ]


@functools.lru_cache(maxsize=4096)
def _are_alike(word: str, name: str) -> bool:
    matcher = difflib.SequenceMatcher(None, word, name)
    return matcher.real_quick_ratio() >= _CLOSE and matcher.ratio() >= _CLOSE


def _quoted(text: str) -> str:
    return f'"{text}"'
