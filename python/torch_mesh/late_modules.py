"""Changes to modules of torch that a program may load later, or never."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

Change = Callable[[ModuleType], None]

_FLEX = "torch.nn.attention.flex_attention"
_JAGGED = "torch.nested._internal.ops"


def install() -> None:
    """Makes the changes, now or right after a module is loaded."""
    waiting: dict[str, Change] = {}
    changes: dict[str, Change] = {
        _FLEX: _flex_attention_takes_global_tensors,
        _JAGGED: _jagged_attention_takes_global_tensors,
    }
    for name, change in changes.items():
        module = sys.modules.get(name)
        if module is not None:
            change(module)
        else:
            waiting[name] = change
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting))


class _Finder(MetaPathFinder):
    """Finds these modules as the finders behind it do."""

    def __init__(self, waiting: dict[str, Change]) -> None:
        self._waiting = waiting

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        change = self._waiting.pop(fullname, None)
        if change is None:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Changing(spec.loader, change)
                return spec
        return None


class _Changing(Loader):
    """Loads as `loader` does, then makes a change."""

    def __init__(self, loader: Loader, change: Change) -> None:
        self._loader = loader
        self._change = change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module is to see its own loader: inspect asks it for source text.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._change(module)


def _jagged_attention_takes_global_tensors(module: ModuleType) -> None:
    from torch_mesh import jagged  # for those who have nested tensors

    jagged.attention_takes_global_tensors(module)


def _flex_attention_takes_global_tensors(module: ModuleType) -> None:
    """FlexAttention asks for a kind of device that it knows.

    Where the devices are CPUs the mesh is one: without gradients.
    """
    own = getattr(module, "_validate_device", None)
    if own is None:
        return

    @functools.wraps(own)
    def validated(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        given: tuple[torch.Tensor, ...] = (query, key, value)
        if query.device.type == "mesh":
            given = tuple(
                torch.empty(0, requires_grad=t.requires_grad) for t in given
            )
        own(*given)

    module._validate_device = validated  # type: ignore[attr-defined]
