"""Which ops keep a sharded batch: writes docs/coverage.md, or checks it.

    python tools/coverage.py            # measure, write docs/coverage.md
    python tools/coverage.py --check    # measure, fail if a figure fell
    python tools/coverage.py --only linalg --verbose

An op of torch's `op_db` is batch-like if plain torch shows it: for some of its
tensor arguments, cut to their first rows, the result is the first rows of the
whole result. (empty_like and its kin do not count: nobody wrote their values.)
Such a call is run on a mesh of 2 with those arguments in each layout of
LAYOUTS, forward and backward, and one of three things is said of it:

    sharded   every result (forward), every gradient (backward) stays cut or a
              sum, nothing that was cut was gathered or cut along another dim,
              and nothing was computed on replicas; of a sum: it stays open
    moved     nothing was computed on replicas, but values were redistributed
    replicas  some op had no rule that fits

The figure of the project is the share of batch-like ops that stay sharded along
the first dim, forward and backward.
"""

import argparse
import collections
import dataclasses
import itertools
import pathlib
import re
import sys
import warnings

import torch
from torch.utils import _pytree as pytree

REPORT = pathlib.Path(__file__).parent.parent / "docs" / "coverage.md"
LAYOUTS = ("S0", "S-1", "P+")
MARKS = {"sharded": "yes", "moved": "moved", "replicas": "replicas", "": "-"}
MAX_SAMPLES = 24  # looked at until MAX_CALLS batch-like ones are found
MAX_CALLS = 2
MAX_TENSORS = 5
MAX_NUMEL = 200_000
MOVES = ("all_gather", "all_to_all")  # of what was cut
SEED = 17

# Families by the first pattern that the name of an op matches.
FAMILIES = (
    ("fft", r"fft\.|stft|istft"),
    ("losses", r"loss|entropy|kl_div|nll|cosine_similarity|pairwise_dist"),
    ("pooling", r"pool|unpool"),
    ("convolution", r"conv\d|conv_|unfold_?$|fold$"),
    ("resampling", r"interpolate|upsample|grid_sample|pad$|pixel|affine_grid"),
    (
        "norms",
        r"(layer|batch|group|instance|rms|local_response)_norm|normalize",
    ),
    ("embedding", r"embedding|one_hot"),
    ("attention", r"attention"),
    ("masked", r"masked\."),
    ("activations", r"nn\.functional\.|^softmax|^log_softmax|sigmoid"),
    (
        "linear algebra",
        r"linalg|chol|^lu|^svd|^pinverse|^qr|ormqr|geqrf|triangular_solve|"
        r"^inverse|matrix_exp|logdet|cdist|^cross$|^trace$|householder",
    ),
    ("products", r"mm$|mv$|matmul|bmm|^dot|^vdot|inner|addr|outer|einsum|dot$"),
    (
        "indexing",
        r"index|gather|scatter|take|select|nonzero|where|put|searchsorted|"
        r"bucketize|slice|__getitem__|masked_",
    ),
    (
        "sorting and scans",
        r"sort|topk|cum|kthvalue|mode|median|quantile|unique|argm|diff|"
        r"trapez|histc",
    ),
    ("special functions", r"special|polygamma|erf|gamma|^i0|digamma"),
)
CLASSES = {
    "UnaryUfuncInfo": "pointwise, one argument",
    "BinaryUfuncInfo": "pointwise, two arguments",
    "ReductionOpInfo": "reductions",
    "SpectralFuncInfo": "fft",
    "ShapeFuncInfo": "shapes",
}


def family_of(op):
    for name, pattern in FAMILIES:
        if re.search(pattern, op.name):
            return name
    return CLASSES.get(type(op).__name__, "shapes and others")


class Call:
    """One sample of an op, with other tensors put in the places of its own."""

    def __init__(self, op, sample):
        self.op = op
        arguments = (sample.input, tuple(sample.args), dict(sample.kwargs))
        self.leaves, self.tree = pytree.tree_flatten(arguments)
        self.places = [
            i for i, x in enumerate(self.leaves) if isinstance(x, torch.Tensor)
        ]
        self.learned = [self.leaves[i].requires_grad for i in self.places]
        self.tensors = [self.leaves[i].detach() for i in self.places]
        if any(self.learned) and not self.has_gradients():
            self.learned = [False] * len(self.places)

    def has_gradients(self):
        """Whether plain torch can differentiate it."""
        tensors = [
            t.clone().requires_grad_(learned)
            for t, learned in zip(self.tensors, self.learned, strict=True)
        ]
        try:
            gradients(self(tensors), differentiable(tensors), torch.ones_like)
        except Exception:
            return False
        return True

    def __call__(self, tensors):
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(leaves, self.tree)
        if any(t.device.type == "mesh" for t in tensors):
            kwargs = {
                k: torch.device("mesh") if k == "device" else v
                for k, v in kwargs.items()
            }
        torch.manual_seed(SEED)
        return tensors_in(self.op.op(first, *args, **kwargs))


