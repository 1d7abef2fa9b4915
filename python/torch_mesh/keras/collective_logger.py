"""A callback that logs what moves between devices in each training step."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras.src.callbacks.callback import Callback
from keras.src.utils import io_utils

import torch_mesh as tm
from torch_mesh import _C
from torch_mesh.keras.describe import bytes_per_device, bytes_text


class Step(NamedTuple):
    """What one training step did.

    Attributes:
        collectives: Dict of "kind@axis", as "all_reduce@batch", to number.
        num_bytes: Dict of the same keys to bytes received per device.
        peak_bytes: Bytes that a device held at most: the variables of model
            and optimizer, and all that the step made.
    """

    collectives: dict[str, int]
    num_bytes: dict[str, int]
    peak_bytes: int


class CollectiveLogger(Callback):
    """Logs collectives, their bytes and peak memory per step.

    Adds to the `logs` of each batch, and so to the progress bar:

    - `collectives`: number of collectives of the step;
    - `collective_bytes`: bytes that each device received in them;
    - `peak_bytes`: bytes that a device held at most: the variables of model
      and optimizer, and what the step made.

    The logs of an epoch, and so `history`, get the means over its steps, and
    of `peak_bytes` the maximum. Without a distribution all are 0.

    Args:
        verbose: 1 prints a line at the end of each epoch: the collectives of
            its last step by kind and axis.

    Attributes:
        steps: List of a `Step` for each training step since `fit` began.

    Note:
        `model.fit(x, y, callbacks=[CollectiveLogger()])` gives a history with
        `history.history["collective_bytes"]`, a mean for each epoch.
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__()
        self._verbose = verbose
        self.steps: list[Step] = []
        self._first_of_epoch = 0
        self._counts: Any = None
        self._memory: Any = None
        self._held = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets the steps of a fit before.

        Args:
            logs: The numbers that callbacks and `history` get.
        """
        self.steps = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the steps of the epoch begin.

        Args:
            epoch: Number of the epoch, from 0.
            logs: The numbers that callbacks and `history` get.
        """
        self._first_of_epoch = len(self.steps)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begins to count.

        Args:
            batch: Number of the batch in its epoch, from 0.
            logs: The numbers that callbacks and `history` get.
        """
        optimizer = getattr(self.model, "optimizer", None)
        state = [*self.model.variables, *getattr(optimizer, "variables", [])]
        unique = {id(variable): variable for variable in state}
        self._held = sum(map(bytes_per_device, unique.values()))
        self._memory = tm.memory().__enter__()
        self._counts = _C.counts()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Adds what was counted to `steps` and `logs`.

        Args:
            batch: Number of the batch in its epoch, from 0.
            logs: The numbers that callbacks and `history` get.
        """
        if self._counts is None:  # fit began before this callback was there
            return
        before, after = self._counts, _C.counts()
        peak = max(self._memory.peak.values(), default=0)
        self._memory.__exit__()
        self._counts = self._memory = None
        step = Step(
            _more(before.collectives, after.collectives),
            _more(before.num_bytes, after.num_bytes),
            self._held + peak,
        )
        self.steps.append(step)
        if logs is not None:
            logs.update(_logs_of([step]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds means and the maximum of the peaks to `logs`, and prints.

        Args:
            epoch: Number of the epoch, from 0.
            logs: The numbers that callbacks and `history` get.
        """
        steps = self.steps[self._first_of_epoch :]
        if not steps:
            return
        found = _logs_of(steps)
        if logs is not None:
            logs.update(found)
        if self._verbose:
            last = steps[-1]
            kinds = ", ".join(
                f"{number} {kind} {bytes_text(last.num_bytes.get(kind, 0))}"
                for kind, number in last.collectives.items()
            )
            io_utils.print_msg(
                f"Epoch {epoch + 1}: {kinds or 'no collectives'} per step, "
                f"peak {bytes_text(int(found['peak_bytes']))} per device"
            )


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    more = {key: number - before.get(key, 0) for key, number in after.items()}
    return {key: number for key, number in more.items() if number}


def _logs_of(steps: list[Step]) -> dict[str, float]:
    """Means over steps, and the maximum of the peaks."""
    collectives = sum(sum(step.collectives.values()) for step in steps)
    num_bytes = sum(sum(step.num_bytes.values()) for step in steps)
    return {
        "collectives": collectives / len(steps),
        "collective_bytes": num_bytes / len(steps),
        "peak_bytes": float(max(step.peak_bytes for step in steps)),
    }
