"""One model on many devices, each of which has a part of the batch.

Loaded with Keras: what it uses of the engine, of torch.distributed and of Keras
itself is imported when it is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from torch_mesh import job
from torch_mesh.keras import active, collectives, data
from torch_mesh.keras.layouts import check_axis

# The attribute of a replicated model that holds its mesh and batch axis, and
# the mark of a parameter whose gradient is seen to.
_MARK = "_torch_mesh_replicates"


def replicate_model(
    model: Any,
    mesh: Any = None,
    axis_name: str | None = None,
    find_unused_parameters: bool = False,
) -> Any:
    """Trains a model on parts of the batch, with one set of weights.

    On a mesh: parameters and buffers are replicated, each tensor of an input
    that has the length of the batch is split over one axis, and gradients are
    summed over the devices in buckets when backward ends. The gradients are
    those of one device, whatever the loss.

    Among several processes, without a mesh: torch's `DistributedDataParallel`.
    Each process passes its own part of the batch, gradients are averaged, and
    weights begin as those of process 0. Layers of a Keras model may be frozen
    and thawed later.

    Args:
        model: A `torch.nn.Module`, or a Keras model that is built.
        mesh: A `torch_mesh.Mesh` or a Keras `DeviceMesh`. Defaults to the mesh
            in force; else, for a module in one process, to a mesh over all of
            `list_devices()`. A Keras model needs a distribution in force.
        axis_name: The axis that splits the batch. Defaults to that of the
            distribution in force, else to the first.
        find_unused_parameters: Among processes: whether parameters may be left
            out of a step, which costs a walk through the graph each step.

    Returns:
        On a mesh `model` itself, as any Keras model: use it, `fit` included,
        as before. A module among processes comes back wrapped.

    Raises:
        TypeError: if `model` is not a module.
        ValueError: if a Keras model is not built or has no distribution in
            force, or the mesh lacks the axis.
    """
    import torch_mesh as tm

    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"replicate_model: {type(model).__name__} is no torch.nn.Module.\n"
            "Hint: give a torch module, or a Keras model on the torch backend. "
            "[no-module]"
        )
    mesh = _backend_mesh(mesh) or _mesh_of(model) or tm.current_mesh()
    if mesh is None and job.num_processes() > 1:
        return _among_processes(model, find_unused_parameters)
    if _is_keras(model):
        _check_built(model)
        mesh, axis = _mesh_of_distribution(mesh, axis_name)
        _replicate_variables(model)
        if not _is_replicated(model):
            _wrap_call(model, _sharding_call(model))
    else:
        if mesh is None:
            devices = tm.list_devices()
            mesh = tm.Mesh({"batch": len(devices)}, devices)
        axis = axis_name or _batch_axis(mesh)
        check_axis("replicate_model", axis, mesh)
        _replicate_module(model, mesh)
        if not _is_replicated(model):
            model.register_forward_pre_hook(
                lambda module, args, kwargs: shard_inputs(
                    args, kwargs, *vars(module)[_MARK]
                ),
                prepend=True,
                with_kwargs=True,
            )
    object.__setattr__(model, _MARK, (mesh, axis))
    _reduce_gradients_when_backward_ends(model)
    return model


def shard_inputs(args: Any, kwargs: Any, mesh: Any, axis: str) -> Any:
    """Splits the arguments of a call along the batch.

    Args:
        args: Positional arguments, of any structure.
        kwargs: Keyword arguments.
        mesh: A `torch_mesh.Mesh`.
        axis: The axis that splits the batch.

    Returns:
        `(args, kwargs)`. Tensors whose first dim has the length of that of the
        first tensor are split along it; other tensors with data are
        replicated. What is on a mesh and split already stays.
    """
    import torch_mesh as tm

    leaves = [x for x in _leaves((args, kwargs)) if x.ndim > 0]
    batch = leaves[0].shape[0] if leaves else None
    split = tm.Layout(mesh, {axis: "S0"})
    whole = tm.Layout(mesh, {})

    def one(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not data.has_data(x):
            return x
        in_batch = x.ndim > 0 and x.shape[0] == batch
        if tm.is_global(x):
            layout = tm.layout(x)
            bare = not layout.mesh.axis_names
            if not bare and (
                not in_batch or any(p != "R" for p in layout.placements)
            ):
                return x
        elif x.ndim == 0:
            return x  # a number costs nothing where it is
        return data.place(x, split if in_batch else whole)

    return data.map_structure(one, (args, kwargs))


# On a mesh


def _backend_mesh(mesh: Any) -> Any:
    """A `torch_mesh.Mesh` from one of Keras or ours, or None."""
    return getattr(mesh, "backend_mesh", mesh)


def _mesh_of(model: torch.nn.Module) -> Any:
    """The mesh that a model's parameters are on, or None."""
    import torch_mesh as tm

    for parameter in model.parameters():
        if tm.is_global(parameter):
            mesh = tm.layout(parameter).mesh
            if mesh.axis_names:
                return mesh
    return None


