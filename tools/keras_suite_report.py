"""What tools/keras_suite.py makes of the outcomes of Keras's tests."""

import collections
import fnmatch
import json
import tomllib


def load(path):
    """Results that `save` wrote, or {} if there are none."""
    return json.loads(path.read_text()) if path.exists() else {}


def save(path, results):
    """Writes results: {file: {"why": text, "tests": {name: result}}}."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(results))
    partial.replace(path)


def save_baseline(path, stock):
    """Writes what later runs need of mode `stock`: what did not pass."""
    lean = {}
    for file, result in sorted(stock.items()):
        others = {
            name.partition("::")[2]: test["outcome"]
            for name, test in sorted(result["tests"].items())
            if test["outcome"] != "passed"
        }
        lean[file] = {
            "passed": passed(result),
            "why": result["why"],
            "others": others,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(lean, indent=1) + "\n")


def load_baseline(path):
    """The results that `save_baseline` wrote, without the passed tests."""
    results = {}
    for file, lean in load(path).items():
        tests = {
            f"{file}::{name}": {"outcome": outcome, "why": "", "seconds": 0.0}
            for name, outcome in lean["others"].items()
        }
        results[file] = {
            "why": lean["why"],
            "tests": tests,
            "passed": lean["passed"],
        }
    return results


def passed(result):
    """Number of tests of a file that passed."""
    if "passed" in result:
        return result["passed"]
    return sum(t["outcome"] == "passed" for t in result["tests"].values())


def differing(stock, result):
    """The tests of a file which pass in `stock` and not in `result`.

    One that Keras marks as one that may fail (xfail) does both on plain Keras
    too: those train without a seed and ask for the same numbers twice. What
    suite.toml leaves out is no difference either.

    Args:
        stock: Results of the file; of a recorded baseline, which knows the
            number of passed tests, and the names of all others.
        result: Results of the file in another mode.

    Returns:
        List of names.
    """
    stock_passed = {
        name: test["outcome"] == "passed"
        for name, test in stock["tests"].items()
    }
    recorded = "passed" in stock
    return [
        name
        for name, test in result["tests"].items()
        if test["outcome"] not in ("passed", "xfailed", "left out")
        and stock_passed.get(name, recorded)
    ]


def missing(stock, result):
    """How many tests of a file did not come to be run, of those that pass."""
    if "passed" in stock:
        others = set(stock["tests"])
        return max(0, stock["passed"] - len(set(result["tests"]) - others))
    return sum(
        test["outcome"] == "passed" and name not in result["tests"]
        for name, test in stock["tests"].items()
    )


def load_expected(path):
    """The reviewed differences: [{"test", "modes", "reason"}]."""
    if not path.exists():
        return []
    return tomllib.loads(path.read_text()).get("expected", [])


class Summary:
    """All modes side by side.

    Attributes:
        differences: {mode: {test: why it failed}}.
        unexplained: Those without an entry in expected.toml, as
            [(mode, test, why)].
        unsteady: Tests that passed at the second time only, alone:
            [(mode, test, why it failed at first)].
        needless: Entries of expected.toml whose tests pass by now, as
            [(mode, test)].
    """

    def __init__(self, version, files, results, expected):
        self.version = version
        self.files = files
        self.results = results
        self.expected = expected
        self.differences = {}
        self.unexplained = []
        self.unsteady = []
        self.needless = []
        stock = results["stock"]
        for mode, result in results.items():
            if mode == "stock":
                continue
            found = self.differences.setdefault(mode, {})
            for file in files:
                if file not in result:
                    continue
                for name in differing(stock[file], result[file]):
                    found[name] = result[file]["tests"][name]["why"]
                lost = missing(stock[file], result[file])
                if lost:
                    why = result[file]["why"] or "no outcome"
                    found[f"{file}::*"] = f"{lost} tests not run: {why}"
                for name, test in result[file]["tests"].items():
                    if "first" in test:
                        self.unsteady.append((mode, name, test["first"]))
            for name, why in found.items():
                if self.reason(mode, name) is None:
                    self.unexplained.append((mode, name, why))

            for entry in expected:
                file, _, _ = entry["test"].partition("::")
                if mode not in entry["modes"] or file not in files:
                    continue
                if file in result and not any(
                    _matches(name, entry["test"]) for name in found
                ):
                    self.needless.append((mode, entry["test"]))

    def reason(self, mode, name):
        """The reviewed reason for a difference, or None."""
        for entry in self.expected:
            if mode in entry["modes"] and _matches(name, entry["test"]):
                return entry["reason"]
        return None

    def totals(self):
        """Rows (mode, passed, differing, unexplained, unsteady)."""
        rows = []
        for mode, result in self.results.items():
            number = sum(passed(result[f]) for f in self.files if f in result)
            found = self.differences.get(mode, {})
            open_ = sum(m == mode for m, _, _ in self.unexplained)
            late = sum(m == mode for m, _, _ in self.unsteady)
            rows.append((mode, number, len(found), open_, late))
        return sorted(rows, key=lambda row: _order(row[0]))

    def text(self):
        """For the terminal: totals, then what is not explained."""
        lines = [f"Keras {self.version}, {len(self.files)} files"]
        for mode, number, found, open_, late in self.totals():
            lines.append(
                f"  {mode:9} {number:6} passed  {found:4} differ from stock  "
                f"{open_:4} unexplained  {late:3} passed when run again"
            )
        lines += [
            f"expected.toml: {name} does not differ in {mode}"
            for mode, name in self.needless
        ]
        by_why = collections.defaultdict(list)
        for mode, name, why in self.unexplained:
            by_why[why[:120]].append((mode, name))
        for why, where in sorted(by_why.items(), key=lambda w: -len(w[1])):
            lines.append(f"{len(where):4}  {why}")
            lines += [f"        {mode:9} {name}" for mode, name in where[:3]]
        return "\n".join(lines)

    def write(self, path, tier):
        """Writes the report as Markdown.

        Args:
            path: Of the file; a part of it between two markers is replaced.
            tier: 1 or 2.
        """
        begin = f"<!-- begin tier {tier} of Keras {self.version} -->"
        end = f"<!-- end tier {tier} of Keras {self.version} -->"
        block = f"{begin}\n{self._markdown(tier)}\n{end}"
        text = path.read_text() if path.exists() else ""
        if begin in text:
            head, _, rest = text.partition(begin)
            text = head + block + rest.partition(end)[2]
        else:
            text = text + ("\n" if text else "") + block + "\n"
        path.write_text(text)

    def _markdown(self, tier):
        shown = [row[0] for row in self.totals()]
        lines = [f"## Keras {self.version}, tier {tier}", ""]
        lines += [
            "| mode | passed | differ from stock | of these unexplained | "
            "passed when run again, alone |",
            "|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(map(str, row))} |" for row in self.totals()]
        lines += ["", "Tests that pass, by file:", ""]
        lines.append(f"| file | {' | '.join(shown)} |")
        lines.append("|---" * (len(shown) + 1) + "|")
        for file in self.files:
            counts = []
            for mode in shown:
                result = self.results[mode].get(file)
                counts.append("-" if result is None else str(passed(result)))
            lines.append(f"| {file} | {' | '.join(counts)} |")
        lines += ["", "Differences:", ""]
        grouped = collections.defaultdict(lambda: collections.defaultdict(list))
        for mode, found in self.differences.items():
            for name in found:
                reason = self.reason(mode, name) or "**unexplained**"
                grouped[reason][name].append(mode)
        for reason, names in sorted(grouped.items()):
            lines.append(f"- {reason}")
            lines += [
                f"  - `{name}` ({', '.join(where)})"
                for name, where in sorted(names.items())
            ]
        if not grouped:
            lines.append("None.")
        if self.unsteady:
            lines += ["", "Passed when run a second time, alone:", ""]
            lines += [
                f"- `{name}` ({mode}): {why[:100]}"
                for mode, name, why in sorted(self.unsteady)
            ]
        return "\n".join(lines)


def _matches(name, pattern):
    """Whether a test's name matches; brackets stand for themselves."""
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _order(mode):
    return ("stock", "mesh", "data", "model", "processes").index(mode)
