"""Regular expressions that C++ leaves to `re`."""

from __future__ import annotations

import re

# Patterns that C++ does not take, and those of maps with a path that it does
# not take. `re` itself remembers 512 and then compiles anew at each look-up.
_compiled: dict[str, re.Pattern[str]] = {}


def fullmatch(pattern: str, text: str) -> bool:
    """Whether a pattern matches all of a text, as `re` has it.

    Args:
        pattern: A regular expression.
        text: Any text.

    Raises:
        re.error: if `pattern` is not a regular expression.
    """
    return expression(pattern).fullmatch(text) is not None


def expression(pattern: str) -> re.Pattern[str]:
    """A pattern as `re` compiles it, once.

    Raises:
        re.error: if `pattern` is not a regular expression.
    """
    found = _compiled.get(pattern)
    if found is None:
        found = _compiled[pattern] = re.compile(pattern)
    return found