def _mesh_of_distribution(mesh: Any, axis_name: str | None) -> tuple[Any, str]:
    """Mesh and batch axis of the distribution in force, for a Keras model."""
    distribution = active.current()
    if distribution is None:
        raise ValueError(
            "replicate_model: a Keras model is on the mesh only under a "
            "distribution, and none is in force.\n"
            "Hint: call keras.distribution.set_distribution(DataParallel()) "
            "first. [no-mesh]"
        )
    now = distribution.device_mesh.backend_mesh
    if mesh is not None and mesh != now:
        raise ValueError(
            "replicate_model: the model's mesh is not that of the "
            "distribution in force.\n"
            f"  asked     {mesh}\n"
            f"  in force  {now}\n"
            "Hint: set a distribution on the mesh that is to be used. "
            "[no-mesh]"
        )
    axis = axis_name or distribution.batch_dim_name or now.axis_names[0]
    check_axis("replicate_model", axis, now)
    return now, axis


def _batch_axis(mesh: Any) -> str:
    """The axis that splits the batch, unless somebody says otherwise."""
    distribution = active.current()
    name: str = getattr(distribution, "batch_dim_name", "")
    return name if name in mesh.axis_names else mesh.axis_names[0]


def _replicate_module(module: torch.nn.Module, mesh: Any) -> None:
    """Moves parameters and buffers; they stay the same objects."""
    import torch_mesh as tm

    whole = tm.Layout(mesh, {})
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = data.place(tensor.data, whole)
            if tensor.grad is not None:
                tensor.grad = data.place(tensor.grad, whole)


def _replicate_variables(model: Any) -> None:
    """Gives each variable of a Keras model a replicated layout."""
    from keras.src.distribution import TensorLayout

    from torch_mesh.keras import variable  # loads the engine

    device_mesh = active.current().device_mesh
    for v in model.variables:
        v._layout = TensorLayout([None] * len(v.shape), device_mesh)
        if isinstance(v._value, torch.nn.Parameter):
            variable.put(v._value, v._layout)


def _sharding_call(model: Any) -> Callable[..., Any]:
    """A `call` whose inputs are split along the batch."""
    call = _call_of(model)

    @functools.wraps(call)
    def replicated_call(*args: Any, **kwargs: Any) -> Any:
        if active.on_mesh():  # not while the model is traced, or elsewhere
            args, kwargs = shard_inputs(args, kwargs, *vars(model)[_MARK])
        return call(*args, **kwargs)

    return replicated_call


def _reduce_gradients_when_backward_ends(model: torch.nn.Module) -> None:
    """Has all gradients of one backward reduced together."""
    import torch_mesh as tm

    parameters = [p for p in model.parameters() if p.requires_grad]
    waiting: list[torch.Tensor] = []
    backward = -1  # the one that `waiting` is of

    def reduce_all() -> None:
        gradients = [p.grad for p in waiting if p.grad is not None]
        waiting.clear()
        tm.reduce_partials(gradients)

    def is_ready(parameter: torch.Tensor) -> None:
        nonlocal backward
        now = torch._C._current_graph_task_id()
        if now != backward:  # its first; an earlier one may have failed
            backward = now
            waiting.clear()
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(reduce_all)
        waiting.append(parameter)

    for parameter in parameters:
        if not getattr(parameter, _MARK, False):
            setattr(parameter, _MARK, True)
            parameter.register_post_accumulate_grad_hook(is_ready)


# Among processes


class _Replica(torch.nn.Module):
    """A Keras model as DistributedDataParallel sees it.

    Its call, its trainable parameters, and the other floating state as buffers:
    those follow process 0, so moving statistics do not drift apart.
    """

    def __init__(self, values: list[Any], call: Callable[..., Any]) -> None:
        super().__init__()
        # In a tuple: the module is not to find more parameters through them.
        self._call = (call,)
        for i, value in enumerate(values):
            if value.requires_grad:
                self.register_parameter(f"v{i}", value)
            else:
                self.register_buffer(f"v{i}", value.detach())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call[0](*args, **kwargs)


