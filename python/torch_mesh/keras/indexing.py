"""`keras.ops.scatter` in one op.

Keras 3.15.1 adds row by row, and each row reads its index from the device: on
the mesh that is three ops and a wait for every element of a confusion matrix.
"""

from __future__ import annotations

from typing import Any

import torch

from torch_mesh.keras import install

core = install.core()


def scatter(indices: Any, values: Any, shape: Any, original: Any) -> Any:
    """Adds up `values` at `indices` of a tensor of zeros.

    Args:
        indices: Integers [..., depth], 0 <= indices[..., i] < shape[i].
        values: Tensor of shape `indices.shape[:-1] + shape[depth:]`.
        shape: Sizes of the result.
        original: Keras's own function, for what has no such sum.

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
