"""Runs a program in a process of its own."""

import os
import subprocess
import sys


def run_program(program, **env):
    """Runs a program in a new process; its output, or an AssertionError."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
