"""Threads, processes, one's own ops, and other kinds of tensors.

A part of the suite `ecosystem`.
"""

import functools
import multiprocessing
import os
import threading

import torch
from tests.conformance.small_model import program
from torch import nn

# ------------------------------------------------------- threads and processes


@program
def threads(world, x, w):
    results = [None] * 4

    def job(i):
        # The thread's own default is none: it takes the mesh of `x`.
        y = (x.detach() * (i + 1)).requires_grad_()
        for _ in range(5):
            z = (y @ w).tanh()
        z.sum().backward()
        results[i] = [z.detach(), y.grad]

    jobs = [threading.Thread(target=job, args=(i,)) for i in range(4)]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
    return results


@program
def forked_child(world, x, w):
    """A child of a process that has used the mesh computes on it."""
    context = multiprocessing.get_context("fork")
    (x @ w).sum().item()
    ours, theirs = context.Pipe()
    x, w = x.detach(), w.detach()

    def job():
        try:
            y = (x @ w).tanh().cpu()
            theirs.send(("ok", y.tolist()))
        except Exception as error:
            theirs.send((str(error), None))
        os._exit(0)

    pid = os.fork()
    if pid == 0:
        job()
    word, found = ours.recv() if ours.poll(30) else ("no answer", None)
    os.waitpid(pid, 0)
    if word != "ok":
        raise RuntimeError(word)
    return torch.tensor(found).to(world.device)


# ----------------------------------------------------------------- extensions


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**2


class WriteInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, g):
        return g * 2


@program
def own_function(world, x, w):
    x = x.detach().requires_grad_()
    y = Cube.apply(x)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    g.sum().backward()
    return [y, g, x.grad]


@program
def own_function_in_place(world, x, w):
    x = x.detach().requires_grad_()
    y = WriteInPlace.apply(x * 1)
    y.square().sum().backward()
    return [y, x.grad]


@functools.cache
def own_op():
    name = "conformance_test::scaled_tanh"

    @torch.library.custom_op(name, mutates_args=())
    def scaled_tanh(x: torch.Tensor, scale: float) -> torch.Tensor:
        return x.tanh() * scale

    def setup(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.scale = inputs[1]

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * ctx.scale * (1 - x.tanh() ** 2), None

    scaled_tanh.register_autograd(backward, setup_context=setup)
    scaled_tanh.register_fake(lambda x, scale: torch.empty_like(x))
    return scaled_tanh


@functools.cache
def own_writing_op():
    @torch.library.custom_op("conformance_test::bump_", mutates_args={"x"})
    def bump_(x: torch.Tensor) -> None:
        x.add_(1)

    return bump_


@program
def library_op(world, x, w):
    x = x.detach().requires_grad_()
    y = own_op()(x, 2.0)
    y.square().sum().backward()
    return [y, x.grad]


@functools.cache
def defined_op():
    """The older way: a schema, and kernels for keys."""
    library = torch.library.Library("conformance_test", "FRAGMENT")
    library.define("twice(Tensor x, *, int n=2) -> (Tensor, Tensor)")
    library.impl(
        "twice", lambda x, n=2: (x * n, x.sum(0)), "CompositeExplicitAutograd"
    )
    return library, torch.ops.conformance_test.twice


@program
def library_defined_op(world, x, w):
    return defined_op()[1](x, n=3)


@program
def library_writing_op(world, x, w):
    y = x.detach().clone()
    version = y._version
    own_writing_op()(y)
    own_writing_op()(y[1:3])
    return [y, y._version > version]


@program
def tensor_subclass(world, x, w):
    class Named(torch.Tensor):
        pass

    y = x.detach().as_subclass(Named)
    z = y @ w
    return [z.as_subclass(torch.Tensor), type(z) is Named]


@program
def dispatch_mode(world, x, w):
    from torch.utils._python_dispatch import TorchDispatchMode

    names = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Log():
        y = (x @ w).relu()
    return [y, "aten.relu.default" in names]


# ----------------------------------------------------------- nested and sparse


@program
def nested(world, x, w):
    n = torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
    return (n * 2).values()


@program
def nested_strided(world, x, w):
    n = torch.nested.nested_tensor([x[:2], x[2:]])
    return (n * 2).to_padded_tensor(0.0)


@program
def sparse(world, x, w):
    s = x.relu().to_sparse()
    return torch.sparse.mm(s, w)


@program
def sparse_made(world, x, w):
    i = torch.tensor([[0, 1, 3], [2, 0, 1]], device=world.device)
    s = torch.sparse_coo_tensor(i, x[0, :3], (7, 6), device=world.device)
    return s.to_dense()


@program
def sparse_csr(world, x, w):
    return x.to_sparse_csr() @ w


@program
def sparse_embedding(world, x, w):
    e = nn.Embedding(9, 4, sparse=True, device=world.device)
    e(torch.tensor([1, 4, 1], device=world.device)).sum().backward()
    return e.weight.grad.to_dense()


@program
def quantized(world, x, w):
    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize()


@program
def named(world, x, w):
    return x.detach().refine_names("N", "C").sum("C").rename(None)
