"""Puts a module on a mesh, each parameter in the layout of its name."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from torch_mesh import _C, moves, plan_words, tensors
from torch_mesh.description import PATTERNS, named_tensors
from torch_mesh.in_force import batches_paused
from torch_mesh.layouts import Layout, Mesh, Placements, as_layout

# What a pattern gives: placements, a layout, a word of `plan_words`, or None
# for a replica.
Value: TypeAlias = Placements | Layout | str | None

AnyModule = TypeVar("AnyModule", bound=Module)

_REGEX_ONLY = re.compile(r"[\\()\[\]{}+^$|]")
_PARAMETRIZED = re.compile(r"(.*?\.|)parametrizations\.([^.]+)\.original\d*")
_NAME = re.compile(r"[\w./-]+")
_STAR_OF_A_GLOB = re.compile(r"(?:^|[\w-])\*")
_PREFERRED_AXES = ("model", "tp")


class _Found(NamedTuple):
    """What a name has found.

    Attributes:
        place: of the pattern, among all of them.
        is_keras_kernel: whether it was found under Keras's name for a weight,
            whose dims lie in another order.
        is_module: whether it names the module that owns the tensor.
    """

    place: int
    is_keras_kernel: bool
    is_module: bool


class _Tensor(NamedTuple):
    name: str
    tensor: Tensor
    module: Module


class _Choice(NamedTuple):
    layout: Layout
    pattern: str


def parallelize(
    model: AnyModule,
    mesh: Mesh,
    layouts: Mapping[str, Value] | None = None,
    *,
    axis: str | None = None,
) -> AnyModule:
    """Puts a module on a mesh, each parameter in the layout of its name.

    Parameters stay the same objects: ties hold, and an optimizer that was made
    before goes on. Each device gets its shards alone, never the whole of what
    is cut. On the meta device nothing is allocated: `load_state_dict` or
    `to_empty` comes after. A bias without a pattern of its own follows its
    weight; what no pattern finds, and buffers, are replicated.

    Args:
        model: any module, on a plain device, on the mesh or on the meta
            device. It is changed in place.
        mesh: a `Mesh`.
        layouts: dict of pattern to value. A pattern is the name of a parameter
            or of a module, a glob (`"*.q_proj"`), or a regular expression, on
            the whole name or an end of it, in PyTorch's form or in Keras's
            (`"dense/kernel"`). A value is placements, a `Layout`, None for a
            replica, or a word of the tensor-parallel plans of transformers:
            `"colwise"`, `"rowwise"`, ... None takes the plan that a Hugging
            Face model ships, and replicates a model that has none.
        axis: the mesh axis that words cut over. None takes "model", else "tp",
            else the last one.

    Returns:
        `model`.

    Raises:
        ValueError: on a word that is unknown (it names those that are known),
            an axis that the mesh has not, a layout that does not fit, or two
            patterns that find one name. The model is as it was.
        TypeError: if `model` is no module, or `mesh` no mesh.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
        ... )
        >>> mesh = Mesh({"data": 2, "model": 2})
        >>> model = parallelize(model, mesh, {"0": "colwise", "2": "rowwise"})
        >>> layout(model[0].bias)
        (R, S0)
    """
    if not isinstance(model, Module):
        raise TypeError(
            "parallelize: a module is due, and this is a"
            f" {type(model).__name__}.\n"
            "Hint: torch_mesh.distribute takes a tensor. [argument-type]"
        )
    if tensors.runs_plain():
        return model
    whole = as_layout(mesh)
    chooser = _Chooser(mesh, layouts, axis, model)
    choices = chooser.choices(model)
    _resized_embeddings_keep_layouts(type(model))
    patterns: dict[str, str] = model.__dict__.setdefault(PATTERNS, {})
    done: set[int] = set()
    with batches_paused():
        for name, tensor in named_tensors(model):
            choice = choices.get(id(tensor))
            layout = whole if choice is None else choice.layout
            patterns[name] = "" if choice is None else choice.pattern
            if id(tensor) not in done:
                done.add(id(tensor))
                _place(tensor, layout)
    chooser.hook(model)
    return model


def _place(tensor: Tensor, layout: Layout) -> None:
    if not tensor.is_meta:
        moves.place(tensor, layout)
        return
    placed: Tensor = moves.unwritten_like(tensor, layout)
    if isinstance(tensor, torch.nn.Parameter):
        placed = torch.nn.Parameter(placed, tensor.requires_grad)
    torch.utils.swap_tensors(tensor, placed)


class _Chooser:
    """Finds the layout of each parameter."""

    def __init__(
        self,
        mesh: Mesh,
        layouts: Mapping[str, Value] | None,
        axis: str | None,
        model: Module,
    ) -> None:
        self._mesh = mesh
        self._is_shipped = layouts is None
        table = _plan_of(model) if layouts is None else _table_of(layouts)
        self._patterns = list(table)
        self._values = list(table.values())
        self._axis = _axis_of(mesh, axis)
        regex_of = _regex_of_plan if self._is_shipped else _regex_of
        self._matcher = _C.Matcher(
            [regex_of(pattern) for pattern in self._patterns], _fullmatch
        )
        self._used: set[int] = set()
        for pattern, value in zip(self._patterns, self._values, strict=True):
            self._check(pattern, value)

    def _check(self, pattern: str, value: Value) -> None:
        if _is_word(value):
            if value not in plan_words.WORDS:
                raise ValueError(
                    f'parallelize: "{value}" is no word of a plan.\n'
                    f'  pattern  "{pattern}"\n'
                    f"  known    {', '.join(plan_words.WORDS)}\n"
                    'Hint: give a word, placements such as ("R", "S0"), or'
                    " None. [unknown-word]"
                )
        elif isinstance(value, Layout) and value.mesh != self._mesh:
            raise ValueError(
                "parallelize: the layout is one of another mesh.\n"
                f'  pattern  "{pattern}"\n'
                f"  mesh     {self._mesh._native}\n"
                f"  mesh     {value.mesh._native}\n"
                "Hint: give placements. [mixed-meshes]"
            )

    def choices(self, model: Module) -> dict[int, _Choice]:
        """The layouts of parameters that a pattern has, by their id.

        A tied one has that of the first of its names that a pattern finds.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        owned = [
            _Tensor(name, tensor, modules[_plain_name(name).rpartition(".")[0]])
            for name, tensor in named_tensors(model)
        ]
        for item in owned:
            _check_has_shape(item)
        choices: dict[int, _Choice] = {}
        by_name: dict[str, tuple[_Tensor, _Choice]] = {}
        open_biases = []
        for item in owned:
            found = self._find(_plain_name(item.name))
            if found is None:
                if "bias" in item.name.rpartition(".")[2]:
                    open_biases.append(item)
                continue
            value = self._values[found.place]
            if found.is_module and not _is_word(value) and _is_bias(item):
                open_biases.append(item)
                continue
            if found.is_module and not isinstance(
                item.tensor, torch.nn.Parameter
            ):
                continue  # a buffer of a module that is named
            choice = self._choice(item, found)
            by_name[_plain_name(item.name)] = (item, choice)
            choices.setdefault(id(item.tensor), choice)
        for item in open_biases:
            weight = by_name.get(_weight_of(item.name))
            if weight is not None:
                choices.setdefault(id(item.tensor), _follow(item, *weight))
        if not self._is_shipped:
            self._warn_unused([item.name for item in owned], list(modules))
        return choices

    def _find(self, name: str) -> _Found | None:
        found = self._ask(name, is_module=False)
        module, dot, _ = name.rpartition(".")
        if found is None and dot:
            found = self._ask(module, is_module=True)
        return found

    def _ask(self, name: str, is_module: bool) -> _Found | None:
        answer: Any = self._matcher.find(name)
        if answer is None:
            return None
        if isinstance(answer, int):
            self._used.add(answer)
            return _Found(answer, False, is_module)
        rule, hits = answer
        if len(hits) > 1:
            raise ValueError(
                f'parallelize: two patterns find "{name}".\n'
                f'  "{self._patterns[hits[0][0]]}"\n'
                f'  "{self._patterns[hits[1][0]]}"\n'
                "Hint: make one of them narrower, or give the full name as the"
                " key. [ambiguous-pattern]"
            )
        ((index, text),) = hits
        self._used.add(index)
        is_kernel = rule == "torch" and text.rpartition("/")[2] == "kernel"
        return _Found(index, is_kernel, is_module)

    def _choice(self, item: _Tensor, found: _Found) -> _Choice:
        pattern, value = self._patterns[found.place], self._values[found.place]
        shown = pattern
        try:
            if _is_word(value):
                shown = f"{pattern}: {value}"
                place = plan_words.placement_of(
                    str(value),
                    item.module,
                    item.tensor,
                    self._mesh.axes[self._axis],
                )
                layout = as_layout(self._mesh, {self._axis: place})
            elif isinstance(value, Layout):
                layout = value
            else:
                layout = as_layout(self._mesh, value, item.tensor.dim())
            if found.is_keras_kernel:
                layout = _as_torch_stores(layout, item.tensor.dim())
            layout.shard_shape(item.tensor.shape)
        except (ValueError, TypeError) as error:
            raise type(error)(
                f'parallelize: "{item.name}" of {list(item.tensor.shape)} does'
                f' not take what "{pattern}" has for it, {value!r}.\n{error}'
            ) from None
        return _Choice(layout, shown)

    def _warn_unused(self, names: list[str], modules: list[str]) -> None:
        for module in modules:
            if module:
                self._ask(module, is_module=True)
        for index, pattern in enumerate(self._patterns):
            if index not in self._used:
                near = _C.nearest_paths(pattern, names + modules[1:], 3)
                warnings.warn(
                    f'parallelize: the pattern "{pattern}" matches no parameter'
                    " and no module.\n"
                    f"  nearest  {', '.join(near) or 'none'}\n"
                    "Hint: torch_mesh.describe(model) lists all names."
                    " [unused-pattern]",
                    stacklevel=4,
                )

    def hook(self, model: Module) -> None:
        """Gives modules the hooks that their layouts and words ask for.

        Scripted modules take none; without one more is moved, no value differs.
        """
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            hooks = module._forward_pre_hooks
            for key, hook in list(hooks.items()):
                if isinstance(hook, _HOOKS):
                    del hooks[key]
            if _has_cut_outputs(module):
                module.register_forward_pre_hook(plan_words.FormGradients())
            found = self._ask(name, is_module=True) if name else None
            value = None if found is None else self._values[found.place]
            if _is_word(value) and plan_words.cuts_sequence(str(value)):
                module.register_forward_pre_hook(
                    plan_words.CutSequence(self._axis)
                )


