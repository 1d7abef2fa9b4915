"""The native module: what `src/python/module.cpp` binds."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# ------------------------------------------------------- meshes and layouts

class Mesh:
    """Devices along named axes, row-major."""

    def __init__(
        self, axes: Sequence[tuple[str, int]], devices: Sequence[str]
    ) -> None: ...
    @property
    def axes(self) -> list[tuple[str, int]]: ...
    @property
    def devices(self) -> list[str]: ...
    @property
    def size(self) -> int: ...
    @property
    def one_memory(self) -> bool: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class Layout:
    """A mesh and one placement for each of its axes."""

    def __init__(self, mesh: Mesh, placements: Sequence[str]) -> None: ...
    @staticmethod
    def parse(mesh: Mesh, text: str) -> Layout: ...
    @staticmethod
    def replicated(mesh: Mesh) -> Layout: ...
    @property
    def mesh(self) -> Mesh: ...
    @property
    def placements(self) -> list[str]: ...
    @property
    def is_replicated(self) -> bool: ...
    @property
    def has_partial(self) -> bool: ...
    @property
    def lane_of_device(self) -> list[int]:
        """Which copy each device reads: one number, one memory."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

def shard_sizes(layout: Layout, sizes: Sequence[int], device: int) -> list[int]:
    """Sizes of what device number `device` holds of a tensor of `sizes`."""

def redistribution(
    source: Layout, to: Layout, sizes: Sequence[int], itemsize: int
) -> str:
    """The steps from one layout to another, as text."""

def cpu_memories_are_separate() -> bool | None:
    """What was said, or the environment says; None: it depends on the mesh."""

def separate_cpu_memories(separate: bool | None) -> None:
    """Gives each virtual device a memory of its own, or one to all."""

def set_memories_for_testing(memories: list[int]) -> None:
    """Gives each cpu:<i> of later meshes that memory; none: one for all."""

def refuse_to_communicate_for_testing(refuse: bool) -> None:
    """Makes every call of a communicator an error, or ends that."""

# ------------------------------------------------------------------- jobs

def start_job(
    group_name: str,
    process: int,
    num_processes: int,
    store_keeper: int,
    prefix: str,
) -> None:
    """Makes this process part of a job; each of the group's calls it once.

    Args:
        group_name: As torch names it.
        process: Index of this one.
        num_processes: Of the group.
        store_keeper: The process with which the group's store ends; -1 if it is
            another's, or not known.
        prefix: Of keys in that store, which may outlive the job.
    """

def end_job() -> None:
    """Leaves the job, and tells the others. Nothing if there is none."""

def job() -> tuple[int, int] | None:
    """Number of this process, and of all of them."""

def begin_reductions_of(parameters: Sequence[Tensor]) -> None:
    """Begins to form the gradients that are sums, while the program goes on."""

def finish_background() -> None:
    """Waits for all that was begun."""

def leave_note(doing: str, key: str, text: str) -> None:
    """Leaves the other processes of the job a text. Counts as an op."""

def wait_for_note(doing: str, key: str, process: int) -> bytes:
    """What `process` leaves under a key, as soon as it is there.

    Raises:
        RuntimeError: if it is not in time, or the job is over.
    """

def report_failure(text: str) -> None:
    """Tells the others that this process ends with an error."""

def verdict() -> str | None:
    """Why the job is over; None while it goes on."""

def set_wait_limit(seconds: float) -> None:
    """How long a collective waits for another process; 0: without end."""

# ---------------------------------------------------------------- tensors

def register_device() -> None: ...
def current_mesh() -> Mesh: ...
def layout_in_force() -> Layout:
    """S0 on the axes that cut batches, R on all others."""

def layout_of_process() -> Layout: ...
def set_layout_of_process(layout: Layout) -> None: ...
def override_of_thread() -> Layout | None: ...
def set_override_of_thread(layout: Layout | None) -> None: ...
def pause_batches() -> None: ...
def resume_batches() -> None: ...
def batch_moves() -> list[tuple[list[int], torch.dtype, Layout, int]]:
    """Sizes, dtype, layout of batches that were moved, and how often."""

def is_global(tensor: Tensor) -> bool: ...
def is_unwritten(tensor: Tensor) -> bool: ...
def state_text(tensor: Tensor) -> str:
    """What the engine knows of a tensor and its storage, without values."""

