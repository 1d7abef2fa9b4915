"""Keras's variable paths and PyTorch's parameter names, both ways.

Keras writes `sequential/dense/kernel`, PyTorch `sequential.dense.weight`. A
pattern written for one finds the other through the forms that this file gives
a path.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch_mesh.keras.expressions import fullmatch


def _engine() -> Any:
    """The C++ module: loaded by the first look-up, not by `import keras`."""
    from torch_mesh import _C

    return _C


class TorchPathAdapter:
    """Translates variable paths between Keras and PyTorch.

    Conversions are remembered, in both directions: a layer's name that has a
    dot in it comes back as it was.

    Example:

    >>> adapter = TorchPathAdapter()
    >>> adapter.keras_to_torch("sequential/dense/kernel")
    'sequential.dense.kernel'
    >>> adapter.torch_to_keras("sequential.dense.kernel")
    'sequential/dense/kernel'
    >>> adapter.match_pattern("dense.*kernel", "sequential.dense.weight")
    True
    """

    def __init__(self) -> None:
        self._torch_of: dict[str, str] = {}
        self._keras_of: dict[str, str] = {}

    def keras_to_torch(self, path: str) -> str:
        """Translates a Keras path.

        Args:
            path: Segments with slashes between.

        Returns:
            The same segments with dots between.
        """
        found = self._torch_of.get(path)
        if found is None:
            found = path.replace("/", ".")
            self._torch_of[path] = found
            self._keras_of.setdefault(found, path)
        return found

    def torch_to_keras(self, path: str) -> str:
        """Translates a PyTorch parameter name.

        Args:
            path: Segments with dots between.

        Returns:
            The Keras path that `keras_to_torch` made it from, or else the same
            segments with slashes between.
        """
        found = self._keras_of.get(path)
        if found is None:
            found = path.replace(".", "/")
            self._keras_of[path] = found
        return found

    def match_pattern(self, pattern: str, path: str) -> bool:
        """Whether a LayoutMap's pattern finds a path.

        Args:
            pattern: A regular expression, or the path itself.
            path: A path in either form. Of a PyTorch name that
                `keras_to_torch` made, the Keras path is asked too.

        Returns:
            True if the pattern is the path, matches all of it, or matches an
            end of it, or of its other form, that begins at a segment.

        Raises:
            re.error: if `pattern` is not a regular expression.
        """
        find = _matcher(pattern).find
        if find(path) is not None:
            return True
        origin = self._keras_of.get(path, path)
        return origin != path and find(origin) is not None

    def other_forms(self, path: str) -> tuple[str, ...]:
        """The names under which the other framework knows a path.

        Args:
            path: A path in either form.

        Returns:
            For a Keras path: with dots, and the same with PyTorch's parameter
            name. For a PyTorch name: with slashes, and the same with each
            Keras name that the parameter can have.
        """
        return tuple(_engine().other_forms_of(path))

    def clear_cache(self) -> None:
        """Forgets all conversions."""
        self._torch_of.clear()
        self._keras_of.clear()


def is_torch_path(path: str) -> bool:
    """Whether a path is in PyTorch's form: dots, and no slash.

    Args:
        path: Any path.
    """
    return "." in path and "/" not in path


def ends(path: str) -> tuple[str, ...]:
    """The ends of a path that begin at a segment, the longest first.

    Args:
        path: A path in either form.

    Returns:
        Without the whole path: ("dense/kernel", "kernel") for
        "sequential/dense/kernel".
    """
    return tuple(_engine().ends_of(path))


def torch_axes(axes: tuple[object, ...]) -> tuple[object, ...]:
    """Permutes the axes of a Keras kernel as PyTorch stores the weight.

    Args:
        axes: One entry per dim of a Keras kernel: [in, out] of Dense,
            [kh, kw, in, out] of a convolution.

    Returns:
        The entries for PyTorch's `weight`: [out, in], [out, in, kh, kw]. One
        entry or none stays.
    """
    if len(axes) < 2:
        return axes
    return (axes[-1], axes[-2], *axes[:-2])


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> Any:
    return _engine().Matcher([pattern], fullmatch)
