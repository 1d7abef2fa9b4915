"""The table of a run, on a terminal and in a file."""

import collections
import re

from tests.conformance.record import OPEN, RAISES, SKIPPED, WRONG


class Table:
    """Cases of each suite and mesh by how they ended."""

    def __init__(self):
        self.right = collections.Counter()
        self.others = collections.Counter()
        self.outcomes = []
        self.commits = []  # that the units ran on, if it was noted
        self.units = collections.Counter()
        self.seconds = collections.Counter()
        self._by_unit = {}

    def add(self, done):
        suite = done.job.suite
        self.units[suite] += 1
        name = f"{suite}/{done.job.unit}"
        self._by_unit[name] = sum(done.right.values()), done.outcomes
        self.seconds[suite] += done.seconds
        for mesh, n in done.right.items():
            self.right[suite, mesh] += n
        for outcome in done.outcomes:
            self.outcomes.append(outcome)
            self.others[suite, outcome.mesh, outcome.kind] += 1

    def by_unit(self):
        """suite/unit -> number of right cases, and the other outcomes."""
        return self._by_unit

    @property
    def failures(self):
        return [o for o in self.outcomes if o.is_failure]

    def rows(self):
        """suite, mesh, run, right, open of these, raises, wrong, skipped."""
        keys = {*self.right, *((s, m) for s, m, _ in self.others)}
        for suite, mesh in sorted(keys):
            right = self.right[suite, mesh]
            raises = self.others[suite, mesh, RAISES]
            wrong = self.others[suite, mesh, WRONG]
            skipped = self.others[suite, mesh, SKIPPED]
            run = right + raises + wrong
            is_open = self.others[suite, mesh, OPEN]
            yield suite, mesh, run, right, is_open, raises, wrong, skipped

    def reasons(self):
        """Why cases were skipped, with how many, most first."""
        counts = collections.Counter(
            re.sub(r"\d+", "N", o.text)[:100]
            for o in self.outcomes
            if o.kind == SKIPPED
        )
        return counts.most_common()

    def open_units(self):
        """Pairs of suite/unit and its number of open cases."""
        counts = collections.Counter(
            f"{o.suite}/{o.unit}" for o in self.outcomes if o.kind == OPEN
        )
        return sorted(counts.items())

    def failing_units(self):
        """suite/unit -> mesh -> outcomes."""
        units = collections.defaultdict(list)
        for outcome in self.failures:
            units[f"{outcome.suite}/{outcome.unit}"].append(outcome)
        return units


HEAD = (
    "suite",
    "mesh",
    "cases",
    "right",
    "open",
    "raises",
    "wrong",
    "skipped",
)


def as_text(table):
    rows = [HEAD, *([str(cell) for cell in row] for row in table.rows())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def as_markdown(table, command):
    lines = [
        "# Conformance",
        "",
        f"The last run of `{command}`. A case is one op, sample, dtype and",
        "choice of layouts, compared with plain torch; tests/conformance says",
        "what is compared and how closely. Open are right cases with a value",
        "of which plain torch itself fixes 0.2 % at most: it changes by more",
        "when sums are rounded otherwise.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---|---|" + "---:|" * (len(HEAD) - 2),
    ]
    lines += [f"| {' | '.join(map(str, row))} |" for row in table.rows()]
    if table.commits:
        lines += ["", f"Commits that units ran on: {', '.join(table.commits)}."]
    lines += ["", "Open:", ""]
    lines += [f"- {unit} ({n})" for unit, n in table.open_units()]
    lines += ["", "Skipped, where plain torch cannot do the call either:", ""]
    lines += [f"- {n}: {why}" for why, n in table.reasons()]
    if table.failures:
        lines += ["", "Failing:", ""]
        for unit, outcomes in sorted(table.failing_units().items()):
            first = outcomes[0]
            lines.append(
                f"- {unit} ({len(outcomes)}): {first.kind} at [{first.mesh}] "
                f"{first.case}: {first.text[:160]}"
            )
    return "\n".join(lines) + "\n"
