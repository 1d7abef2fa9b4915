"""The list of programs by name."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Program:
    """A program, written once for every place.

    Args:
        name: name of its function.
        family: name of its file.
        build: takes a `Place`; gives `step, weights`. A step gives a tensor (or
            a tuple of them): a loss, or what was generated. Weights are a
            module, or a dict of names to tensors.
        float64: whether there is a float64 form.
        half: whether it computes in bfloat16, under autocast.
        keras: whether it is one of Keras, which has a distribution instead of
            a mesh in force.
        modes: how it runs on a mesh.
    """

    name: str
    family: str
    build: Callable
    float64: bool = True
    half: bool = False
    keras: bool = False
    modes: tuple[str, ...] = ("data", "tensor")


PROGRAMS: dict[str, Program] = {}


def program(**options):
    """A decorator that enters a function into PROGRAMS."""

    def enter(build):
        family = build.__module__.rpartition(".")[2]
        if build.__name__ in PROGRAMS:
            raise ValueError(f"two programs {build.__name__}")
        PROGRAMS[build.__name__] = Program(
            build.__name__, family, build, **options
        )
        return build

    return enter