def tensors_in(result):
    return [
        x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)
    ]


def equal(a, b):
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)


def cut(call, subset, rows):
    return [
        t[rows].clone() if i in subset else t.clone()
        for i, t in enumerate(call.tensors)
    ]


def whole_result(call):
    try:
        return call([t.clone() for t in call.tensors])
    except Exception:
        return None


def agrees(call, expected, subset, rows):
    """Whether the op of these rows is these rows of the op."""
    try:
        results = call(cut(call, subset, rows))
    except Exception:
        return False
    return len(results) == len(expected) and all(
        equal(r, e[rows]) for r, e in zip(results, expected, strict=True)
    )


def batch_of(call):
    """The tensors that share the batch of a call; whether any rows will do."""
    expected = whole_result(call)
    if not expected or any(r.dim() == 0 or r.is_sparse for r in expected):
        return None
    size = expected[0].shape[0]
    if size < 2 or any(r.shape[0] != size for r in expected):
        return None
    if any(r.numel() == 0 for r in expected):
        return None
    candidates = [
        i
        for i, t in enumerate(call.tensors)
        if t.dim() > 0 and t.shape[0] == size
    ][:MAX_TENSORS]
    half = size // 2
    found = None
    for count in range(len(candidates), 0, -1):
        for subset in itertools.combinations(candidates, count):
            if agrees(call, expected, subset, slice(0, half)):
                if agrees(call, expected, subset, slice(half, size)):
                    return subset, True
                found = found or (subset, False)
    return found


def samples_of(op):
    """Batch-like calls of an op, those of which any rows will do first."""
    supported = op.supported_dtypes("cpu")
    preferred = (torch.float32, torch.int64, torch.complex64, torch.bool)
    dtype = next((d for d in preferred if d in supported), None)
    if dtype is None:
        return []
    torch.manual_seed(SEED)
    good, fair = [], []
    learns = op.supports_autograd and dtype in op.supported_backward_dtypes(
        "cpu"
    )
    samples = op.sample_inputs("cpu", dtype, requires_grad=learns)
    for sample in itertools.islice(samples, MAX_SAMPLES):
        tensors = tensors_in((sample.input, sample.args, sample.kwargs))
        # Large samples show nothing more, and cost the most.
        if sum(t.numel() for t in tensors) > MAX_NUMEL or any(
            t.layout != torch.strided for t in tensors
        ):
            continue
        call = Call(op, sample)
        found = batch_of(call)
        if found:
            (good if found[1] else fair).append((call, found[0]))
        if len(good) == MAX_CALLS:
            break
    return good or fair[:MAX_CALLS]


def placed(call, subset, placement, mesh):
    import torch_mesh as tm

    tensors = []
    for i, tensor in enumerate(call.tensors):
        to = placement if i in subset and tensor.dim() > 0 else "R"
        if to == "S-1":
            to = f"S{tensor.dim() - 1}"
        summable = tensor.is_floating_point() or tensor.is_complex()
        if to == "P+" and not summable:
            to = "R"
        if to == "P+":
            parts = [tensor * 2, tensor * -1]
            value = tm.from_shards(parts, mesh, (to,))
        else:
            value = tm.distribute(tensor, mesh, (to,))
        tensors.append(value.requires_grad_(call.learned[i]))
    return tensors


def differentiable(tensors):
    return [t for t in tensors if t.requires_grad]


def gradients(results, leaves, cotangent):
    outs = differentiable(results)
    if not outs or not leaves:
        return []
    cotangents = [cotangent(r) for r in outs]
    found = torch.autograd.grad(outs, leaves, cotangents, allow_unused=True)
    return [g for g in found if g is not None]


def like(result):
    """A cotangent that stands as the result does, sums formed."""
    import torch_mesh as tm

    layout = tm.layout(result)
    to = ["R" if p == "P+" else p for p in map(str, layout.placements)]
    if any("/" in p for p in to):
        to = ["R" for _ in to]
    return tm.distribute(
        torch.ones(result.shape, dtype=result.dtype), layout.mesh, to
    )


def is_whole(layout):
    return all(str(p) == "R" for p in layout.placements)


def verdict(counts, values, placement):
    """What the counters and the layouts of these values say."""
    import torch_mesh as tm

    if counts.replicated_ops:
        return "replicas"
    if placement == "P+":
        return "sharded" if not counts.collectives else "moved"
    went = any(kind.startswith(MOVES) for kind in counts.collectives)
    whole = [v for v in values if v.dim() and is_whole(tm.layout(v))]
    return "moved" if went or whole else "sharded"


def measure(call, subset, placement, mesh):
    """What happens forward and backward, and the ops without a rule."""
    import torch_mesh as tm

    with tm.use(mesh):
        tensors = placed(call, subset, placement, mesh)
        cut_ones = [tensors[i] for i in subset]
        leaves = differentiable(cut_ones)
        with tm.counting() as forward:
            results = call(tensors)
        on_mesh = [r for r in results if tm.is_global(r)]
        said = [verdict(forward, on_mesh, placement)]
        lacking = set(forward.replicated_ops)
        with tm.counting() as backward:
            grads = gradients(on_mesh, leaves, like)
        said.append(verdict(backward, grads, placement) if grads else "")
        lacking |= set(backward.replicated_ops)
    return tuple(said), lacking


