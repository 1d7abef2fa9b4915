"""One call of an op, on plain tensors or on placed ones."""

import random

import numpy
import torch
from tests.conformance.layouts import place
from tests.conformance.record import Skip, Wrong
from torch.utils import _pytree as pytree

import torch_mesh as tm


def seed_everything(seed):
    # The mesh draws from it too. torch.manual_seed takes half a millisecond:
    # it notes a stack for each kind of device that is not there.
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


class Call:
    """A function and its arguments, of which the tensors can be replaced."""

    def __init__(self, function, args, kwargs, finish=None, seed=4):
        """`finish` makes of the result what may be differentiated."""
        self.function = function
        self.finish = finish
        self.seed = seed
        self._leaves, self._tree = pytree.tree_flatten((args, kwargs))
        self._at = [
            i
            for i, leaf in enumerate(self._leaves)
            if isinstance(leaf, torch.Tensor)
        ]
        self.tensors = [self._leaves[i] for i in self._at]

    @property
    def place(self):
        """Where the mesh has the result: a call that names no device makes it
        on torch's default device.
        """
        names = any(is_cpu(leaf) for leaf in self._leaves)
        return "mesh" if self._at or names else "cpu"

    def plain_tensors(self):
        """Fresh copies, in the memory formats that `place` gives too."""
        return [like(t, t.detach().clone()) for t in self.tensors]

    def placed_tensors(self, mesh, assignment):
        return [
            like(t, placed(t, mesh, placements))
            for t, placements in zip(self.tensors, assignment, strict=True)
        ]

    def __call__(self, tensors, *, on_mesh=False):
        """The result for these tensors, under the same seed each time."""
        leaves = list(self._leaves)
        for i, t in zip(self._at, tensors, strict=True):
            leaves[i] = t
        if on_mesh:
            leaves = [on_the_mesh(leaf) for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._tree)
        seed_everything(self.seed)
        return self.function(*args, **kwargs)


def placed(t, mesh, placements):
    """`t` in a layout. A sparse tensor has none: the mesh has to say so."""
    if t.layout == torch.strided:
        return place(t, mesh, placements)
    try:
        tm.distribute(t, mesh, ("R",) * len(mesh.shape))
    except NotImplementedError as error:
        if "[not-strided]" in str(error):
            raise Skip(f"{t.layout}: the mesh refuses it") from None
        raise
    raise Wrong(f"a {t.layout} tensor was placed")


def like(t, copy):
    return copy.requires_grad_(t.requires_grad)


def is_cpu(leaf):
    return isinstance(leaf, torch.device) or (
        isinstance(leaf, str) and leaf == "cpu"
    )


def on_the_mesh(leaf):
    """What names the CPU in a plain call names the mesh here."""
    if is_cpu(leaf):
        return torch.device("mesh") if not isinstance(leaf, str) else "mesh"
    if isinstance(leaf, torch.Generator):
        return leaf.clone_state()
    return leaf


def flat(result):
    """The leaves of a result."""
    return pytree.tree_flatten(result)[0]


def differentiable(results):
    return [
        r for r in results if isinstance(r, torch.Tensor) and r.requires_grad
    ]


def cotangents_of(results, seed=17):
    """Fixed random plain tensors of the shapes of `results`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(r.shape, dtype=torch.complex128, generator=generator).to(
            r.dtype
        )
        if r.is_complex()
        else torch.randn(r.shape, dtype=torch.float64, generator=generator).to(
            r.dtype
        )
        for r in results
    ]
