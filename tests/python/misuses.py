"""The misuses that test_misuse.py makes: tensors to misuse, and long calls.

The table is tests/misuse/torch.txt, of calls that plain torch has too, and
tests/misuse/mesh.txt, of functions of ours. Their calls see what is here.
"""

import copy
import io
import pathlib
import pickle
import re
from dataclasses import dataclass

import numpy
import torch
import torch.nn.functional as F
import torch.utils.dlpack
from torch import nn

import torch_mesh as tm
from torch_mesh import blocks

# What calls of the tables use, besides the functions of this module.
LIBRARIES = (F, blocks, nn, numpy, pickle, tm, torch)
TABLES = pathlib.Path(__file__).parents[1] / "misuse"


@dataclass(frozen=True)
class Misuse:
    """
    call: text of an expression in which `t` is a World.
    raises: the exception; None for what plain torch raises.
    says: texts that the message holds.
    breaks: names of the tensors that may be left half written (law 15).
    """

    call: str
    raises: type | None
    says: tuple[str, ...]
    breaks: tuple[str, ...] = ()

    def make(self, world):
        """Does what should raise."""
        eval(self.call, {**globals(), "t": world})


def read_table(name):
    """Misuses by name, of a file that has a line for each."""
    table = {}
    for line in (TABLES / f"{name}.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        title, call, *columns = re.split(r" \|(?: |$)", line)
        raises = eval(columns.pop(0)) if name == "mesh" else None
        words, breaks = (*columns, "", "")[:2]
        assert title not in table, title
        table[title] = Misuse(
            call, raises, tuple(words.split(" & ")), tuple(breaks.split())
        )
    return table


class World:
    """Tensors of all kinds, each placed by `place`; `mesh` None where plain."""

    def __init__(self, place, mesh):
        r = torch.Generator().manual_seed(5)

        def randn(*sizes):
            return torch.randn(*sizes, generator=r)

        self.place, self.mesh = place, mesh
        self.x, self.y, self.v = (
            place(randn(4, 6)),
            place(randn(5, 6)),
            place(randn(6)),
        )
        self.twin = place(randn(4, 6))
        self.ints = place(torch.arange(4))
        self.flags = place(randn(4, 6) > 0)
        self.complex = place(torch.complex(randn(4, 6), randn(4, 6)))
        self.half = place(randn(4, 6).half())
        self.scalar, self.none = place(randn(())), place(randn(0, 6))
        self.leaf = place(randn(6, 4)).requires_grad_()
        self.negative = place(-torch.eye(4))
        # Only the last matrix is no positive definite one.
        signs = torch.tensor([1.0, 1, 1, -1])
        self.batch = place(signs[:, None, None] * torch.eye(3))
        self.images, self.kernel = (
            place(randn(2, 3, 8, 8)),
            place(randn(5, 4, 3, 3)),
        )
        self.table = place(randn(10, 4))
        self.far = place(torch.tensor([0, 1, 2, 10]))  # the last is too far
        self.row = place(randn(1, 6))
        self.loose = self.row.expand(4, 6)

    def tensors(self):
        """Those that a misuse must leave as they are, by name."""
        return {k: t for k, t in vars(self).items() if torch.is_tensor(t)}

    def to(self, value):
        """A new tensor where the others are."""
        return self.place(value)

    def net(self, *layers):
        """A module with its parameters where the tensors are."""
        net = nn.Sequential(*layers)
        if self.mesh is None:
            return net
        with tm.use(self.mesh):
            return net.to("mesh")


# --- autograd -----------------------------------------------------------------


def backward_twice(t):
    loss = (t.x @ t.leaf).square().sum()
    loss.backward()
    t.leaf.grad = None
    loss.backward()


def saved_value_was_written(t):
    y = t.leaf * 2
    z = y.square().sum()
    y.add_(1)
    z.backward()


def gradient_of_other_sizes(t):
    (t.x @ t.leaf).backward(t.x)


def not_used(t):
    torch.autograd.grad(t.leaf.sum(), t.to(torch.ones(2)).requires_grad_())


def put_into_leaf(t):
    t.leaf[0] = 1.0


def wrong_grad(t):
    t.leaf.grad = t.x


def double_backward_without_graph(t):
    (grad,) = torch.autograd.grad(t.leaf.square().sum(), t.leaf)
    grad.sum().backward()


def hook_that_raises(t):
    y = t.leaf * 2
    y.register_hook(lambda grad: 1 / 0)
    y.sum().backward()


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * 2

    @staticmethod
    def backward(context, grad):
        raise KeyError("of the user's own function")


def raise_in_anomaly_mode(t):
    with torch.autograd.detect_anomaly(check_nan=True):
        (t.leaf.detach().requires_grad_() * float("nan")).sum().backward()


def write_under_inference(t):
    with torch.inference_mode():
        y = t.x * 2
    y.requires_grad_()


# --- leaving torch ------------------------------------------------------------


def pickle_of_a_graph(t):
    copy.deepcopy(t.leaf * 2)


def load_of_no_file(t):
    torch.load(io.BytesIO(b"no file"), weights_only=True)


# --- one device alone ---------------------------------------------------------

LIBRARY = torch.library.Library("misuse", "FRAGMENT")
for name in ("explodes", "runs_out_of_memory"):
    LIBRARY.define(f"{name}(Tensor x, float where) -> Tensor")
    tm.register_rule(f"misuse::{name}", "a b, . -> a b")


@torch.library.impl("misuse::explodes", "CPU", lib=LIBRARY)
def _explodes(x, where):
    if (x == where).any():
        raise KeyError("a part of the data that this op does not know")
    return x * 2


@torch.library.impl("misuse::runs_out_of_memory", "CPU", lib=LIBRARY)
def _runs_out_of_memory(x, where):
    return torch.empty(2**55) if (x == where).any() else x * 2


def last(x):
    """The last element, which one device holds, as a number."""
    return x[-1, -1].item()


# --- layers -------------------------------------------------------------------


def state_dict_of_another_net(t):
    net = t.net(nn.Linear(6, 4))
    net.load_state_dict({"0.weight": t.x, "0.bias": t.v[:4], "1.x": t.v})


def state_dict_of_other_sizes(t):
    net = t.net(nn.Linear(6, 4))
    net.load_state_dict({"0.weight": t.y, "0.bias": t.v[:4]})


def layer_of_another_width(t):
    t.net(nn.Linear(5, 4), nn.ReLU())(t.x)


def rnn_of_another_width(t):
    t.net(nn.LSTM(5, 4))(t.batch)


def gradients_of_other_sizes(t):
    net = t.net(nn.Linear(6, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[0].weight.grad = t.y
    optimizer.step()


def optimizer_state_of_another(t):
    net, other = t.net(nn.Linear(6, 4)), t.net(nn.Linear(6, 4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(net.parameters())
    optimizer.load_state_dict(torch.optim.Adam(other.parameters()).state_dict())


def closure_that_raises(t):
    net = t.net(nn.Linear(6, 4))

    def closure():
        raise KeyError("of the closure")

    torch.optim.LBFGS(net.parameters()).step(closure)


def clip_of_nan(t):
    t.leaf.grad = t.leaf.detach() * float("nan")
    nn.utils.clip_grad_norm_([t.leaf], 1.0, error_if_nonfinite=True)


# --- meshes and layouts -------------------------------------------------------

DEVICES = ["cpu:0", "cpu:1"]
OTHER = {"other": 2}


# --- shards of one's own ------------------------------------------------------


def shards_of_dtypes(t):
    parts = [torch.ones(2) for _ in range(t.mesh.size)]
    parts[-1] = parts[-1].double()
    tm.from_shards(parts, t.mesh, {"data": "S0"})


def shards_of_ranks(t):
    parts = [torch.ones(2) for _ in range(t.mesh.size)]
    parts[-1] = torch.ones(2, 2)
    tm.from_shards(parts, t.mesh, {"data": "S0"})


def shards_of_odd_sizes(t):
    parts = [torch.ones(2) for _ in range(t.mesh.size)]
    parts[0] = torch.ones(1)
    tm.from_shards(parts, t.mesh, {"data": "S0"})


def replicas_of_two_sizes(t):
    parts = [torch.ones(2) for _ in range(t.mesh.size)]
    parts[-1] = torch.ones(3)
    tm.from_shards(parts, t.mesh)


def per_device(t, *values):
    """A function that gives the next of these values at each call."""
    left = iter([*values, *[values[-1]] * t.mesh.size])
    return lambda shard: next(left)


# --- two meshes ---------------------------------------------------------------


def on_another(value):
    return tm.distribute(value, tm.Mesh(OTHER), ("S0",))
