"""Runs a program in a place: what it gives, what it costs, what it counts."""

import dataclasses
import time

import torch

import torch_mesh as tm
from torch_mesh import twin

SEED = 11
STEPS = 5
WARM_UP = 2  # steps that no time is taken of


@dataclasses.dataclass
class Run:
    """What a program gave and cost.

    `results` has a list of plain tensors for each step, `weights` plain tensors
    by name, `seconds` the CPU time of each step.
    """

    results: list
    weights: dict
    seconds: list
    replicated: dict
    collectives: int = 0


def run(program, place, steps=STEPS, seed=SEED, nudge=None):
    """Builds a program in a place and takes its steps.

    Args:
        nudge: a number, and each weight begins one rounding beside its value,
            to a side that the number draws.
    """
    torch.manual_seed(seed)
    results, seconds = [], []
    with place.active(program.keras), tm.counting() as counts:
        step, weights = program.build(place)
        if nudge is not None:
            for tensor in tensors_of(weights).values():
                twin.nudge(tensor, seed=nudge)
        for _ in range(steps):
            start = time.process_time()
            results.append(plain(step()))
            seconds.append(time.process_time() - start)
        weights = weights() if callable_only(weights) else weights
        if isinstance(weights, torch.nn.Module):
            weights = weights.state_dict()
        weights = {
            name: plain(value)[0]
            for name, value in weights.items()
            if isinstance(value, torch.Tensor)
        }
    number = sum(counts.collectives.values())
    return Run(results, weights, seconds, counts.replicated_ops, number)


def tensors_of(weights):
    """The tensors that a program names, of a module, a dict or a function."""
    if callable_only(weights):
        weights = weights()
    if isinstance(weights, torch.nn.Module):
        return {
            **dict(weights.named_parameters()),
            **dict(weights.named_buffers()),
        }
    return {n: w for n, w in weights.items() if isinstance(w, torch.Tensor)}


def callable_only(weights):
    return callable(weights) and not isinstance(weights, torch.nn.Module)


def plain(values):
    """Tensors and numbers as a list of plain tensors."""
    if not isinstance(values, (tuple, list)):
        values = (values,)
    return [
        value.detach().cpu().clone()
        if isinstance(value, torch.Tensor)
        else torch.as_tensor(value)
        for value in values
    ]


def difference(actual, expected, least=0.0):
    """The largest difference, as a part of the scale of what is expected.

    Args:
        least: the least scale.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    if not expected.dtype.is_floating_point:
        return 0.0 if torch.equal(actual, expected) else float("inf")
    actual, expected = actual.double(), expected.double()
    if not torch.equal(actual.isnan(), expected.isnan()):
        return float("inf")
    actual, expected = actual.nan_to_num(), expected.nan_to_num()
    scale = expected.abs().max().clamp_min(max(least, 1e-30))
    return ((actual - expected).abs().max() / scale).item()


def differences(actual, expected, dtype=torch.float32):
    """The largest difference of results and of weights, and the weight's name.

    Args:
        dtype: the program's. What is float32 all the same (transformers forms
            its losses so) is left to the run in float32.

    Returns:
        Tuple of two numbers, and the name of the weight that differs most.
    """
    of_results = max(
        (
            difference(a, e)
            for of_a, of_e in zip(actual.results, expected.results, strict=True)
            for a, e in zip(of_a, of_e, strict=True)
            if not low_precision(e, dtype)
        ),
        default=0.0,
    )
    if actual.weights.keys() != expected.weights.keys():
        raise AssertionError("the weights have other names")
    # The weight and the bias of a layer act together, and so have one scale: a
    # bias that began at zero has none of its own, nor has a mean before a norm.
    scales = {}
    for name, weight in expected.weights.items():
        if weight.dtype.is_floating_point and weight.numel():
            owner = owner_of(name)
            largest = weight.abs().max().item()
            scales[owner] = max(scales.get(owner, 0.0), largest)
    by_name = {
        name: difference(
            actual.weights[name], weight, scales.get(owner_of(name), 0.0)
        )
        for name, weight in expected.weights.items()
    }
    worst = max(by_name, key=by_name.get, default="")
    return of_results, by_name.get(worst, 0.0), worst


def owner_of(name):
    """The layer of a weight; a weight of no layer is one by itself."""
    owner, _, rest = name.replace("/", ".").rpartition(".")
    return owner or rest


def low_precision(tensor, dtype):
    """Whether a floating tensor has fewer digits than `dtype`."""
    floating = tensor.dtype.is_floating_point
    return floating and tensor.dtype.itemsize < dtype.itemsize


def distance(actual, exact):
    """As `differences`, from a run in float64 with the same numbers drawn."""
    rounded = Run(
        [
            [like(e, a) for a, e in zip(of_a, of_e, strict=True)]
            for of_a, of_e in zip(actual.results, exact.results, strict=True)
        ],
        {n: like(exact.weights[n], w) for n, w in actual.weights.items()},
        [],
        {},
    )
    return differences(rounded, exact)[:2]


def like(exact, tensor):
    """The tensor in the dtype of `exact`, if both are floating."""
    floating = exact.dtype.is_floating_point and tensor.dtype.is_floating_point
    return tensor.to(exact.dtype) if floating else tensor
