"""FlexAttention in eager takes global tensors, loaded before or after."""

import pytest
import torch
from programs import run_program

import torch_mesh as tm

PROGRAM = """
import warnings
warnings.simplefilter("ignore")
import torch
{}
import torch_mesh as tm
from torch.nn.attention.flex_attention import flex_attention
import inspect

q = torch.randn(2, 2, 16, 8)
x = tm.distribute(q, tm.Mesh({{"data": 2}}), ("S0",))
near = lambda score, b, h, i, j: score - (i - j).abs()
y = flex_attention(x, x, x, score_mod=near)
plain = flex_attention(q, q, q, score_mod=near)
assert torch.allclose(y.cpu(), plain, atol=1e-6)
assert tm.layout(y).placements == ("S0",), tm.layout(y)
assert "def flex_attention" in inspect.getsource(flex_attention)
print("same")
"""


@pytest.mark.parametrize(
    "first", ["", "import torch.nn.attention.flex_attention"]
)
def test_flex_attention_takes_global_tensors(first):
    assert run_program(PROGRAM.format(first)).strip() == "same"


def test_what_torch_refuses_on_the_cpu_it_refuses_on_the_mesh():
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.randn(2, 2, 16, 8, requires_grad=True)
    x = tm.distribute(q, tm.Mesh({"data": 2}), ("S0",))
    for t in (q, x):
        with pytest.raises(NotImplementedError, match="backward on CPU"):
            flex_attention(t, t, t)
