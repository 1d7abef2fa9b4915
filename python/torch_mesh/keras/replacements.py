"""Replacements that are there before a distribution is.

Each asks one question, and hands over to Keras while the answer is no. What
they do else stands in modules that load the engine, and are imported then.
"""

from __future__ import annotations

import functools
from typing import Any

from torch_mesh.keras import active, checks


def initialize_layout(original: Any) -> Any:
    """For `Variable._initialize_layout`."""

    def _initialize_layout(self: Any) -> None:
        if active.current() is not None:
            from torch_mesh.keras import variable

            variable.initialize_layout(self)
        elif original is not None:
            original(self)

    return _initialize_layout


def initialize(original: Any) -> Any:
    """Wraps `Variable._initialize`."""
    return _placing("initialize", original)


def initialize_with_initializer(original: Any) -> Any:
    """Wraps `Variable._initialize_with_initializer`."""
    return _placing("initialize_with_initializer", original)


def _placing(name: str, original: Any) -> Any:
    # Ours, in `variable`, where the variable gets a layout.
    @functools.wraps(original)
    def method(self: Any, value: Any) -> None:
        if self._layout is None and active.current() is None:
            original(self, value)
        else:
            from torch_mesh.keras import variable

            getattr(variable, name)(self, value, original)

    return method


def variable_repr(original: Any) -> Any:
    """Wraps `Variable.__repr__`."""

    @functools.wraps(original)
    def __repr__(self: Any) -> str:
        text: str = original(self)
        value = self._value if hasattr(self, "_value") else None
        if value is None or value.device.type != "mesh":
            return text
        from torch_mesh.keras.describe import repr_with_layout

        return repr_with_layout(self, text)

    return __repr__


def get_tensor_layout(original: Any) -> Any:
    """Wraps `ModelParallel.get_tensor_layout`."""

    @functools.wraps(original)
    def get_tensor_layout(self: Any, path: str) -> Any:
        # Asked by each layer, for its output.
        if active.current() is not None and not active.on_mesh():
            return None
        return original(self, path)

    return get_tensor_layout


def scatter(original: Any) -> Any:
    """Wraps `keras.ops.scatter` of the backend."""
    return _indexing("scatter", original)


def associative_scan(original: Any) -> Any:
    """Wraps `keras.ops.associative_scan` of the backend."""
    return _indexing("associative_scan", original)


def _indexing(name: str, original: Any) -> Any:
    # Ours, in `indexing`, while the mesh is Keras's device.
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        if not active.on_mesh():
            return original(*args, **kwargs)
        from torch_mesh.keras import indexing

        return getattr(indexing, name)(original, *args, **kwargs)

    return function


def should_torch_compile(original: Any) -> Any:
    """Wraps `TorchTrainer._should_torch_compile`."""

    @functools.wraps(original)
    def _should_torch_compile(self: Any) -> Any:
        if not self.jit_compile or not (
            active.current() is not None or active.on_mesh()
        ):
            return original(self)
        from torch_mesh.keras import trainer

        return trainer.tell_eager(self)

    return _should_torch_compile


def clear_session(original: Any) -> Any:
    """Wraps `keras.utils.clear_session`."""

    @functools.wraps(original)
    def clear_session(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        active.switch(None)
        return result

    return clear_session


def set_distribution(original: Any) -> Any:
    """Wraps `keras.distribution.set_distribution`."""

    @functools.wraps(original)
    def set_distribution(value: Any) -> None:
        if value is not None:
            checks.check_distribution(value)
        active.switch(value)
        original(value)

    return set_distribution


def layout_map_getitem(original: Any) -> Any:
    """For `LayoutMap.__getitem__`."""

    @functools.wraps(original)
    def __getitem__(self: Any, key: str) -> Any:
        lookups = self.__dict__.get("_torch_mesh_lookups")
        if lookups is None:
            from torch_mesh.keras import layout_map

            lookups = layout_map.lookups_of(self)
        return lookups.get(key)

    return __getitem__


def layout_map_adapter(original: Any) -> Any:
    """For `LayoutMap._get_path_adapter`."""

    def _get_path_adapter(self: Any) -> Any:
        """The map's `torch_mesh.keras.TorchPathAdapter`."""
        from torch_mesh.keras import layout_map

        return layout_map.lookups_of(self).adapter

    return _get_path_adapter
