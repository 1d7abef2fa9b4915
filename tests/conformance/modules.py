"""Every module of torch's `module_db`, forward and backward."""

import copy
import functools

import torch
from tests.conformance import plants
from tests.conformance.call import (
    cotangents_of,
    differentiable,
    flat,
    like,
    seed_everything,
)
from tests.conformance.compare import assert_same
from tests.conformance.exactness import Draws
from tests.conformance.layouts import assignments, mesh_of, place
from tests.conformance.record import Wrong, describe
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

import torch_mesh as tm


@functools.cache
def modules():
    return {info.name: info for info in module_db}


def units(options):
    return list(modules())


def run(unit, options, record):
    info = modules()[unit]
    for training in (True, False):
        for dtype in (torch.float32, torch.float64):
            if dtype not in info.dtypes:
                continue
            run_mode(info, dtype, training, options, record)
            break


def run_mode(info, dtype, training, options, record):
    mode = "train" if training else "eval"
    seed_everything(options.seed)
    try:
        inputs = info.module_inputs_func(
            info,
            device="cpu",
            dtype=dtype,
            requires_grad=True,
            training=training,
        )
    except Exception as error:
        record.skip(mode, f"no inputs: {describe(error)}")
        return
    if not options.full:
        inputs = inputs[: options.samples]
    for number, given in enumerate(inputs):
        label = f"{mode} #{number}"
        try:
            step = Step(info.module_cls, given, dtype, training)
            expected = step.outcome(*step.plain())
        except Exception as error:
            record.skip(label, f"plain: {describe(error)}")
            continue
        draws = Draws(lambda step=step: step.outcome(*step.plain()))
        for mesh_name in options.meshes:
            mesh = mesh_of(mesh_name)
            for layouts, assignment in choices(step, mesh_name, options):
                record.case(
                    mesh_name,
                    f"{label} {layouts}",
                    functools.partial(
                        check, step, expected, draws, mesh, assignment, options
                    ),
                )


def choices(step, mesh_name, options):
    """Layouts of parameters and buffers, and of inputs."""
    tensors = [*step.state(), *step.tensors]
    n = len(step.state())
    quick = options.quick
    replicated = None
    for label, assignment in assignments(
        tensors, mesh_name, turns=0, quick=quick
    ):
        replicated = replicated or assignment
        yield label, assignment
        if assignment is not replicated:
            yield f"state {label}", (*assignment[:n], *replicated[n:])
            yield f"inputs {label}", (*replicated[:n], *assignment[n:])


class Step:
    """One forward and backward of a module on plain tensors or placed ones."""

    def __init__(self, cls, given, dtype, training):
        made = given.constructor_input
        seed_everything(5)
        self.module = cls(*made.args, **made.kwargs).to(dtype)
        self.module.train(training)
        call = given.forward_input
        self._has_forward = call is not None
        args, kwargs = (call.args, call.kwargs) if call else ((), {})
        self._leaves, self._tree = pytree.tree_flatten((args, kwargs))
        self._at = [
            i
            for i, leaf in enumerate(self._leaves)
            if isinstance(leaf, torch.Tensor)
        ]
        self.tensors = [self._leaves[i] for i in self._at]
        # Modules that make their parameters in the first forward.
        if any(torch.nn.parameter.is_lazy(p) for p in self.module.parameters()):
            self.run(self.module, self.tensors)

    def state(self):
        return [*self.module.parameters(), *self.module.buffers()]

    def run(self, module, tensors):
        leaves = list(self._leaves)
        for i, t in zip(self._at, tensors, strict=True):
            leaves[i] = t
        args, kwargs = pytree.tree_unflatten(leaves, self._tree)
        seed_everything(6)
        return module(*args, **kwargs)

    def plain(self):
        tensors = [like(t, t.detach().clone()) for t in self.tensors]
        return copy.deepcopy(self.module), tensors

    def placed(self, mesh, assignment):
        module = copy.deepcopy(self.module)
        n = len(self.state())
        state = [*module.parameters(), *module.buffers()]
        for t, placements in zip(state, assignment, strict=False):
            t.data = place(t, mesh, placements)
        tensors = [
            like(t, place(t, mesh, placements))
            for t, placements in zip(self.tensors, assignment[n:], strict=True)
        ]
        return module, tensors

    def outcome(self, module, tensors):
        """results, gradients, state afterwards"""
        if not self._has_forward:
            return [], [], list(module.parameters())
        results = flat(self.run(module, tensors))
        outs = differentiable(results)
        leaves = [
            t for t in [*module.parameters(), *tensors] if t.requires_grad
        ]
        gradients = []
        if outs and leaves:
            cotangents = cotangents_of(outs)
            gradients = torch.autograd.grad(
                outs,
                leaves,
                [c.to(o.device) for c, o in zip(cotangents, outs, strict=True)],
                allow_unused=True,
            )
        return results, gradients, list(module.buffers())


PARTS = ("result", "gradient", "buffer")


def check(step, expected, draws, mesh, assignment, options):
    plant = plants.Plant(options.plant)
    with tm.use(mesh):
        results, gradients, buffers = step.outcome(
            *step.placed(mesh, assignment)
        )
        actual = plant.result(results), plant.gradients(gradients), buffers
    size = max([t.numel() for t in [*step.state(), *step.tensors]], default=1)
    for part, name in enumerate(PARTS):
        if len(actual[part]) != len(expected[part]):
            raise Wrong(f"{len(actual[part])} {name}s")
        for i, (a, e) in enumerate(
            zip(actual[part], expected[part], strict=True)
        ):
            if (a is None) != (e is None):
                raise Wrong(f"{name} {i}: {'' if a is None else 'not '}None")
            if e is None:
                continue
            assert_same(
                a,
                e,
                f"{name} {i}",
                size=size,
                draws=lambda part=part, i=i: draws.tensors(
                    lambda made: made[part][i]
                ),
            )