_HOOKS = (plan_words.CutSequence, plan_words.FormGradients)


def _has_cut_outputs(module: Module) -> bool:
    """Whether a module owns a matrix that is cut along its outputs."""
    for parameter in module._parameters.values():
        if parameter is None or parameter.dim() < 2:
            continue
        dim = plan_words.output_dim(module, parameter)
        placements = tensors.layout(parameter).placements
        if any(p.partition("/")[0] == f"S{dim}" for p in placements):
            return True
    return False


def _plain_name(name: str) -> str:
    """ "fc.weight" of "fc.parametrizations.weight.original0"; else the name.

    torch.nn.utils.parametrize moves the tensors of a parameter there; they go
    where it would.
    """
    parts = _PARAMETRIZED.fullmatch(name)
    return name if parts is None else parts[1] + parts[2]


def _check_has_shape(item: _Tensor) -> None:
    if is_lazy(item.tensor):
        raise ValueError(
            f'parallelize: "{item.name}" of a lazy module has no shape yet.\n'
            "Hint: run the model on one batch first. [lazy-parameter]"
        )


def _is_word(value: Value) -> bool:
    """A text that is not that of a layout."""
    return isinstance(value, str) and not value.lstrip().startswith(("(", "{"))


def _is_bias(item: _Tensor) -> bool:
    return "bias" in item.name.rpartition(".")[2]


