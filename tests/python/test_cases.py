"""Text cases: what an op does with each layout, in one line each.

A line of tests/cases/*.case:

    mm  f32[8,16] (R,R)  f32[16,4] (R,S0)  ->  (R,P+)   0: slice@model 0 B

is an op, its arguments, the layout of each result, and the steps that move
data (`<number of the tensor>: <kind>@<axis> <bytes> B`). Arguments are tensors
(dtype, sizes, layout), `{` tensors `}` for a list, values, or name=value. The
result is compared with plain torch's. `->  error "text"` expects plain torch's
exception, whose message holds the text. `mesh a=2 b=4` sets the mesh of the
lines below it; `#` begins a comment. `on replicas` after the layout says that
no rule applies.
"""

import ast
import pathlib
import re

import pytest
import torch
from placing import assert_close, place

import torch_mesh as tm

FOLDER = pathlib.Path(__file__).parent.parent / "cases"
DTYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "b8": torch.bool,
}
TENSOR = re.compile(r"(f32|f64|bf16|i64|b8)(<\d+>)?\[([\d, ]*)\] *(\([^)]*\))?")
STEP = re.compile(r"(\d+): ((?:\w+@[\w,]+ \d+ B(?:, )?)+)")
OPS = {
    "qr": torch.linalg.qr,  # torch.qr is going
    "ctc": lambda x, t: torch.nn.functional.ctc_loss(
        x.log_softmax(-1), t, [7, 6, 7, 5], [3, 2, 3, 3], reduction="none"
    ),
    "getitem": lambda x, i: x[i],
    "getitems": lambda x, *i: x[i],
    "weight_norm": torch._weight_norm,
    "zeros_index_add": lambda y, i: y.new_zeros(8, 4).index_add_(0, i, y),
    "zeros_index_put": lambda y, i: y.new_zeros(8, 4).index_put_(
        (i,), y, accumulate=True
    ),
    "softmax": torch.softmax,
    "embedding": lambda i, w: torch.nn.functional.embedding(i, w),
}


class Case:
    def __init__(self, mesh, line, place):
        self.mesh, self.place = mesh, place
        call, _, self.result = (part.strip() for part in line.partition("->"))
        self.op, _, self.arguments = call.partition(" ")

    def __repr__(self):
        return f"{self.place} {self.op}"


def cases():
    for path in sorted(FOLDER.glob("*.case")):
        mesh = None
        for number, line in enumerate(path.read_text().splitlines(), 1):
            line = line.partition("#")[0].strip()
            if line.startswith("mesh "):
                pairs = (axis.split("=") for axis in line.split()[1:])
                mesh = {name: int(size) for name, size in pairs}
            elif line:
                yield Case(mesh, line, f"{path.stem}:{number}")


def make(match, seed):
    """The plain tensor that a text such as `i64<7>[3, 4]` names."""
    dtype = DTYPES[match[1]]
    sizes = [int(n) for n in match[3].split(",") if n.strip()]
    generator = torch.Generator().manual_seed(seed)
    if match[2]:
        bound = int(match[2][1:-1])
        return torch.randint(0, bound, sizes, generator=generator).to(dtype)
    value = torch.randn(sizes, generator=generator)
    return value > 0 if dtype == torch.bool else (value * 4).to(dtype)


def parse(text, mesh):
    """Plain and global arguments, positional and by name."""
    plain, placed = [], []

    def tensor(match):
        value = make(match, seed=len(plain))
        layout = tm.Layout(mesh, match[4])
        plain.append(value)
        placed.append(place(value, mesh, layout.placements))
        return f" T{len(plain) - 1} "

    text = TENSOR.sub(tensor, text)
    items, depth, item = [], 0, ""
    for char in text + " ":
        depth += (char in "[{(") - (char in "]})")
        if char == " " and depth == 0:
            items += [item] if item else []
            item = ""
        else:
            item += char

    def value_of(item, tensors):
        if re.fullmatch(r"T\d+", item):
            return tensors[int(item[1:])]
        if item.startswith("{"):
            return [tensors[int(n)] for n in re.findall(r"T(\d+)", item)]
        try:
            return ast.literal_eval(item)
        except (ValueError, SyntaxError):
            return DTYPES.get(item, item)

    def both(tensors):
        named = {}
        positional = []
        for item in items:
            name, equals, value = item.partition("=")
            if equals:
                named[name] = value_of(value, tensors)
            else:
                positional.append(value_of(item, tensors))
        return positional, named

    return both(plain), both(placed)


def op_named(name):
    if name in OPS:
        return OPS[name]
    for home in (torch, torch.nn.functional, torch.linalg, torch.Tensor):
        if hasattr(home, name):
            return getattr(home, name)
    raise LookupError(name)


def listed(result):
    return list(result) if isinstance(result, tuple | list) else [result]


@pytest.mark.parametrize("case", list(cases()), ids=repr)
def test_a_case_says_what_happens(case):
    mesh = tm.Mesh(case.mesh)
    op = op_named(case.op)
    (plain, named), (placed, placed_named) = parse(case.arguments, mesh)
    error = re.match(r'error "(.*)"', case.result)
    if error:
        with pytest.raises(Exception) as expected:
            op(*plain, **named)
        with pytest.raises(expected.type) as raised:
            op(*placed, **placed_named)
        assert error[1] in str(raised.value)
        return
    torch.manual_seed(5)
    expected = listed(op(*plain, **named))
    results = []
    torch.manual_seed(5)
    plan = tm.explain(lambda: results.append(op(*placed, **placed_named)))
    actual = listed(results[0])
    layouts = re.match(r"(\([^)]*\) *)+", case.result)[0]
    wanted = [
        str(tm.Layout(mesh, text)) for text in re.findall(r"\([^)]*\)", layouts)
    ]
    rest = case.result[len(layouts) :].strip()
    got = [str(tm.layout(t)) for t in actual]
    assert got == wanted * (len(got) if len(wanted) == 1 else 1), plan
    assert ("on replicas" in plan) == ("on replicas" in rest), plan
    # What is rewritten moves nothing itself: the ops of its program do.
    moving = "\n".join(
        line for line in plan.splitlines() if not line.endswith("rewritten")
    )
    steps = sorted(f"{m[1]}: {m[2]}".strip(" ,") for m in STEP.finditer(moving))
    said = sorted(f"{m[1]}: {m[2]}".strip(" ,") for m in STEP.finditer(rest))
    assert steps == said, plan
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, rtol=1e-4, atol=1e-4)
