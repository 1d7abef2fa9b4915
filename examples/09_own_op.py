"""An op of your own, and the rule that says how it shards.

Without a rule an op is right on any layout: it is computed on replicas, counted
and logged. With one it runs on the shards.

Run: python examples/09_own_op.py
"""

import torch

import torch_mesh as tm


@torch.library.custom_op(
    "examples::scores", mutates_args=(), device_types="cpu"
)
def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Negative squared distances: q [b, n, d], k [b, m, d] to [b, n, m]."""
    return -torch.cdist(q, k).square()


@torch.library.custom_op(
    "examples::scores_backward", mutates_args=(), device_types="cpu"
)
def scores_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor
) -> torch.Tensor:
    """The gradient for q: [b, n, d]."""
    return 2 * (grad @ k - grad.sum(-1, keepdim=True) * q)


@scores.register_fake
def _(q, k):
    return q.new_empty(*q.shape[:-1], k.shape[-2])


@scores_backward.register_fake
def _(grad, q, k):
    return torch.empty_like(q)


def setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def backward(ctx, grad):
    q, k = ctx.saved_tensors
    grad_k = scores_backward(grad.transpose(-1, -2).contiguous(), k, q)
    return scores_backward(grad, q, k), grad_k


scores.register_autograd(backward, setup_context=setup_context)


def run(mesh, q, k):
    """Returns the result's layout, the value, q's gradient and the counts."""
    q = tm.distribute(q, mesh, ("S0", "S1")).requires_grad_()
    k = tm.distribute(k, mesh, ("S0", "R")).requires_grad_()
    with tm.counting() as counts:
        out = scores(q, k)
        out.sum().backward()
    return tm.layout(out), tm.full(out), tm.full(q.grad), counts


def main():
    torch.manual_seed(0)
    mesh = tm.Mesh({"data": 2, "model": 2})
    q, k = torch.randn(4, 6, 3), torch.randn(4, 5, 3)
    expected = scores(q, k)
    expected_grad = scores_backward(torch.ones(4, 6, 5), q, k)

    for when in ("without a rule", "with a rule"):
        if when == "with a rule":
            # d stands on the left only, but distances are no sums over it.
            tm.register_rule(
                "examples::scores", "b n d, b m d -> b n m whole(d)"
            )
            tm.register_rule(
                "examples::scores_backward",
                "b n m, b n d, b m d -> b n d whole(m)",
            )
        layout, value, grad, counts = run(mesh, q, k)
        print(when)
        print("  layout", layout)
        print("  value right:", torch.allclose(value, expected, atol=1e-5))
        print(
            "  gradient right:", torch.allclose(grad, expected_grad, atol=1e-4)
        )
        print("  computed on replicas:", counts.replicated_ops or "nothing")
        print("  bytes received:", counts.bytes_per_axis() or "none")


if __name__ == "__main__":
    main()