def _weight_of(bias: str) -> str:
    """The name of the weight beside a bias: "fc.weight" of "fc.bias"."""
    module, dot, name = bias.rpartition(".")
    return module + dot + name.replace("bias", "weight")


def _follow(bias: _Tensor, weight: _Tensor, choice: _Choice) -> _Choice:
    """A bias is cut where the outputs of its weight are."""
    dim = plan_words.output_dim(weight.module, weight.tensor)
    placements = []
    for placement in choice.layout.placements:
        cut, slash, block = placement.partition("/")
        is_cut = cut == f"S{dim}" and bias.tensor.dim() == 1
        placements.append(f"S0{slash}{block}" if is_cut else "R")
    layout = Layout(choice.layout.mesh, placements)
    return _Choice(layout, f"as {weight.name.rpartition('.')[2]}")


def _as_torch_stores(layout: Layout, ndim: int) -> Layout:
    """A layout of Keras's kernel, [..., in, out], for [out, in, ...]."""
    dims = {ndim - 1: 0, ndim - 2: 1}
    dims |= {dim: dim + 2 for dim in range(ndim - 2)}
    placements = []
    for placement in layout.placements:
        if placement.startswith("S") and ndim > 1:
            cut, slash, block = placement.partition("/")
            placement = f"S{dims[int(cut[1:])]}{slash}{block}"
        placements.append(placement)
    return Layout(layout.mesh, placements)