def change_layout(tensor: Tensor, layout: Layout) -> bool: ...
def unwritten(
    sizes: Sequence[int],
    strides: Sequence[int],
    dtype: torch.dtype,
    layout: Layout,
) -> Tensor:
    """Memory that nobody has written, to be written in `layout`."""

def layout_of(tensor: Tensor) -> Layout: ...
def distribute(tensor: Tensor, layout: Layout) -> Tensor: ...
def redistribute(tensor: Tensor, layout: Layout) -> Tensor: ...
def full(tensor: Tensor) -> Tensor: ...
def borrow(tensor: Tensor, layout: Layout) -> Tensor: ...
def shards(tensor: Tensor) -> list[Any]: ...
def read_only(tensor: Tensor) -> Tensor: ...
def check_device_index(device: torch.device) -> None: ...
def from_shards(shards: Sequence[Tensor | None], layout: Layout) -> Tensor: ...
def reduce_partials(tensors: Sequence[Tensor]) -> None: ...
def zeros(layout: Layout, sizes: Sequence[int], like: Tensor) -> Tensor: ...
def read_block(tensor: Tensor, start: int, count: int) -> Tensor: ...
def write_block(tensor: Tensor, start: int, values: Tensor) -> None: ...
def read_bytes(to: Tensor, source: Tensor) -> bool: ...
def numpy_method(own: Any, of_global: Callable[..., Any]) -> Any:
    """A method like torch's own, which asks a function about global tensors."""

# ------------------------------------------------------------------ rules

def register_rule(name: str, text: str) -> None: ...
def rule_names() -> list[str]: ...
def rule_text(name: str) -> str | None: ...
def start_explaining(with_instructions: bool = False) -> None: ...
def stop_explaining() -> list[str]: ...
def clear_plans() -> None: ...

# --------------------------------------------------------------- counters

class CollectiveEvent:
    """One collective: what, where, how much, and for which op."""

    @property
    def kind(self) -> str: ...
    @property
    def axis(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def op(self) -> str: ...

class Counts:
    """What the process has counted since its start."""

    @property
    def collectives(self) -> dict[str, int]: ...
    @property
    def num_bytes(self) -> dict[str, int]: ...
    @property
    def calls(self) -> dict[str, int]: ...
    @property
    def received(self) -> dict[str, int]: ...
    @property
    def moved(self) -> dict[str, int]: ...
    @property
    def replicated_ops(self) -> dict[str, int]: ...
    @property
    def ops(self) -> int: ...
    @property
    def plans_made(self) -> int: ...

class CountingMemory:
    """Bytes of the shards that were made since its construction."""

    def __init__(self) -> None: ...
    @property
    def now(self) -> dict[str, int]: ...
    @property
    def peak(self) -> dict[str, int]: ...

def run_on_memories(
    name: str,
    local: Callable[[list[Tensor]], Sequence[Tensor]],
    composed: Callable[[list[Tensor]], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    batch_dims: Sequence[int],
    results: Sequence[tuple[int, Sequence[int]]],
    kept: int,
) -> list[Tensor] | None: ...
def memory_of_process(
    living: Sequence[Tensor],
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by device that are held, and the most that were."""

def compat_checks() -> list[tuple[str, str, Callable[[], str]]]: ...
def is_memory_counted() -> bool: ...
def reset_peak_memory() -> None: ...
def counts() -> Counts: ...
def keep_events() -> int: ...
def events_since(since: int) -> list[CollectiveEvent]: ...
def release_events() -> None: ...
def log_level() -> int: ...
def log_line(text: str) -> None: ...
def set_log_level(level: int) -> None: ...

# -------------------------------------------------------------- layout maps

class Matcher:
    """The matching rule of layout maps, for a list of patterns."""

    def __init__(
        self, patterns: list[str], foreign: Callable[[str, str], bool]
    ) -> None: ...
    def find(
        self, path: str
    ) -> int | tuple[str, list[tuple[int, str]]] | None: ...

class Answers:
    """What the paths of one layout map have found."""

    def __init__(
        self,
        matcher: Matcher,
        layouts: list[Any],
        by_path: dict[str, Any],
        beyond: Callable[[str, str, list[tuple[int, str]]], Any],
    ) -> None: ...
    def get(self, path: str) -> Any: ...

def pattern_problem(pattern: str) -> str: ...
def ends_of(path: str) -> list[str]: ...
def other_forms_of(path: str) -> list[str]: ...
def nearest_paths(pattern: str, paths: list[str], n: int) -> list[str]: ...
