"""Names for the parameters of torch modules inside Keras models.

Keras's `TorchModuleWrapper` makes a variable of each parameter and names it
"variable", "variable_1", ... in the order in which it meets them. A LayoutMap
is written with PyTorch's names in mind, so such a variable is looked for as
`<name of the wrapper>.<name in named_parameters()>`, "torch_module_wrapper.0.
weight", too. By the matching rule `0.weight` finds it, and `0/kernel`.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch

_NAME = "_torch_mesh_path"


class _Naming(threading.local):
    """Names by parameter, of the module whose variables are being made."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}


_naming = _Naming()


def track_module_parameters(original: Any) -> Any:
    """Wraps `TorchModuleWrapper._track_module_parameters`."""

    @functools.wraps(original)
    def _track_module_parameters(self: Any) -> Any:
        outer = _naming.names
        _naming.names = {id(p): name for name, p in _named(self)}
        try:
            return original(self)
        finally:
            _naming.names = outer

    return _track_module_parameters


def name_variable(variable: Any, value: torch.Tensor) -> None:
    """Names a variable that is being made of a torch module's parameter.

    Args:
        variable: A Keras `Variable`.
        value: What it is made of. Nothing happens if it is no parameter of a
            module that is being wrapped.
    """
    name = _naming.names.get(id(value))
    if name is not None:
        setattr(variable, _NAME, name)


def name_variables(model: Any) -> None:
    """Names the variables of all wrapped modules of a model.

    Args:
        model: A Keras model. Its wrappers may be older than the distribution.
    """
    for layer in model._flatten_layers():
        if not isinstance(getattr(layer, "module", None), torch.nn.Module):
            continue
        names = {id(p): name for name, p in _named(layer)}
        for variable in layer.variables:
            name = names.get(id(variable._value))
            if name is not None:
                setattr(variable, _NAME, name)


def has_name(variable: Any) -> bool:
    """Whether a variable is the parameter of a wrapped torch module.

    Args:
        variable: A Keras `Variable`.
    """
    return hasattr(variable, _NAME)


def path_of(variable: Any) -> str:
    """The path by which a variable is looked for and shown.

    Args:
        variable: A Keras `Variable`.

    Returns:
        PyTorch's name behind the wrapper's for the parameter of a wrapped torch
        module, else Keras's path.
    """
    path: str = getattr(variable, _NAME, variable.path)
    return path


def _named(wrapper: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (f"{wrapper.name}.{name}", parameter)
        for name, parameter in wrapper.module.named_parameters()
    ]