def _table_of(layouts: Mapping[str, Value]) -> Mapping[str, Value]:
    """The patterns of a user, who may have given something else."""
    if not isinstance(layouts, Mapping):
        raise TypeError(
            "parallelize: layouts are a dict of pattern to value, and this is"
            f" a {type(layouts).__name__}.\n"
            'Hint: {"fc1": "colwise", "fc2": "rowwise"}. [argument-type]'
        )
    for pattern in layouts:
        if not isinstance(pattern, str):
            raise TypeError(
                "parallelize: a pattern is a text, and this is"
                f" {pattern!r}.\n"
                "Hint: give names of parameters or modules. [argument-type]"
            )
        try:
            _compiled(_regex_of(pattern))
        except re.error as error:
            raise ValueError(
                f'parallelize: "{pattern}" is no name, no glob and no regular'
                f" expression: {error}.\n"
                "Hint: a backslash before (, [ or { takes it as it is."
                " [pattern-text]"
            ) from None
    return layouts


def _axis_of(mesh: Mesh, axis: str | None) -> str:
    names = mesh.axis_names
    if axis is None:
        preferred = [name for name in _PREFERRED_AXES if name in names]
        return (*preferred, names[-1])[0]
    if axis not in names:
        raise ValueError(
            f'parallelize: the mesh has no axis "{axis}".\n'
            f"  mesh  {mesh._native}\n"
            f"Hint: its axes are {', '.join(names)}. [unknown-axis]"
        )
    return axis


def _plan_of(model: Module) -> dict[str, str]:
    """The plan that a model ships: with the base model's names in full."""
    plan = getattr(model, "_tp_plan", None)
    if plan:
        return dict(plan)
    config = getattr(model, "config", None)
    base = getattr(config, "base_model_tp_plan", None) or {}
    prefix = getattr(model, "base_model_prefix", "")
    if prefix and hasattr(model, prefix):
        return {f"{prefix}.{key}": word for key, word in base.items()}
    return dict(base)


def _regex_of_plan(pattern: str) -> str:
    """A star of a shipped plan stands for the number of a layer."""
    return re.escape(pattern).replace(r"\*", r"\d+")


def _regex_of(pattern: str) -> str:
    """A pattern as a regular expression; a name or a glob becomes one."""
    if _NAME.fullmatch(pattern):
        return pattern.replace(".", r"\.")
    if _REGEX_ONLY.search(pattern) or not _STAR_OF_A_GLOB.search(pattern):
        return pattern
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _fullmatch(pattern: str, text: str) -> bool:
    """For patterns that the matcher leaves to `re`."""
    return _compiled(pattern).fullmatch(text) is not None


def _resized_embeddings_keep_layouts(kind: type) -> None:
    """transformers makes new embeddings, which would be replicated."""
    name = "resize_token_embeddings"
    for owner in kind.__mro__:
        resize = owner.__dict__.get(name)
        if resize is not None and not hasattr(resize, PATTERNS):
            setattr(owner, name, _keeping_layouts(resize))


def _keeping_layouts(resize: Any) -> Any:
    @functools.wraps(resize)
    def resized(self: Module, *args: Any, **kwargs: Any) -> Any:
        before = {
            name: tensors.layout(parameter)
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if tensors.is_global(parameter)
        }
        result = resize(self, *args, **kwargs)
        for name, parameter in self.named_parameters(remove_duplicate=False):
            layout = before.get(name)
            if layout is not None and moves.fits(layout, parameter):
                moves.place(parameter, layout)
        return result

    setattr(resized, PATTERNS, True)
    return resized
