"""functorch and autograd: gradients per sample, ensembles, higher orders."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacrev,
    jvp,
    stack_module_state,
    vmap,
)
from torch.utils.checkpoint import checkpoint

from ..registry import program


def mlp(inputs, width, outputs, act=nn.Tanh):
    return nn.Sequential(
        nn.Linear(inputs, width),
        act(),
        nn.Linear(width, width),
        act(),
        nn.Linear(width, outputs),
    )


MLP = {"0": "colwise", "2": "rowwise"}


@program()
def per_sample_gradients(place):
    """DP-SGD: each sample's gradient by vmap, clipped, with noise."""
    width, batch = place.size((128, 64), (8, 6))
    model = place.module(mlp(32, width, 5), MLP)
    x, y = place.batch(torch.randn(batch, 32), torch.randint(5, (batch,)))

    def loss_of(parameters, one, label):
        scores = functional_call(model, parameters, (one[None],))
        return F.cross_entropy(scores, label[None])

    def step():
        parameters = {k: v.detach() for k, v in model.named_parameters()}
        each = vmap(grad(loss_of), in_dims=(None, 0, 0))(parameters, x, y)
        norms = sum(g.flatten(1).square().sum(1) for g in each.values()).sqrt()
        scale = (1.0 / (norms + 1e-6)).clamp_max(1.0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                g = torch.einsum("b...,b->...", each[name], scale)
                g = g + 0.1 * torch.randn_like(parameter)
                parameter.sub_(g, alpha=0.1 / batch)
        return norms

    return step, model


@program()
def ensembling(place):
    """Five nets at once: stacked weights, vmap, one optimizer."""
    width, batch = place.size((128, 128), (8, 6))
    models = [mlp(32, width, 5) for _ in range(5)]
    parameters, _ = stack_module_state(models)
    stacked = nn.ParameterDict(
        {k.replace(".", "_"): v.detach() for k, v in parameters.items()}
    )
    place.module(stacked, {"0_weight": "S1", "0_bias": "S1", "2_weight": "S2"})
    base = mlp(32, width, 5).to("meta")
    optimizer = torch.optim.SGD(stacked.parameters(), lr=0.1)
    x, y = place.batch(torch.randn(batch, 32), torch.randint(5, (batch,)))

    def scores_of(weights, x):
        return functional_call(base, weights, (x,))

    def step():
        optimizer.zero_grad()
        weights = {k: stacked[k.replace(".", "_")] for k in parameters}
        scores = vmap(scores_of, in_dims=(0, None))(weights, x)
        loss = F.cross_entropy(scores.flatten(0, 1), y.repeat(5))
        loss.backward()
        optimizer.step()
        return loss, scores.softmax(-1).mean(0)

    return step, stacked


@program()
def jacobians(place):
    """Jacobians and Hessians of a small net, rows of the batch by vmap."""
    width, batch = place.size((256, 96), (8, 6))
    model = place.module(mlp(8, width, 4), MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = place.batch(torch.randn(batch, 8))

    def step():
        optimizer.zero_grad()
        j = vmap(jacrev(model))(x)
        curvature = vmap(hessian(lambda one: model(one).sum()))(x[:4])
        loss = j.square().mean() + model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss, curvature

    return step, model


@program()
def physics_informed(place):
    """A net that solves u'' = -u: derivatives inside the loss."""
    width, batch = place.size((256, 256), (8, 6))
    model = place.module(mlp(1, width, 1), MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    t = place.batch(torch.rand(batch, 1) * 3)

    def step():
        optimizer.zero_grad()
        s = t.detach().requires_grad_()
        u = model(s)
        (first,) = torch.autograd.grad(u.sum(), s, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), s, create_graph=True)
        zero = torch.zeros(1, 1, device=t.device, dtype=t.dtype)
        start = (model(zero) - 1).square().mean()
        loss = (second + u).square().mean() + start
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@program()
def meta_learning(place):
    """MAML: the gradient of a loss after a step of gradient descent."""
    width, batch, tasks = place.size((256, 64, 4), (8, 6, 2))
    model = place.module(mlp(1, width, 1), MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.rand(tasks, 2, batch, 1) * 10 - 5
    y = torch.sin(x + torch.rand(tasks, 1, 1, 1) * 3)
    data = [
        [place.batch(x[t, half], y[t, half]) for half in range(2)]
        for t in range(tasks)
    ]

    def step():
        optimizer.zero_grad()
        total = 0.0
        for (x1, y1), (x2, y2) in data:
            weights = dict(model.named_parameters())
            inner = F.mse_loss(functional_call(model, weights, (x1,)), y1)
            slopes = torch.autograd.grad(
                inner, weights.values(), create_graph=True
            )
            moved = {
                name: w - 0.01 * g
                for (name, w), g in zip(weights.items(), slopes, strict=True)
            }
            total = total + F.mse_loss(functional_call(model, moved, (x2,)), y2)
        total.backward()
        optimizer.step()
        return total

    return step, model


@program()
def forward_gradient(place):
    """A gradient guess from a derivative along one random direction."""
    width, batch = place.size((512, 256), (8, 6))
    model = place.module(mlp(32, width, 5), MLP)
    x, y = place.batch(torch.randn(batch, 32), torch.randint(5, (batch,)))

    def loss_of(weights):
        return F.cross_entropy(functional_call(model, weights, (x,)), y)

    def step():
        weights = {k: v.detach() for k, v in model.named_parameters()}
        along = {k: torch.randn_like(v) for k, v in weights.items()}
        loss, slope = jvp(loss_of, (weights,), (along,))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(1e-4 * slope * along[name])
        return loss, slope

    return step, model


@program()
def checkpointing(place):
    """Blocks whose activations are computed again in backward, with dropout."""
    width, batch, depth = place.size((512, 128, 6), (8, 6, 2))
    blocks = nn.ModuleList(
        nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(2 * width, width),
        )
        for _ in range(depth)
    )
    place.module(blocks, {"*.1": "colwise", "*.4": "rowwise"})
    optimizer = torch.optim.SGD(blocks.parameters(), lr=0.01)
    x = place.batch(torch.randn(batch, width))

    def step():
        optimizer.zero_grad()
        y = x
        for number, block in enumerate(blocks):
            y = y + checkpoint(block, y, use_reentrant=number % 2 == 1)
        loss = y.square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, blocks


class Rounded(torch.autograd.Function):
    """Rounds forward, passes gradients as they are."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return torch.round(x / scale) * scale

    @staticmethod
    def backward(ctx, g):
        x, scale = ctx.saved_tensors
        return g * (x.abs() < 127 * scale), None


@program()
def quantization_aware(place):
    """An autograd function of one's own: rounding, straight through."""
    width, batch = place.size((512, 256), (8, 6))
    model = place.module(mlp(64, width, 10, nn.ReLU), MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = place.batch(torch.randn(batch, 64), torch.randint(10, (batch,)))

    def step():
        optimizer.zero_grad()
        # A power of two: no rounding of a sum moves the grid.
        weights = {
            k: Rounded.apply(v, torch.full_like(v[:1], 2.0**-7))
            for k, v in model.named_parameters()
        }
        loss = F.cross_entropy(functional_call(model, weights, (x,)), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@program()
def deep_equilibrium(place):
    """A fixed point forward, a fixed point in backward by a hook."""
    width, batch = place.size((256, 128), (8, 6))
    model = nn.ModuleDict(
        {"w": nn.Linear(width, width), "u": nn.Linear(32, width)}
    )
    model["w"].weight.data.mul_(0.3)
    place.module(model, {"w": "colwise", "u": "colwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x = place.batch(torch.randn(batch, 32))

    def step():
        optimizer.zero_grad()
        given = model["u"](x)
        with torch.no_grad():
            z = torch.zeros_like(given)
            for _ in range(8):
                z = torch.tanh(model["w"](z) + given)
        z = torch.tanh(model["w"](z) + given)
        z0 = z.detach().requires_grad_()
        again = torch.tanh(model["w"](z0) + given.detach())

        def solve(g):
            total = g
            for _ in range(6):
                total = (
                    torch.autograd.grad(again, z0, total, retain_graph=True)[0]
                    + g
                )
            return total

        z.register_hook(solve)
        loss = (z - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, model