WORST = ("replicas", "moved", "sharded", "")


def worst(verdicts):
    return min(verdicts, key=WORST.index)


@dataclasses.dataclass
class Row:
    name: str
    family: str
    batch: str  # which tensors have the batch, by number
    found: dict  # layout -> (forward, backward)
    lacking: set

    def stays(self):
        return "replicas" not in self.found["S0"] and (
            "moved" not in self.found["S0"]
        )


def row_of(op, mesh):
    name = op.name + (
        "." + op.variant_test_name if op.variant_test_name else ""
    )
    calls = samples_of(op)
    if not calls:
        return None
    found, lacking = {}, set()
    for placement in LAYOUTS:
        pairs = []
        for call, subset in calls:
            try:
                pair, lacks = measure(call, subset, placement, mesh)
            except Exception as error:
                if "--verbose" in sys.argv:
                    print(f"{name} {placement}: {error}"[:500], flush=True)
                pair, lacks = ("replicas", "replicas"), {"an error"}
            pairs.append(pair)
            lacking |= lacks if placement == "S0" else set()
        found[placement] = tuple(worst(v) for v in zip(*pairs, strict=True))
    batch = " ".join(str(i) for i in calls[0][1])
    return Row(name, family_of(op), batch, found, lacking)


def rows_of(only):
    from torch.testing._internal.common_methods_invocations import op_db

    import torch_mesh as tm

    mesh = tm.Mesh({"data": 2})
    rows = {}
    for op in op_db:
        if (only and only not in op.name) or "empty" in op.name:
            continue
        row = row_of(op, mesh)
        if row:
            rows[row.name] = row
        if row and "--verbose" in sys.argv and not row.stays():
            print(row.name, row.found, sorted(row.lacking), flush=True)
    return [rows[name] for name in sorted(rows)]


def figures_of(rows):
    """By family, and for all of them: how many stay, of how many."""
    figures = collections.defaultdict(lambda: [0, 0])
    for row in rows:
        for name in (row.family, "all"):
            figures[name][0] += row.stays()
            figures[name][1] += 1
    return {name: tuple(figures[name]) for name in sorted(figures)}


HEAD = """\
# Which ops keep a sharded batch

Written by `python tools/coverage.py`; `--check` fails if a figure of the first
table fell. An op of torch's `op_db` is listed if plain torch shows that it
works on batches: for some of its tensor arguments, cut to their first rows, the
result is the first rows of the whole result. It is run on a mesh of 2 with
these arguments in a layout, forward and backward, all others replicated.

| word | |
|---|---|
| yes | results or gradients stay cut or sums, and nothing that is cut moves |
| moved | nothing is computed on replicas, but values are redistributed |
| replicas | some op had no rule that fits: right, but computed whole |
| - | no gradient |

## By family

Ops that stay sharded along the first dim, forward and backward.

| family | stay | of | % |
|---|---|---|---|
"""


def report(rows):
    text = HEAD
    for name, (stay, count) in figures_of(rows).items():
        text += f"| {name} | {stay} | {count} | {100 * stay / count:.1f} |\n"
    text += (
        "\n## By op\n\n"
        "`batch`: the tensor arguments that have it, counted from 0. Forward / "
        "backward.\n\n| op | batch | S0 | S-1 | P+ |\n|---|---|---|---|---|\n"
    )
    for row in rows:
        cells = [
            " / ".join(MARKS[v] for v in row.found[layout])
            for layout in LAYOUTS
        ]
        text += f"| {row.name} | {row.batch} | {' | '.join(cells)} |\n"
    return text


def recorded_figures(text):
    line = re.compile(r"^\| ([a-z, ]+) \| (\d+) \| (\d+) \| [\d.]+ \|$", re.M)
    return {m[1]: (int(m[2]), int(m[3])) for m in line.finditer(text)}


def fallen(recorded, measured):
    """Families whose share of ops that stay is below the recorded one."""
    lines = []
    for name, (stay, count) in recorded.items():
        now, of = measured.get(name, (0, 1))
        if now * count < stay * of:
            lines.append(
                f"{name}: {now} of {of} stay, recorded {stay} of {count}"
            )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = rows_of(options.only)
    figures = figures_of(rows)
    stay, count = figures.get("all", (0, 1))
    print(f"{stay} of {count} batch-like ops stay sharded: {stay / count:.1%}")
    if options.check:
        lines = fallen(recorded_figures(REPORT.read_text()), figures)
        print("\n".join(lines))
        return 1 if lines else 0
    if options.only:
        return 0
    REPORT.write_text(report(rows))
    lacking = collections.Counter(op for r in rows for op in r.lacking)
    for op, times in lacking.most_common():
        print(f"{times:4} {op}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
