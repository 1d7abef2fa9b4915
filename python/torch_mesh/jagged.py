"""Attention over jagged nested tensors whose values are on the mesh.

Torch's own function turns them into nested tensors of strided layout, which no
mesh holds, and calls a kernel for those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from torch_mesh import _C, tensors


def attention(own: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the attention that nested tensors look for."""

    @functools.wraps(own)
    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        parts = (query, key, value)
        rest = (attn_mask, dropout_p, is_causal, scale, enable_gqa)
        if not any(_is_on_mesh(part) for part in parts):
            return own(*parts, *rest)
        if all(_is_jagged(part) and part._ragged_idx == 1 for part in parts):
            return own(*parts, *rest)  # that is attention over their values
        is_plain = attn_mask is None and not (dropout_p or is_causal)
        if is_plain and _can_be_padded(query, key, value):
            return _padded(query, key, value, scale)
        return _gathered(own, parts, rest)

    return attention


def _is_jagged(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.layout == torch.jagged


def _is_on_mesh(x: Any) -> bool:
    return _is_jagged(x) and _C.is_global(x._values)


def _can_be_padded(*parts: Any) -> bool:
    """Whether these are batch, heads, a ragged dim, features; all of a kind."""
    if not all(
        _is_on_mesh(part)
        and part.dim() == 4
        and part._ragged_idx == 2
        and part.lengths() is None
        and part.transpose(1, 2).is_contiguous()
        for part in parts
    ):
        return False
    query, key, value = parts
    return (
        query.size(-1) == key.size(-1)
        and query.dtype == key.dtype == value.dtype
        and query.size(0) == key.size(0) == value.size(0)
        and query.size(1) == key.size(1) == value.size(1)
        and torch.equal(_rows(key), _rows(value))
        # A query without keys is no row of a softmax.
        and bool(_rows(query).diff().gt(0).all())
        and bool(_rows(key).diff().gt(0).all())
    )


def _rows(x: Any) -> torch.Tensor:
    """Where each sequence begins among the rows, on the host."""
    return tensors.full(x.offsets()).cpu()


def _padded(query: Any, key: Any, value: Any, scale: float | None) -> Any:
    """As one batch of the longest length, in the layout of the values."""
    rows = _rows(query), _rows(key)
    q, k, v = (
        _dense(part, of_part).transpose(1, 2)
        for part, of_part in (
            (query, rows[0]),
            (key, rows[1]),
            (value, rows[1]),
        )
    )
    is_key = _is_row(rows[1])
    mask = None if is_key.all() else is_key[:, None, None, :]
    found = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    found = found.transpose(1, 2).flatten(0, 1)
    is_query = _is_row(rows[0]).flatten()
    if not is_query.all():
        places = _on_mesh_of(query, is_query.nonzero().flatten())
        found = found.index_select(0, places)
    return _like(query, found).transpose(1, 2)


def _is_row(rows: torch.Tensor) -> torch.Tensor:
    """Of each sequence and place, whether there is a row."""
    lengths = rows.diff()
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _dense(x: Any, rows: torch.Tensor) -> torch.Tensor:
    """Batch, longest length, heads, features; zeros beyond each sequence."""
    values = x.transpose(1, 2).values()
    is_row = _is_row(rows)
    if is_row.all():
        return values.unflatten(0, is_row.shape)
    places = torch.where(
        is_row, rows[:-1, None] + torch.arange(is_row.shape[1]), len(values)
    )
    # What stands in the rows of others may be no number.
    with_zeros = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
    found = with_zeros.index_select(0, _on_mesh_of(x, places.flatten()))
    return found.unflatten(0, is_row.shape)


def _on_mesh_of(x: Any, t: torch.Tensor) -> torch.Tensor:
    return tensors.distribute(t, tensors.layout(x._values).mesh)


def _like(x: Any, values: torch.Tensor) -> Any:
    """A nested tensor of batch, a ragged dim and more, of the rows of `x`."""
    from torch.nested._internal import nested_tensor

    return nested_tensor.nested_view_from_values_offsets_lengths(
        values,
        x.offsets(),
        x.lengths(),
        min_seqlen=x._maybe_min_seqlen,
        max_seqlen=x._maybe_max_seqlen,
    )


def _gathered(
    own: Callable[..., Any], parts: tuple[Any, ...], rest: tuple[Any, ...]
) -> Any:
    """What torch gives for the whole values, replicated."""
    mesh = next(tensors.layout(x._values).mesh for x in parts if _is_on_mesh(x))
    # Nested tensors with the same offsets have the same sizes. Both ways are
    # held here: an id is one only while its tensor lives.
    gathered: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    sources: dict[int, torch.Tensor] = {}

    def plain(t: Any) -> Any:
        if not isinstance(t, torch.Tensor) or not _C.is_global(t):
            return t
        if id(t) not in gathered:
            whole = tensors.full(t)
            gathered[id(t)] = t, whole
            sources[id(whole)] = t
        return gathered[id(t)][1]

    def over(t: Any) -> Any:
        if t is None or id(t) in sources:
            return sources.get(id(t))
        return tensors.distribute(t, mesh)

    result = own(
        *(_rebuilt(part, plain) for part in parts),
        _rebuilt(rest[0], plain),
        *rest[1:],
    )
    return _rebuilt(result, over)


def _rebuilt(x: Any, move: Callable[[Any], Any]) -> Any:
    """A nested tensor of moved tensors; another tensor moved."""
    from torch.nested._internal import nested_tensor

    if not _is_jagged(x):
        return move(x)
    return nested_tensor.nested_view_from_values_offsets_lengths(
        move(x.values()),
        move(x.offsets()),
        move(x.lengths()),
        ragged_idx=x._ragged_idx,
        min_seqlen=x._maybe_min_seqlen,
        max_seqlen=x._maybe_max_seqlen,
    )
