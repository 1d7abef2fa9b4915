"""Which planted errors a run has seen, on a terminal and in a file."""

import dataclasses

from tests.conformance.record import RAISES, WRONG

# The suites that are to see each error.
SUITES = {
    "scaled": ["ops"],
    "swapped": ["ops"],
    "doubled_gradient": ["ops"],
    "lost_write": ["writes", "views"],
}

MEANING = {
    "scaled": "the largest element off by 1 %, integers by 1, truths negated",
    "swapped": "the first two shards along the first dim exchanged",
    "doubled_gradient": "gradients times two",
    "lost_write": "what an op writes to its destination undone",
}

LEAST = 99  # per cent


@dataclasses.dataclass
class Planted:
    """Units by what became of the error in them."""

    name: str
    caught: list
    missed: list
    nothing: dict  # to why

    @property
    def share(self):
        units = len(self.caught) + len(self.missed)
        return 100 * len(self.caught) / max(units, 1)


def of(result, name):
    """What a run with the error `name` in each result shows."""
    found = Planted(name, [], [], {})
    for unit, (right, outcomes) in sorted(result.by_unit().items()):
        kinds = {o.kind for o in outcomes}
        if WRONG in kinds:
            found.caught.append(unit)
        elif right or RAISES in kinds:
            found.missed.append(unit)
        else:
            why = sorted({o.text.partition(" (at ")[0] for o in outcomes})
            found.nothing[unit] = "; ".join(why)[:120]
    return found


def as_text(found):
    lines = [f"missed: {unit}" for unit in found.missed]
    lines += [
        f"nothing to plant: {unit}: {why}"
        for unit, why in found.nothing.items()
    ]
    lines.append(
        f"{found.name}: caught in {found.share:.1f} % of "
        f"{len(found.caught) + len(found.missed)} units; in "
        f"{len(found.nothing)} the error changes nothing"
    )
    return "\n".join(lines)


def as_markdown(all_found):
    lines = [
        "# Planted errors",
        "",
        "The conformance suites are tested themselves: an error is put into",
        "the results of each op, and the suite has to call the op wrong. The",
        "last run of `make conformance-plants`, on the mesh of 2. A unit is an",
        "op, or a view; it counts as caught at its first case that is called",
        "wrong.",
        "",
        "| error | suites | units | caught | missed | nothing to plant |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for found in all_found:
        lines.append(
            f"| {found.name}: {MEANING[found.name]} "
            f"| {', '.join(SUITES[found.name])} "
            f"| {len(found.caught) + len(found.missed)} "
            f"| {found.share:.1f} % | {len(found.missed)} "
            f"| {len(found.nothing)} |"
        )
    for found in all_found:
        lines += ["", f"## {found.name}", ""]
        lines.append("Missed:" if found.missed else "Nothing missed.")
        if found.missed:
            lines += ["", *(f"- {unit}" for unit in found.missed)]
        if found.nothing:
            lines += ["", "The error changes nothing in:", ""]
            lines += [f"- {u}: {why}" for u, why in found.nothing.items()]
    return "\n".join(lines) + "\n"
