"""Which layout a LayoutMap has for a path.

The rule, in this order:

1. the key that is the path;
2. Keras's: patterns that match the whole path; two are Keras's ValueError;
3. patterns that match an end of the path which begins at a segment;
4. the same on the path as PyTorch writes it.

In 3 and 4 the longest end wins. Two patterns that match it are a tie: it
warns, and the path has no layout, as in Keras. They never raise, so every
program that Keras understands gives Keras's result, and a pattern that Keras
would drop without a word gets a meaning. `TORCH_MESH_MATCH=keras` switches
them off; with `TORCH_MESH_MATCH=search` a pattern finds the paths in which it
occurs, as `re.search` has it, and two are an error.

The rule itself is C++ (src/layout_map/matcher.cpp), which the layout maps of
`torch::nn` modules share. It asks back here about patterns that only `re`
understands, and about paths beyond printable ASCII.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch_mesh import _C
from torch_mesh.keras import torch_module
from torch_mesh.keras.expressions import expression, fullmatch
from torch_mesh.keras.path_adapter import (
    TorchPathAdapter,
    is_torch_path,
    torch_axes,
)

_log = logging.getLogger("torch_mesh.keras")
# A program that logs at INFO did not ask for a line for each variable: who
# wants them sets the level of this logger, or TORCH_MESH_LOG.
_package_log = logging.getLogger("torch_mesh")
if _package_log.level == logging.NOTSET:
    _package_log.setLevel(logging.WARNING)

EXACT = "exact"
KERAS = "keras"
END = "end"
TORCH = "torch"


class Match(NamedTuple):
    """What a LayoutMap has for a path.

    Attributes:
        layout: A Keras `TensorLayout`, or None.
        pattern: The key that found the path, or None.
        rule: Which part of the rule did: EXACT, KERAS, END or TORCH; None if
            no pattern was found.
        matched: The text that the pattern matches: the path or an end of it.
    """

    layout: Any = None
    pattern: str | None = None
    rule: str | None = None
    matched: str | None = None


class Lookups:
    """What one LayoutMap has been asked.

    It ends when the map's keys change: `install` sees to that.

    Attributes:
        adapter: The map's `TorchPathAdapter`.
        get: The layout for a path, or None; remembered.
        by_path: Answers so far.
    """

    def __init__(self, layout_map: Any) -> None:
        self.adapter = TorchPathAdapter()
        self.by_path: dict[str, Any] = {}
        self._keys = list(layout_map)
        layouts = [layout_map._layout_map[key] for key in self._keys]
        if os.environ.get("TORCH_MESH_MATCH") == "search":
            search = _Search(self._keys)
            self._find, self.get = search.find, self._get_by_search
            self._layouts = layouts
            return
        matcher = _C.Matcher(self._keys, fullmatch)
        self._find = matcher.find
        # Nothing that C++ holds leads back to the map: the garbage collector
        # does not see through it.
        beyond = functools.partial(
            _beyond_keras, weakref.ref(layout_map), self._keys, layouts
        )
        self.get = _C.Answers(matcher, layouts, self.by_path, beyond).get

    def _get_by_search(self, path: str) -> Any:
        """`get` where TORCH_MESH_MATCH=search."""
        if path in self.by_path:
            return self.by_path[path]
        found, layout = self._find(path), None
        if isinstance(found, int):
            layout = self._layouts[found]
        elif found is not None:
            keys = [self._keys[index] for index, _ in found[1]]
            raise ValueError(
                f'LayoutMap: several patterns are found in "{path}".\n'
                f"  patterns  {', '.join(keys)}\n"
                "Hint: make all but one of them narrower; "
                "TORCH_MESH_MATCH=search is set. [ambiguous-pattern]"
            )
        self.by_path[path] = layout
        return layout

    def match(self, path: str) -> Match:
        """How a path was found.

        Args:
            path: Path of a variable, or of a layer's output, in either form.

        Returns:
            A `Match`; its `layout` is the object that `get` gives.

        Raises:
            ValueError: if two patterns match the whole path.
        """
        layout = self.get(path)
        found = self._find(path)
        if found is None:
            return Match()
        if isinstance(found, int):
            key = self._keys[found]
            return Match(layout, key, EXACT if key == path else KERAS, path)
        rule, hits = found
        if len(hits) > 1:
            return Match()
        ((index, text),) = hits
        return Match(layout, self._keys[index], rule, text)

    def used(self) -> set[str]:
        """The patterns that have matched a path so far, alone or not."""
        used = set()
        for path in self.by_path:
            found = self._find(path)
            if isinstance(found, int):
                used.add(self._keys[found])
            elif found is not None:
                used.update(self._keys[index] for index, _ in found[1])
        return used

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of a map makes its own.
        return (type(None), ())


class _Search:
    """The rule of TORCH_MESH_MATCH=search: a pattern is found anywhere.

    Patterns for older Keras, and for JAX's rules of partition, are written so.
    """

    def __init__(self, keys: list[str]) -> None:
        self._keys = {key: index for index, key in enumerate(keys)}
        self._expressions = [expression(key) for key in keys]

    def find(self, path: str) -> Any:
        """As `_C.Matcher.find`."""
        if path in self._keys:
            return self._keys[path]
        hits = [
            (index, path)
            for index, found in enumerate(self._expressions)
            if found.search(path)
        ]
        if len(hits) == 1:
            return hits[0][0]
        return (KERAS, hits) if hits else None


def matcher_of(pattern: str) -> Callable[[str], Any]:
    """How one pattern alone finds paths.

    Args:
        pattern: A key of a LayoutMap.

    Returns:
        A function from a path to None, 0 (the path itself, or all of it), or
        the rule and a list of (0, text that the pattern matches).
    """
    if os.environ.get("TORCH_MESH_MATCH") == "search":
        return _Search([pattern]).find
    find: Callable[[str], Any] = _C.Matcher([pattern], fullmatch).find
    return find


def lookups_of(layout_map: Any) -> Lookups:
    """The look-ups of a map, which last until its keys change.

    Args:
        layout_map: A `keras.distribution.LayoutMap`.

    Returns:
        The map's `Lookups`.
    """
    lookups = layout_map.__dict__.get("_torch_mesh_lookups")
    if lookups is None:
        lookups = layout_map._torch_mesh_lookups = Lookups(layout_map)
    return lookups


def say(level: int, text: Callable[[], str]) -> None:
    """Logs a line: to Python's log, and if `TORCH_MESH_LOG` asks, to stderr.

    Args:
        level: 1 for `TORCH_MESH_LOG=info`, 2 for `debug`.
        text: Gives the line; not called if nobody listens.
    """
    of_python = logging.INFO if level == 1 else logging.DEBUG
    if _log.isEnabledFor(of_python):
        _log.log(of_python, "%s", text())
    if _C.log_level() >= level:
        _C.log_line(text())


def found_by(distribution: Any, variable: Any) -> Match | None:
    """What a distribution's map has for a variable.

    Args:
        distribution: A `keras.distribution.Distribution`.
        variable: A Keras `Variable`. What Keras's rule finds for its Keras path
            comes before what `torch_module.path_of` finds.

    Returns:
        The `Match`, or None for a distribution without a LayoutMap.

    Raises:
        ValueError: if two patterns match the whole path.
    """
    layout_map = getattr(distribution, "_layout_map", None)
    if layout_map is None:
        return None
    path = torch_module.path_of(variable)
    found = lookups_of(layout_map).match(variable.path)
    if path != variable.path and found.rule not in (EXACT, KERAS):
        by_name = lookups_of(layout_map).match(path)
        if by_name.layout is not None:
            return by_name
    return found


def report_rank(
    variable: Any, axes: tuple[Any, ...], match: Match | None
) -> None:
    """Reports a layout with more entries than its variable has dims.

    A warning if only the rule's parts 3 or 4 found the layout.

    Args:
        variable: A Keras `Variable`.
        axes: The layout's entries.
        match: How a LayoutMap found it; None for `Variable(layout=)`.

    Raises:
        ValueError: if Keras's rule found it, or the variable brings it.
    """
    source = "layout=" if match is None else f'pattern "{match.pattern}"'
    text = (
        f'LayoutMap: the layout of "{variable.path}" has {len(axes)} entries, '
        f"the variable {len(variable.shape)} dims.\n"
        f"  layout    {tuple(axes)} from {source}\n"
        f"  variable  {list(variable.shape)}\n"
        "Hint: make the pattern narrower, or give one entry per dim. "
        "[layout-rank]"
    )
    if match is None or match.rule not in (END, TORCH):
        raise ValueError(text)
    warnings.warn(f"{text}\nIt is replicated.", stacklevel=2)


def _beyond_keras(
    layout_map: weakref.ref[Any],
    keys: list[str],
    layouts: list[Any],
    path: str,
    rule: str,
    hits: list[tuple[int, str]],
) -> Any:
    """The layout for a path that not just one whole-path pattern has found."""
    if rule == KERAS:
        # Two patterns on the whole path: the error is Keras's own.
        asked: Any = layout_map()
        return type(asked).__getitem__.__wrapped__(asked, path)
    if len(hits) > 1:
        _warn_tie(path, [(keys[index], text) for index, text in hits])
        return None
    ((index, text),) = hits
    say(1, lambda: f'LayoutMap: "{keys[index]}" matches "{text}" of "{path}"')
    layout = layouts[index]
    name = text.rpartition("/")[2]
    if rule == TORCH and is_torch_path(path) and name == "kernel":
        # As PyTorch stores the weight.
        return type(layout)(torch_axes(layout.axes), layout.device_mesh)
    return layout


def _warn_tie(path: str, hits: list[tuple[str, str]]) -> None:
    warnings.warn(
        f'LayoutMap: two patterns match the same end of "{path}"; it has no '
        "layout.\n"
        + "".join(f'  "{p}" matches "{t}"\n' for p, t in hits)
        + "Hint: make one of them narrower, or give the full path as the key. "
        "[ambiguous-end]",
        stacklevel=2,
    )
