"""Optimizers whose states and update are cut over an axis of the mesh."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from torch_mesh import cut_update, moves, state_layouts
from torch_mesh.cut_update import CutUpdate
from torch_mesh.patching import Group, Patch, Table

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)

# The axis of each optimizer as it was asked for.
_axes: weakref.WeakKeyDictionary[Optimizer, str | None] = (
    weakref.WeakKeyDictionary()
)


def shard_optimizer(
    optimizer: AnyOptimizer, axis: str | None = None
) -> AnyOptimizer:
    """Cuts the states and the update of an optimizer over an axis of the mesh.

    With data parallelism every device else keeps all states and computes the
    whole update. Cut, each has its part of them: `optimizer.step()`
    reduce-scatters gradients that are pending sums, updates on each device its
    part of each weight, and all-gathers the new weights. That moves the bytes
    of one all-reduce of the gradients. Between steps weights stand as before.

    A weight is cut along a dim that its layout does not cut: the first one that
    divides by the number of devices of the axis, else the first that has a row
    for each. Without one it stays whole, and so do weights that share their
    memory with another of the optimizer.

    If `step` raises, weights that are cut have the values from before it,
    unless it is the gathering of new ones that fails; other weights, and
    states, may be updated in part, as in plain torch.

    Args:
        optimizer: any of `torch.optim`, or one that is made like them, before
            or after its first step. It is changed in place; a copy of it is
            not cut.
        axis: the mesh axis that cuts batches. None takes "data", "batch" or
            "dp", else the first one. Weights may come to the mesh later.

    Returns:
        `optimizer`.

    Raises:
        ValueError: if the mesh has no such axis, or the optimizer is
            differentiable.
        TypeError: if `optimizer` is no `torch.optim.Optimizer`.

    Example:
        >>> model = torch.nn.Linear(8, 4)
        >>> model = parallelize(model, Mesh({"data": 2}))
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> optimizer = shard_optimizer(optimizer)
        >>> model(torch.ones(2, 8)).sum().backward()
        >>> optimizer.step()
        >>> layout(optimizer.state[model.weight]["exp_avg"])
        (S0)
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "shard_optimizer: an optimizer of torch.optim is due, and this is"
            f" a {type(optimizer).__name__}.\n"
            "Hint: for Keras it is DataParallel(shard_optimizer=True)."
            " [argument-type]"
        )
    if optimizer.defaults.get("differentiable"):
        raise ValueError(
            "shard_optimizer: the optimizer is differentiable, and a gradient"
            " through its step needs whole weights.\n"
            "Hint: make it without differentiable=True."
            " [differentiable-optimizer]"
        )
    cut_update.to_cut(_pairs(optimizer), axis)  # says what is wrong
    is_new = optimizer not in _axes
    _axes[optimizer] = axis
    state_layouts.note_optimizer(optimizer)
    moves.let_states_follow(optimizer)
    _BEFORE_STEPS.apply()
    if is_new:
        _replace_step(optimizer)
    return optimizer


def _pairs(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weights that a step updates, and those that it does not yet."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            yield weight, weight.grad


def _to_update(optimizer: Optimizer) -> list[cut_update.Weight]:
    """The weights that a step of the optimizer updates cut."""
    weights = cut_update.to_cut(_pairs(optimizer), _axes[optimizer])
    return [weight for weight in weights if weight.gradient is not None]


class _Step:
    """One step of an optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._update = CutUpdate()

    def take(self) -> None:
        weights = _to_update(self._optimizer)
        cut_update.form_gradients(weights)
        self._update.take(weights)
        moves.states_follow(self._optimizer)

    def run(self, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            if args and callable(args[0]):
                args = (self._around(args[0]), *args[1:])
            elif callable(kwargs.get("closure")):
                kwargs = {**kwargs, "closure": self._around(kwargs["closure"])}
            else:
                self.take()
            result = step(*args, **kwargs)
        except BaseException:
            # Nothing that waits for other processes.
            self._update.give_back(is_updated=False)
            raise
        self._update.give_back()
        return result

    def _around(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """A closure that sees whole weights; what comes after it, cut ones."""

        @functools.wraps(closure)
        def called(*args: Any, **kwargs: Any) -> Any:
            self._update.give_back()
            loss = closure(*args, **kwargs)
            self.take()
            return loss

        return called


def _replace_step(optimizer: Optimizer) -> None:
    """Gives an optimizer a `step` of its own.

    It does not hold the optimizer, which else would live until the garbage
    collector finds it. Schedulers of learning rates ask a method for its
    `__func__`.
    """
    of_class = type(optimizer).step
    before = vars(optimizer).get("step")  # that of a scheduler
    reference = weakref.ref(optimizer)

    @functools.wraps(before or of_class)
    def of_optimizer(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        step = before or of_class.__get__(self)
        return _Step(self).run(step, args, kwargs)

    @functools.wraps(before or of_class)
    def step(*args: Any, **kwargs: Any) -> Any:
        owner = reference()
        assert owner is not None
        return of_optimizer(owner, *args, **kwargs)

    step.__func__ = of_optimizer  # type: ignore[attr-defined]
    optimizer.step = step  # type: ignore[method-assign]


# Replacements, below: norms and scales read gradients before a step does.


def _unscale(original: Any) -> Any:
    """Wraps `GradScaler._unscale_grads_`."""

    @functools.wraps(original)
    def unscaled(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if optimizer in _axes:
            cut_update.form_gradients(_to_update(optimizer))
        return original(self, optimizer, *args, **kwargs)

    return unscaled


def _total_norm(original: Any) -> Any:
    """Wraps `torch.nn.utils.get_total_norm`, which `clip_grad_norm_` calls."""

    @functools.wraps(original)
    def get_total_norm(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        cut_update.form_gradients(cut_update.of_gradients(tensors))
        return original(tensors, *args, **kwargs)

    return get_total_norm


_OF_NORM = "tensors, norm_type=, error_if_nonfinite=, foreach="
# Applied by the first who cuts an optimizer.
_BEFORE_STEPS = Table(
    (
        Group(
            "gradients of cut optimizers",
            (
                Patch(
                    "torch.amp.grad_scaler",
                    "GradScaler._unscale_grads_",
                    _unscale,
                    "gradients are reduce-scattered before they are unscaled",
                    expects="self, optimizer, inv_scale, found_inf, allow_fp16",
                ),
                Patch(
                    "torch.nn.utils.clip_grad",
                    "_get_total_norm",
                    _total_norm,
                    "gradients are reduce-scattered before their norm",
                    expects=_OF_NORM,
                ),
                Patch(
                    "torch.nn.utils",
                    "get_total_norm",
                    _total_norm,
                    "gradients are reduce-scattered before their norm",
                    expects=_OF_NORM,
                ),
            ),
        ),
    ),
    lambda: torch.__version__,
)
