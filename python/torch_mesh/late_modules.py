"""Modules that a program may load later, or never: what is done then."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import Any


def when_loaded(names: Iterable[str], call: Callable[[str], None]) -> None:
    """Calls `call(name)` for each module, now or right after it is loaded.

    Args:
        names: Names of modules.
        call: Takes the name of one that is loaded.
    """
    waiting = set()
    for name in names:
        if name in sys.modules:
            call(name)
        else:
            waiting.add(name)
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting, call))


class _Finder:
    """Finds the modules as the other finders do; goes away with the last.

    It waits until a module was executed, and not until it is looked for: a
    program may ask only whether there is such a module.
    """

    def __init__(self, waiting: set[str], call: Callable[[str], None]) -> None:
        self._waiting = waiting
        self._call = call
        self._asking: set[str] = set()  # the other finders, in our place

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self._waiting or name in self._asking:
            return None
        self._asking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking.remove(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                if name in self._waiting:
                    self._waiting.remove(name)
                    if not self._waiting and self in sys.meta_path:
                        sys.meta_path.remove(self)
                    self._call(name)

            loader.exec_module = exec_module
        return spec
