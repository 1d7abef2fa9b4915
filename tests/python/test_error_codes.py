"""Each error code has a section in docs/errors.md, and its example is true."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SLUG = "[a-z]+(?:-[a-z]+)+|bug"
# What comes before a code in the sources: the bracket that ends a message, or
# the first argument after the condition of a check.
IN_MESSAGE = re.compile(rf"\[({SLUG})\](?:\\n[^\"]*)?\"")
AS_ARGUMENT = re.compile(
    rf"(?:CHECK_VALUE|CHECK_SUPPORTED|raise)\((?:(?!;\n).)*?,\s*\"({SLUG})\",",
    re.DOTALL,
)
# ... or one of the verdicts about a process.
IN_TABLE = re.compile(rf"^ +\"({SLUG})\",$", re.MULTILINE)


def codes_of_sources():
    """The codes that a message of the sources can end with, by file."""
    found = {}
    for folder in ("include", "python", "src"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".cpp", ".h", ".py"):
                continue
            text = path.read_text()
            # A message may be cut in pieces anywhere.
            text = re.sub(r"\"\s*\n\s*f?\"", "", text)
            for pattern in (IN_MESSAGE, AS_ARGUMENT):
                for code in pattern.findall(text):
                    found.setdefault(code, path.relative_to(ROOT))
            for table in re.findall(r"kCodes\[\] = \{.*?\}", text, re.DOTALL):
                for code in IN_TABLE.findall(table):
                    found.setdefault(code, path.relative_to(ROOT))
    return found


def sections():
    """Code to text of the sections of docs/errors.md."""
    text = (ROOT / "docs" / "errors.md").read_text()
    parts = re.split(r"^### (\S+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def examples():
    """Code to program, where the section has one."""
    return {
        code: "\n".join(found)
        for code, text in sections().items()
        if (found := re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    }


def test_the_search_finds_codes_of_all_forms():
    found = codes_of_sources()
    assert {"unknown-axis", "not-global", "keras-hook", "bug"} <= set(found)


def test_each_code_of_the_sources_has_a_section():
    found = codes_of_sources()
    missing = {c: str(f) for c, f in found.items() if c not in sections()}
    assert missing == {}


def test_each_section_is_of_a_code_of_the_sources():
    assert set(sections()) - set(codes_of_sources()) == set()


def test_sections_stand_in_alphabetical_order():
    assert list(sections()) == sorted(sections())


def test_each_section_says_cause_and_way_out():
    for code, text in sections().items():
        assert "**Cause.**" in text, code
        assert "**Way out.**" in text, code


PREAMBLE = """
import torch, torch_mesh as tm
"""


@pytest.fixture(scope="module")
def reported():
    """What each example raises or warns of, from one process."""
    program = f"""
import json, sys, traceback, warnings
examples = json.loads(sys.stdin.read())
answers = {{}}
for code, text in examples.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = ""
        try:
            exec({PREAMBLE!r} + text, {{"__name__": "example"}})
        except Exception as error:
            said = f"{{type(error).__name__}}: {{error}}"
    if "keras" in sys.modules:
        sys.modules["keras"].distribution.set_distribution(None)
    answers[code] = [said, *(str(w.message) for w in caught)]
print("@" + json.dumps(answers))
"""

    result = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(examples()),
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout[result.stdout.rindex("@") + 1 :])


@pytest.mark.parametrize("code", sorted(examples()))
def test_the_example_gives_the_code(code, reported):
    assert any(f"[{code}]" in text for text in reported[code]), reported[code]
