"""Which calls must agree bit for bit: those that re-order no sum.

Pointwise ops, movement of data, choices by comparison and random draws give
the same bits under every layout. A call is known by the aten ops that plain
torch runs for it.
"""

import contextlib
import math

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


def is_exact_call(op, args):
    """Whether a call re-orders no sum: a norm may be a largest element."""
    if op._schema.name == "aten::linalg_vector_norm":
        order = args[1] if len(args) > 1 else 2
        return isinstance(order, int | float) and math.isinf(order)
    return is_exact(op)


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
        if self.exact and not is_exact_call(func, args):
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


# Where an element may lie. Torch's CPU kernels round some functions, complex
# ones above all, otherwise in a vector loop than in a scalar one, and otherwise
# again where the compiler takes elements in pairs and one is left:
#     x = torch.randn(64, dtype=torch.complex64)
#     torch.sgn(x) != torch.sgn(torch.stack([x, x], 1)[:, 0])
MEMORIES = {
    "rows": lambda t: torch.stack([t] * 32),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "left over": lambda t: torch.stack([t] * 4, -1)[..., :3],
}
OUT_OF = {"rows": lambda t: t[0], "left over": lambda t: t[..., 2]}


def in_memory(name, func, args, kwargs, result):
    """A pointwise result computed again, with its arguments in other memory."""

    def laid(leaf):
        if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0:
            return leaf
        if not (leaf.is_floating_point() or leaf.is_complex()):
            leaf = leaf.to(result.dtype)  # as the op itself does
        return MEMORIES[name](leaf.expand(result.shape))

    try:
        args, kwargs = pytree.tree_map(laid, (args, kwargs))
        other = func(*args, **kwargs)
        if other.shape != result.shape:
            other = OUT_OF[name](other)
        return torch.empty_like(result).copy_(other)
    except (RuntimeError, TypeError):
        return result  # a mask, say, must stay one


class OtherRoundings(TorchDispatchMode):
    """Plain torch, rounding otherwise wherever its own order is free.

    A sum in another order is the exact sum of terms that are off by a rounding
    each, rounded once more. So each op that re-orders sums gets arguments whose
    elements are off by one step of their dtype, up or down, and so are those of
    its results. Pointwise ops get their arguments as they are, in other memory.
    Both happen inside a chain of ops: what follows amplifies or cancels it as
    it would on the mesh.

    Args:
        draw: the seed of the signs. The first draws, one for each of
            `MEMORIES`, lay all pointwise ops in one kind of memory, later ones
            choose for each op. None changes nothing.
    """

    def __init__(self, draw):
        super().__init__()
        self._draw = draw
        self._generator = torch.Generator().manual_seed(31 + (draw or 0))
        self._inwards = False  # no step away from zero

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with lazy_bits_seen():
            return self._run(func, args, kwargs or {})

    def _run(self, func, args, kwargs):
        if self._draw is None:
            return func(*args, **kwargs)
        if not is_exact_call(func, args):
            result = self._run_moved(func, args, kwargs)
            if func._schema.is_mutable:
                return result
            return pytree.tree_map(self._step, result)
        result = func(*args, **kwargs)
        if (
            torch.Tag.pointwise not in func.tags
            or func._schema.is_mutable
            or not isinstance(result, torch.Tensor)
            or not (result.is_floating_point() or result.is_complex())
        ):
            return result
        names = [*MEMORIES, None]
        if self._draw < len(MEMORIES):
            name = names[self._draw]
        else:
            pick = torch.randint(len(names), (), generator=self._generator)
            name = names[int(pick)]
        if name is None:
            return result
        return in_memory(name, func, args, kwargs, result)

    def _run_moved(self, func, args, kwargs):
        try:
            return func(*self._moved(func, args), **kwargs)
        except RuntimeError:  # a probability, say, is more than 1 now
            self._inwards = True
            try:
                return func(*self._moved(func, args), **kwargs)
            finally:
                self._inwards = False

    def _moved(self, func, args):
        """Arguments that are off by a step, but for what the op writes to."""
        moved = []
        for arg, declared in zip(args, func._schema.arguments, strict=False):
            is_written = declared.alias_info and declared.alias_info.is_write
            moved.append(
                arg if is_written else pytree.tree_map(self._step, arg)
            )
        return moved

    def _step(self, leaf):
        if (
            not isinstance(leaf, torch.Tensor)
            or leaf.layout != torch.strided
            or not (leaf.is_floating_point() or leaf.is_complex())
            or leaf.dtype.itemsize == 1
            or leaf.device.type != "cpu"  # torch asks for shapes on `meta`
        ):
            return leaf
        step = self._signs(leaf)
        if leaf.is_complex():
            step = torch.complex(step, self._signs(leaf))
        step = step * torch.finfo(leaf.dtype).eps
        wide = torch.complex128 if leaf.is_complex() else torch.float64
        moved = leaf.to(wide) * (1 + step)
        return torch.empty_like(leaf).copy_(moved)

    def _signs(self, leaf):
        signs = torch.randint(0, 2, leaf.shape, generator=self._generator)
        signs = signs.double() * 2 - 1
        return signs.clamp(max=0) if self._inwards else signs


@contextlib.contextmanager
def lazy_bits_seen():
    """Lets a dispatch mode see that a tensor is conjugate or negated.

    Its handler runs without these keys, so that ops of its own and ops composed
    in C++ read the numbers as they lie in memory. With a mode whose handler is
    `return func(*args, **kwargs)`, linalg.pinv of a complex tensor is wrong,
    and so is the gradient of linalg.lstsq.
    """
    excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
    exclude = torch._C._dispatch_tls_set_dispatch_key_excluded
    before = {key: excluded(key) for key in ("Conjugate", "Negative")}
    try:
        for key in before:
            exclude(key, False)
        yield
    finally:
        for key, was in before.items():
            exclude(key, was)


class Draws:
    """Plain torch's results under some `OtherRoundings`, each run once.

    Args:
        run: gives a tree of results.
    """

    def __init__(self, run):
        self._run = run
        self._made = {}

    def tensors(self, pick):
        """The undisturbed tensor, and those of all draws; None if one raises.

        The first too runs under a dispatch mode, where torch may take other
        paths.

        Args:
            pick: chooses one of the results.
        """
        made = [self._of(draw) for draw in (None, *range(NUM_DRAWS))]
        return [None if m is None else pick(m) for m in made]

    def _of(self, draw):
        if draw not in self._made:
            try:
                with OtherRoundings(draw):
                    self._made[draw] = self._run()
            except Exception:  # a matrix that is no longer positive, say
                self._made[draw] = None
        return self._made[draw]


NUM_DRAWS = 16
