"""Sums of gradients that are formed while backward goes on.

After a backward pass over a batch that is cut a gradient is a pending sum,
which its first reader forms. Over several processes that waits for the network.
So sums are begun once a bucket of gradients is there, in the order in which
backward makes them, and an optimizer waits for what is left.

Who calls backward more than once before a step adds gradients up, and they are
summed over processes once, at the step: nothing is begun early then. So each
step looks at the backward passes before it to know what the next one does.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from torch_mesh import _C, state_layouts
from torch_mesh.layouts import spans_processes

# Bytes of gradients that travel together.
BUCKET_BYTES = 25 << 20


class _Window:
    """What backward does between two steps of one optimizer."""

    def __init__(self) -> None:
        self._parameters: Any = WeakIdKeyDictionary()
        # Those that the last step named.
        self._last: list[weakref.ref[Tensor]] = []
        self._seen: set[int] = set()
        self._is_repeated = False
        self._begins = False
        self._waiting: list[Tensor] = []
        self._num_bytes = 0

    def step(self, parameters: Iterable[Tensor]) -> None:
        """Begins anew, for these parameters."""
        self._begins = bool(self._seen) and not self._is_repeated
        self._is_repeated = False
        self._seen.clear()
        self._waiting.clear()
        self._num_bytes = 0
        named = list(parameters)
        if len(named) == len(self._last) and all(
            known() is parameter
            for known, parameter in zip(self._last, named, strict=True)
        ):
            return
        self._last = list(map(weakref.ref, named))
        for parameter in named:
            if parameter not in self._parameters and _is_watched(parameter):
                self._parameters[parameter] = True
                _watch(parameter, self)

    def saw(self, parameter: Tensor) -> None:
        """Backward has the gradient of a parameter."""
        key = id(parameter)
        self._is_repeated |= key in self._seen
        self._seen.add(key)
        if not self._begins or self._is_repeated:
            return
        if state_layouts.is_updated_cut(parameter):
            return  # its sum is to be scattered, at the step
        self._waiting.append(parameter)
        self._num_bytes += parameter.nbytes
        if self._num_bytes >= BUCKET_BYTES:
            _C.begin_reductions_of(self._waiting)
            self._waiting.clear()
            self._num_bytes = 0


def _watch(parameter: Tensor, window: _Window) -> None:
    """Tells a window of each gradient, as long as it lives."""
    known = weakref.ref(window)

    def hook(parameter: Tensor) -> None:
        if (window := known()) is None:
            handle.remove()
        else:
            window.saw(parameter)

    handle = parameter.register_post_accumulate_grad_hook(hook)


_hook: Any = None
_windows: weakref.WeakKeyDictionary[Any, _Window] = weakref.WeakKeyDictionary()


def before_step(optimizer: Any, parameters: Iterable[Tensor]) -> None:
    """To be called before each step; in one process it does nothing.

    Args:
        optimizer: Of torch or of Keras.
        parameters: What it updates.
    """
    if _C.job() is None:
        return
    window = _windows.get(optimizer)
    if window is None:
        window = _windows[optimizer] = _Window()
    window.step(parameters)


def watch_torch() -> None:
    """Has all optimizers of torch call `before_step`."""
    global _hook
    if _hook is None:
        _hook = register_optimizer_step_pre_hook(_before_torch_step)


def _before_torch_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    del args, kwargs
    groups = optimizer.param_groups
    if not state_layouts.is_cut(optimizer):
        state_layouts.forget(p for group in groups for p in group["params"])
    before_step(optimizer, (p for group in groups for p in group["params"]))


def _is_watched(parameter: Tensor) -> bool:
    return (
        parameter.requires_grad
        and parameter.is_leaf
        and _C.is_global(parameter)
        and spans_processes(_C.layout_of(parameter).mesh)
    )
