"""Units that are done, on disk: a run of hours may be stopped and gone on with.

One line of JSON for each unit. Units with a failure are run again.
"""

import json
import subprocess

from tests.conformance.pool import Done, Job
from tests.conformance.record import Outcome


def commit():
    """The short name of the sources' commit, "" where there is none."""
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
    )
    return result.stdout.strip()


class Store:
    """The units of earlier runs with the same options.

    Args:
        path: the file; it need not exist.
        options: what the run covers; units of other options do not count.
    """

    def __init__(self, path, options):
        self._path = path
        self._options = repr(options)
        self._commit = commit()
        self._done = {}
        self.commits = []
        if path.exists():
            for line in path.read_text().splitlines():
                self._read(json.loads(line))

    def _read(self, line):
        if line["options"] == self._options:
            self._done[line["suite"], line["unit"]] = line

    def split(self, jobs):
        """The `Done`s of jobs that need not run, and the other jobs."""
        done, others = [], []
        for job in jobs:
            line = self._done.get((job.suite, job.unit))
            found = line and self._done_of(job, line)
            if found and not any(o.is_failure for o in found.outcomes):
                done.append(found)
                self._note(line["commit"])
            else:
                others.append(job)
        return done, others

    def keep(self, done):
        """Writes a unit down."""
        self._note(self._commit)
        line = {
            "options": self._options,
            "commit": self._commit,
            "suite": done.job.suite,
            "unit": done.job.unit,
            "right": done.right,
            "seconds": round(done.seconds, 1),
            "outcomes": [
                [o.mesh, o.case, o.kind, o.text] for o in done.outcomes
            ],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @staticmethod
    def _done_of(job, line):
        outcomes = [Outcome(job.suite, job.unit, *o) for o in line["outcomes"]]
        return Done(
            Job(job.suite, job.unit), line["right"], outcomes, line["seconds"]
        )

    def _note(self, commit):
        if commit not in self.commits:
            self.commits.append(commit)
