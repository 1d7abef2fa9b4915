"""`keras.ops.scatter` in one op, and `associative_scan` on the mesh.

Keras 3.15.1 adds row by row, and each row reads its index from the device: on
the mesh that is three ops and a wait for every element of a confusion matrix.
Its scan puts the results of each step into zeros that it makes on torch's
default device, not on its own.
"""

from __future__ import annotations

from typing import Any

import torch

from torch_mesh.keras import compat
from torch_mesh.keras.device_name import MESH

core = compat.core()


def scatter(original: Any, indices: Any, values: Any, shape: Any) -> Any:
    """Adds up `values` at `indices` of a tensor of zeros.

    Args:
        original: Keras's own function, for what has no such sum.
        indices: Integers [..., depth], 0 <= indices[..., i] < shape[i].
        values: Tensor of shape `indices.shape[:-1] + shape[depth:]`.
        shape: Sizes of the result.

    Returns:
        A tensor on the default device, of the dtype of `values`. Values of
        equal indices are summed in their order, up to rounding.
    """
    rows = core.convert_to_tensor(indices)
    added = core.convert_to_tensor(values)
    depth = rows.shape[-1]
    if depth == 0 or added.dtype == torch.bool:
        return original(indices, values, shape)
    rows = rows.reshape(-1, depth).to(torch.int64)
    added = added.reshape(-1, *shape[depth:])
    zeros = torch.zeros(
        tuple(shape), dtype=added.dtype, device=core.get_device()
    )
    return zeros.index_put(rows.unbind(1), added, accumulate=True)


def associative_scan(
    original: Any, f: Any, elems: Any, reverse: bool = False, axis: int = 0
) -> Any:
    """Combines the elements along an axis, each with those before it.

    Args:
        original: Keras's own function.
        f: Associative function of two structures like `elems`.
        elems: Structure of tensors of one length along `axis`.
        reverse: Whether to begin at the end.
        axis: The dim to scan.

    Returns:
        A structure like `elems`, of tensors on the mesh.
    """
    with torch.device(MESH):
        return original(f, elems, reverse=reverse, axis=axis)
