"""How functions of other libraries are replaced: tables, and what they expect.

A `Patch` is one function that is replaced, a `Group` the patches that one
feature needs, a `Table` all groups of a library. A group is applied whole or
not at all: where a patch does not find the function, or finds one with other
parameters, what its group has replaced so far is put back.

The standard library only, so that it loads while Keras does.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Takes the original (None if there is none) and returns the replacement.
Replace = Callable[[Any], Any]


class Patch(NamedTuple):
    """One attribute of a library that is replaced.

    Attributes:
        module: Name of the module that owns it.
        attribute: Dotted name inside the module.
        replacement: A `Replace`, or its name, "module:function", where the
            module is to load when the patch is applied.
        why: What it is for.
        expects: Parameters of the original, as `parameters` gives them; any of
            several texts. None asks nothing.
        new: True if the library has no such attribute and need not have.
        also: Its name in a later version.
        until: The version that needs it no more.
    """

    module: str
    attribute: str
    replacement: Replace | str
    why: str
    expects: str | tuple[str, ...] | None = None
    new: bool = False
    also: str = ""
    until: str = ""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.attribute}"


class Group(NamedTuple):
    """Patches that make sense together only.

    Attributes:
        feature: What is lost without them, for a warning.
        patches: All of them.
        needs: Features without which this one is left out, too.
    """

    feature: str
    patches: tuple[Patch, ...]
    needs: tuple[str, ...] = ()


_NOTHING = object()


class _Done(NamedTuple):
    """A patch that was applied; `own` is what stood in the owner itself."""

    owner: Any
    name: str
    original: Any
    replacement: Any
    own: Any


class Table:
    """The groups of one library, and what became of them.

    Args:
        groups: All groups.
        version: Gives the library's version, as text.
        find: Gives a module of the library by its name.

    Attributes:
        groups: All groups.
        done: What was applied, by `Patch.name`.
        missing: What does not fit, as a list of texts, by feature.
    """

    def __init__(
        self,
        groups: tuple[Group, ...],
        version: Callable[[], str],
        find: Callable[[str], Any] = importlib.import_module,
    ) -> None:
        self.groups = groups
        self.done: dict[str, _Done] = {}
        self.missing: dict[str, list[str]] = {}
        self._version = version
        self._find = find

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The patches of all groups, in order."""
        return tuple(p for group in self.groups for p in group.patches)

    def apply(
        self, module: str | None = None, groups: tuple[Group, ...] | None = None
    ) -> None:
        """Applies patches that are not applied so far. Never raises.

        Args:
            module: Of these alone. None: of all modules.
            groups: These alone.
        """
        for group in self.groups if groups is None else groups:
            for feature in self.missing.keys() & set(group.needs):
                self.missing.setdefault(group.feature, [f"needs {feature}"])
            for patch in group.patches:
                if group.feature in self.missing:
                    break
                if module not in (None, patch.module) or not self._is_due(
                    patch
                ):
                    continue
                problem = self._apply(patch)
                if problem:
                    self.missing[group.feature] = [problem]
            if group.feature in self.missing:
                self.put_back(group)

    def forget(self, module: str) -> None:
        """Lets the patches of a module that was executed anew be due again.

        Args:
            module: Its name.
        """
        for patch in self.patches:
            if patch.module == module:
                self.done.pop(patch.name, None)

    def _is_due(self, patch: Patch) -> bool:
        if patch.name in self.done:
            return False
        return not patch.until or _numbers(self._version()) < _numbers(
            patch.until
        )

    def _apply(self, patch: Patch) -> str:
        """Applies a patch, or says what is wrong with it."""
        try:
            owner, name, original = _look_up(self._find(patch.module), patch)
            if owner is None or (original is None and not patch.new):
                return patch.name
            problem = _misfit(original, patch)
            if problem:
                return f"{patch.name}: {problem}"
            own = vars(owner).get(name, _NOTHING)
            replacement = _replace(patch)(original)
            setattr(owner, name, replacement)
        except Exception as error:  # a patch must not break an import
            return f"{patch.name}: {error!r}"
        self.done[patch.name] = _Done(owner, name, original, replacement, own)
        return ""

    def put_back(self, group: Group) -> None:
        """Undoes what was applied of a group."""
        for patch in group.patches:
            done = self.done.pop(patch.name, None)
            if done is None:
                continue
            if done.own is not _NOTHING:
                setattr(done.owner, done.name, done.own)
            else:
                delattr(done.owner, done.name)
            if done.original is not None and "." not in patch.attribute:
                package = patch.module.partition(".")[0]
                rebind(done.replacement, done.original, package)


def parameters(function: Any) -> str:
    """The parameters of a function, without defaults and annotations.

    Args:
        function: Any function with a signature.

    Returns:
        As "self, shape, *, dtype=, **kwargs": "=" stands for a default.
    """
    texts = []
    starred = False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not starred:
            texts.append("*")
        starred |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = "*" if p.kind is p.VAR_POSITIONAL else ""
        stars = "**" if p.kind is p.VAR_KEYWORD else stars
        default = "" if p.default is p.empty else "="
        texts.append(f"{stars}{p.name}{default}")
    return ", ".join(texts)


def rebind(original: Any, replacement: Any, package: str) -> None:
    """Replaces a function where modules of a package hold it by value.

    Args:
        original: A function.
        replacement: What takes its place.
        package: Name of the package.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != package:
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, replacement)


def _look_up(module: Any, patch: Patch) -> tuple[Any, str, Any]:
    """The owner of an attribute, its name there and its value, or None."""
    found: tuple[Any, str, Any] = (None, "", None)
    for attribute in _names(patch):
        *owners, name = attribute.split(".")
        owner = module
        for owner_name in owners:
            owner = getattr(owner, owner_name, None)
        found = owner, name, getattr(owner, name, None)
        if found[2] is not None:
            break
    return found


def _names(patch: Patch) -> Iterator[str]:
    yield patch.attribute
    if patch.also:
        yield patch.also


def _misfit(original: Any, patch: Patch) -> str:
    """What is unexpected about a function; empty for nothing."""
    if original is None or patch.expects is None:
        return ""
    expected = patch.expects
    expected = (expected,) if isinstance(expected, str) else expected
    found = parameters(original)
    if found in expected:
        return ""
    return f"it takes ({found}), and not ({') or ('.join(expected)})"


def _replace(patch: Patch) -> Replace:
    if not isinstance(patch.replacement, str):
        return patch.replacement
    module, _, function = patch.replacement.partition(":")
    found: Replace = getattr(importlib.import_module(module), function)
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