class _Replicas:
    """The call and the fit of a Keras model that several processes train.

    DistributedDataParallel averages the gradients of the parameters that it
    finds when it is made. So it is made again where others are to be trained:
    after layers were frozen or thawed, or adapters were added.

    Attributes:
        model: The Keras model.
        call: Its own `call`.
        find_unused_parameters: As for `replicate_model`.
    """

    def __init__(self, model: Any, find_unused_parameters: bool) -> None:
        self.model = model
        self.call = _call_of(model)
        self.find_unused_parameters = find_unused_parameters
        self._replica: Any = None
        self._made_for: list[tuple[Any, bool]] = []
        self.follow()

    def follow(self) -> Any:
        """The DistributedDataParallel of what is to be trained now.

        Returns:
            None if nothing is: the model is called as it is.
        """
        values = self._floating_values()
        now = [(value, value.requires_grad) for value in values]
        if len(now) == len(self._made_for) and all(
            value is other and trains == trained
            for (value, trains), (other, trained) in zip(
                now, self._made_for, strict=True
            )
        ):
            return self._replica
        self._leave_gradients()
        if any(trains for _, trains in now):
            from torch.nn.parallel import DistributedDataParallel

            self._replica = DistributedDataParallel(
                _Replica(values, self.call),
                find_unused_parameters=self.find_unused_parameters,
            )
        else:
            self._replica = None
            _send(values)
        self._made_for = now
        return self._replica

    def send_statistics(self) -> None:
        """Gives all processes the moving statistics of process 0.

        DistributedDataParallel does so when a step begins, so those of the
        last step are each process's own.
        """
        _send([v for v in self._floating_values() if not v.requires_grad])

    def _floating_values(self) -> list[Any]:
        values = [v._value for v in self.model.variables]
        return [v for v in values if v is not None and v.is_floating_point()]

    def _leave_gradients(self) -> None:
        """Takes the hooks of the present replica from the parameters."""
        if self._replica is not None:
            # A reducer lives on in reference cycles, and would reduce too.
            self._replica.reducer._remove_autograd_hooks()
            self._replica = None


def _send(values: list[Any]) -> None:
    """Copies the values of process 0 to the other processes, in place."""
    with torch.no_grad():
        for value in values:
            value.copy_(collectives.take_from("replicate_model", value, 0))


def _among_processes(
    model: Any, find_unused_parameters: bool
) -> torch.nn.Module:
    """The model under torch's DistributedDataParallel."""
    from torch.nn.parallel import DistributedDataParallel

    wrap = functools.partial(
        DistributedDataParallel, find_unused_parameters=find_unused_parameters
    )
    if isinstance(model, DistributedDataParallel):
        return model
    if not _is_keras(model):
        return wrap(model)
    _check_built(model)
    if _is_replicated(model):
        return model
    replicas = _Replicas(model, find_unused_parameters)
    call = replicas.call

    @functools.wraps(call)
    def replicated_call(*args: Any, **kwargs: Any) -> Any:
        if _is_traced((args, kwargs)) or not torch.is_grad_enabled():
            return call(*args, **kwargs)
        replica = replicas.follow()
        return (call if replica is None else replica)(*args, **kwargs)

    _wrap_call(model, replicated_call)
    if hasattr(model, "fit"):  # a layer has none
        fit = model.fit

        @functools.wraps(fit)
        def replicated_fit(*args: Any, **kwargs: Any) -> Any:
            history = fit(*args, **kwargs)
            replicas.send_statistics()
            return history

        object.__setattr__(model, "fit", replicated_fit)
    object.__setattr__(model, _MARK, (None, None))
    return model


def _is_traced(structure: Any) -> bool:
    """Whether a Keras model is asked for shapes, not for values."""
    from keras.src import backend

    if backend.common.stateless_scope.in_stateless_scope():
        return True
    return any(x.is_meta for x in _leaves(structure))


# Keras models


def _is_keras(model: Any) -> bool:
    from keras.src.layers import Layer

    return isinstance(model, Layer)


def _check_built(model: Any) -> None:
    if not model.built or not model.variables:
        raise ValueError(
            f'replicate_model: "{model.name}" is not built, so it has no '
            "weights.\n"
            "Hint: call it once on a batch, or model.build(input_shape). "
            "[not-built]"
        )


def _is_replicated(model: Any) -> bool:
    return _MARK in vars(model)


def _call_of(model: Any) -> Callable[..., Any]:
    call: Callable[..., Any] = model.call
    return call


def _wrap_call(model: Any, call: Callable[..., Any]) -> None:
    """Puts `call` in the place of a model's own.

    Past Keras's `__setattr__`, which would track it.
    """
    object.__setattr__(model, "call", call)


def _leaves(structure: Any) -> Iterable[torch.Tensor]:
    from keras.src import tree

    return [x for x in tree.flatten(structure) if isinstance(x, torch.Tensor)]
