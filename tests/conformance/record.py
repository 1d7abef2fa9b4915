"""What a case ends in, and who writes it down."""

import contextlib
import dataclasses
import mmap
import traceback

RIGHT = "right"
RAISES = "raises"
WRONG = "wrong"
SKIPPED = "skipped"
OPEN = "open"  # right, but plain torch fixes some value of it only coarsely

LABEL_BYTES = 500


class Wrong(Exception):
    """The mesh's answer is not plain torch's."""


class Enough(Exception):
    """The unit has shown what it was run for."""


class Skip(Exception):
    """The case says nothing about the mesh; the text says why."""


@dataclasses.dataclass
class Options:
    """What a run covers."""

    meshes: tuple[str, ...] = ("2", "3", "2x2")
    full: bool = False
    samples: int = 5
    seed: int = 4
    plant: str | None = None
    quick: bool = False  # fewer layouts: what `make test` has time for
    # Memory of each device; then each case asks whether the bytes that are
    # counted are those that move, in place of the values.
    memories: tuple[int, ...] = ()
    # That have the devices of a mesh between them, and how they talk:
    # "shared_memory" or "c10d".
    processes: int = 1
    transport: str = "shared_memory"


@dataclasses.dataclass
class Outcome:
    """One case that did not end right."""

    suite: str
    unit: str
    mesh: str
    case: str
    kind: str
    text: str

    @property
    def is_failure(self):
        return self.kind in (RAISES, WRONG)

    @property
    def name(self):
        return f"{self.suite}/{self.unit}[{self.mesh}] {self.case}"


class Progress:
    """The label of the case at hand, in memory that the parent reads too.

    A worker that dies or hangs can no longer say where; this can.
    """

    def __init__(self):
        self._memory = mmap.mmap(-1, 8 + LABEL_BYTES)

    def begin(self, index, label):
        data = label.encode()[:LABEL_BYTES].ljust(LABEL_BYTES, b"\0")
        self._memory[8:] = data
        self._memory[:8] = index.to_bytes(8, "little")

    @property
    def index(self):
        return int.from_bytes(self._memory[:8], "little")

    @property
    def label(self):
        return self._memory[8:].rstrip(b"\0").decode(errors="replace")


class Planted:
    """How many errors `plants` has put in, in this process."""

    count = 0


class Open:
    """Values that `compare` could tell only coarsely, in the case at hand."""

    texts: tuple[str, ...] = ()


class Record:
    """Runs the cases of one unit and keeps how they ended."""

    def __init__(
        self,
        suite,
        unit,
        progress,
        passed_over=(),
        until_wrong=False,
        around=contextlib.nullcontext,
    ):
        """`until_wrong`: the first wrong case ends the unit, by `Enough`.

        Each case runs inside of `around()`, which may raise `Wrong` at its end.
        """
        self._until_wrong = until_wrong
        self._around = around
        self.suite = suite
        self.unit = unit
        self.right = {}  # per mesh
        self.outcomes = []
        self._progress = progress
        self._passed_over = frozenset(passed_over)
        self._index = 0

    def case(self, mesh, label, check):
        """Runs `check`; it raises `Wrong`, `Skip`, or what the mesh raises.

        Returns whether it was right.
        """
        self._index += 1
        if self._index in self._passed_over:
            return False  # it ended an earlier worker
        self._progress.begin(self._index, f"{mesh}\n{label}")
        planted = Planted.count
        Open.texts = ()
        try:
            with self._around():
                check()
            if self._until_wrong and Planted.count == planted:
                raise Skip("right, and no error was put in")
        except Wrong as error:
            self.add(mesh, label, WRONG, str(error))
            if self._until_wrong:
                raise Enough from error
        except Skip as why:
            self.add(mesh, label, SKIPPED, str(why))
        except Exception as error:
            self.add(mesh, label, RAISES, describe(error))
        else:
            self.right[mesh] = self.right.get(mesh, 0) + 1
            if Open.texts:
                self.add(mesh, label, OPEN, "; ".join(Open.texts))
            return True
        return False

    def add(self, mesh, label, kind, text):
        self.outcomes.append(
            Outcome(self.suite, self.unit, mesh, label, kind, text)
        )

    def skip(self, label, why):
        """A case that plain torch itself cannot do, for all meshes."""
        self.add("-", label, SKIPPED, why)


def describe(error):
    """Type, text and place of an exception, short."""
    text = " ".join(str(error).split())
    if len(text) > 400:  # the code at the end says what kind it is
        text = f"{text[:360]} ... {text[-40:]}"
    frames = [
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/conformance/record.py" not in frame.filename
    ]
    return f"{type(error).__name__}: {text} (at {' '.join(frames[-3:])})"
