"""Which calls must agree bit for bit: those that re-order no sum.

Pointwise ops, movement of data, choices by comparison and random draws give
the same bits under every layout. A call is known by the aten ops that plain
torch runs for it.
"""

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# Neither tagged pointwise nor views.
EXACT = """
_assert_async _chunk_cat _conj_physical _copy_from
_efficientzerotensor _fill_mem_eff_dropout_mask_ _foreach_abs _foreach_add
_foreach_ceil _foreach_clamp_max _foreach_clamp_min _foreach_copy _foreach_div
_foreach_floor _foreach_frac _foreach_maximum _foreach_minimum _foreach_mul
_foreach_neg _foreach_reciprocal _foreach_round _foreach_sign _foreach_sqrt
_foreach_sub _foreach_trunc _foreach_zero _index_put_impl _local_scalar_dense
_neg_view_copy _pin_memory _shape_as_tensor _to_copy _unsafe_index
_unsafe_masked_index _unsafe_view all allclose amax amin aminmax any arange
argmax argmin as_strided_copy as_strided_scatter bernoulli bincount
block_diag bucketize cat cauchy channel_shuffle clone
complex constant_pad_nd copy count_nonzero cummax cummin diag_embed
diagonal_backward diagonal_copy diagonal_scatter embedding empty
empty_like empty_permuted empty_strided equal expand_copy exponential eye fill
flip full full_like gather geometric im2col index index_copy
index_fill index_put index_select isclose isin kthvalue lift_fresh linspace
log_normal logspace masked_fill masked_scatter masked_select max
max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
median min mode multinomial nanmedian narrow_copy native_dropout new_empty
new_empty_strided new_full new_ones new_zeros nonzero nonzero_static normal
ones ones_like permute_copy pixel_shuffle pixel_unshuffle polar poisson put
rand rand_like randint randint_like randn randn_like random randperm
reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d roll rot90
scalar_tensor scatter searchsorted select_copy select_scatter slice_copy
slice_scatter sort split_copy split_with_sizes_copy squeeze_copy stack take
topk tril tril_indices triu triu_indices unbind_copy unfold_copy uniform
unique_consecutive unique_dim _unique2 unsafe_split unsqueeze_copy
upsample_nearest1d upsample_nearest2d upsample_nearest3d view_copy
view_as_complex_copy view_as_real_copy where zero zeros zeros_like
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
max_pool2d mkldnn_max_pool2d quantized_max_pool2d adaptive_max_pool2d
adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d
""".split()  # noqa: SIM905 (a list has one name a line)


def is_exact(op):
    """Whether an aten overload re-orders no sum."""
    if torch.Tag.pointwise in op.tags:
        return True
    name = op._schema.name.removeprefix("aten::").rstrip("_")
    if name in EXACT or name.removesuffix("_copy") in EXACT:
        return not is_accumulating(op)
    returns = op._schema.returns
    return bool(returns) and all(
        r.alias_info is not None and not r.alias_info.is_write for r in returns
    )


INDEX_PUT = ("aten::index_put", "aten::_index_put")


def is_accumulating(op):
    """`scatter` with a reduction, and the like."""
    return not op._schema.name.startswith(INDEX_PUT) and any(
        a.name in ("reduce", "accumulate") for a in op._schema.arguments
    )


class Watch(TorchDispatchMode):
    """Sees whether all ops run under it are exact."""

    def __init__(self):
        super().__init__()
        self.exact = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.exact and not is_exact(func):
            self.exact = False
        if func._schema.name.startswith(
            ("aten::index_put", "aten::_index_put")
        ):
            accumulate = kwargs.get("accumulate") or (len(args) > 3 and args[3])
            self.exact = self.exact and not accumulate
        return func(*args, **kwargs)


def watched(function, *args, **kwargs):
    """The result, and whether the call was exact."""
    with Watch() as watch:
        result = function(*args, **kwargs)
    return result, watch.exact


class OtherLoops(TorchDispatchMode):
    """Gives pointwise ops the same values in other memory.

    Args:
        vector: in long dense rows, for torch's vector loops; else in strided
            memory, which only scalar loops take.
    """

    def __init__(self, *, vector):
        super().__init__()
        self.vector = vector

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (
            torch.Tag.pointwise not in func.tags
            or func._schema.is_mutable
            or not isinstance(result, torch.Tensor)
            or not (result.is_floating_point() or result.is_complex())
        ):
            return result

        def moved(leaf):
            if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0:
                return leaf
            if not (leaf.is_floating_point() or leaf.is_complex()):
                leaf = leaf.to(result.dtype)  # as the op itself does
            if self.vector:
                return torch.stack([leaf.expand(result.shape)] * ROWS)
            return torch.stack([leaf, leaf], -1)[..., 0]

        try:
            args, kwargs = pytree.tree_map(moved, (args, kwargs))
            other = func(*args, **kwargs)
            if self.vector and other.shape != result.shape:
                other = other[0]
            return torch.empty_like(result).copy_(other)
        except (RuntimeError, TypeError):
            return result  # a mask, say, must stay one


ROWS = 32  # so that the first lies in full vectors, whatever its length
