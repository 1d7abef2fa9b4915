"""Patterns mean what `re.fullmatch` says; Keras's rule and ours agree."""

import copy
import re
import warnings

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from keras.distribution import LayoutMap

from torch_mesh import _C
from torch_mesh.keras.layout_map import fullmatch, lookups_of

ATOMS = [
    *"abAk/._-1",
    "dense",
    "kernel",
    ".*",
    r"\.",
    r"\/",
    r"\d",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    r"\b",
    r"\A",
    r"\Z",
    "^",
    "$",
    "[ab]",
    "[^a]",
    "[a-z]",
    "[A-b]",
    "[]a]",
    "[a-]",
    r"[^\W\d]",
    r"\x61",
    r"\u0061",
    r"\n",
    "é",
    "[é-ü]",
    "{",
    "}",
    "]",
    "",
]
REPEATS = [
    *("*", "+", "?", "*?", "+?", "??", "*+", "**"),
    *("{2}", "{1,2}", "{,2}", "{,}", "{0}", "{2,}", "{3,1}", "{x}"),
]
GROUPS = ["(", "(?:", "(?i:", "(?P<n>", "(?=", "(?!", "(?<=", "(?>"]
FLAGS = ["", "", "", "(?i)", "(?s)", "(?m)", "(?ia)", "(?x)", "(?i)(?s)"]


def composed(inner):
    """Sequences, alternatives, groups and repeats of patterns."""
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(st.sampled_from(GROUPS), inner).map(
            lambda g: f"{g[0]}{g[1]})"
        ),
        st.tuples(inner, st.sampled_from(REPEATS)).map("".join),
        st.tuples(inner, st.sampled_from(REPEATS)).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
    )


grammatical = st.tuples(
    st.sampled_from(FLAGS),
    st.recursive(st.sampled_from(ATOMS), composed, max_leaves=8),
).map("".join)
# What no grammar thinks of: brackets that do not close, and the like.
raw = st.text("ab/._*+?()[]{}|^$\\-01,:P<>=!iZAbdwsx&~", max_size=10)
patterns = st.one_of(grammatical, grammatical, raw)
texts = st.one_of(
    st.text("aabAk/._ -01Z", max_size=8),
    st.lists(
        st.sampled_from(["dense", "kernel", "a", "1", "/", ".", "_"]),
        max_size=5,
    ).map("".join),
    st.text(max_size=4),
)


def re_answer(pattern, text):
    """What `re` says: True, False or None for a pattern that it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nested sets
        try:
            return re.fullmatch(pattern, text) is not None
        except (re.error, OverflowError):
            return None


@settings(max_examples=1500, deadline=None)
@given(patterns, st.lists(texts, min_size=3, max_size=3))
def test_what_is_matched_in_cpp_is_matched_as_re_does(pattern, some_texts):
    """No pattern is taken that `re` refuses or reads differently."""

    def never(pattern, text):
        raise AssertionError(f"{pattern!r} was not taken for {text!r}")

    if _C.pattern_problem(pattern):
        return
    find = _C.Matcher([pattern], never).find
    for text in some_texts:
        if all(" " <= c <= "~" for c in text):
            found = type(find(text)) is int
            expected = text == pattern or re_answer(pattern, text)
            assert found == expected, (pattern, text)


NAMES = {
    "kernel": ["weight"],
    "embeddings": ["weight"],
    "gamma": ["weight"],
    "beta": ["bias"],
    "moving_mean": ["running_mean"],
    "moving_variance": ["running_var"],
}
KERAS_NAMES = {
    torch_name: [k for k, names in NAMES.items() if torch_name in names]
    for names in NAMES.values()
    for torch_name in names
}


def reference(keys, path):
    """The one key that finds a path, None for none or a tie: the whole rule,
    step by step, on `re` alone."""

    def ends(text, separator):
        parts = text.split(separator)
        return [separator.join(parts[i:]) for i in range(len(parts))]

    if path in keys:
        return path
    of_torch = "." in path and "/" not in path
    here, there = "./" if of_torch else "/."
    names = KERAS_NAMES if of_torch else NAMES
    head, _, last = path.rpartition(here)
    last_names = [last, *names.get(last, [])]
    lead = path[: len(path) - len(last)].replace(here, there)
    own = [[text] for text in ends(path, here)]
    other = [ends(lead + name, there) for name in last_names]
    for tried in [*own, *map(list, zip(*other, strict=True))]:
        found = [
            key
            for key in keys
            if any(re_answer(key, text) for text in tried)
            and (tried == [path] or "output" in key or here_not_output(path))
        ]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def here_not_output(path):
    return not path.endswith("/output")


segments = st.sampled_from(
    ["m", "dense", "dense_1", "conv.1", "0", "kernel", "weight", "output"]
)
paths = st.tuples(
    st.lists(segments, min_size=1, max_size=4), st.sampled_from("/.")
).map(lambda p: p[1].join(p[0]))
keys_of_paths = st.lists(
    st.lists(
        st.sampled_from(
            [
                *("m", "dense", "conv", "kernel", "weight", "output", "_1"),
                *("/", r"\.", ".", ".*", r"\d", "(kernel|bias)", "[^/]*", "0"),
            ]
        ),
        min_size=1,
        max_size=5,
    ).map("".join),
    min_size=1,
    max_size=3,
    unique=True,
)


@settings(max_examples=1500, deadline=None)
@given(keys_of_paths, paths)
def test_ends_and_other_forms_are_found_by_the_rule(keys, path):
    layout_map = LayoutMap(None)
    for key in keys:
        layout_map[key] = ("model",)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties
        if path not in keys and sum(bool(re_answer(k, path)) for k in keys) > 1:
            with pytest.raises(ValueError, match="multiple layout"):
                layout_map[path]
            return
        found = layout_map[path]
    expected = reference(keys, path)
    assert (
        None if found is None else lookups_of(layout_map).match(path).pattern
    ) == expected


@settings(max_examples=500, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=4, unique=True), texts)
def test_a_map_answers_as_keras_wherever_keras_does(keys, path):
    """Same layout, same error; None may become a layout, by an end.

    What is no expression for `re` is no key.
    """
    layout_map = LayoutMap(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, key in enumerate(keys):
            try:
                re.compile(key)
            except (re.error, OverflowError):
                with pytest.raises(ValueError, match="pattern-text"):
                    layout_map[key] = (None,) * index
            else:
                layout_map[key] = (None,) * index
        try:
            expected = LayoutMap.__getitem__.__wrapped__(layout_map, path)
        except (ValueError, re.error, OverflowError) as error:
            with pytest.raises(type(error), match=re.escape(str(error)[:40])):
                layout_map[path]
            return
        if expected is not None:
            assert layout_map[path] is expected
        else:
            layout_map[path]


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?!.*bias).*dense.*",  # all but
        r".*/(a|b)_dense/\1_kernel",  # a name that comes again
        r".*(?<=dense)/kernel",
        r".*+kernel",
        r"(?x) .* kernel  # of any layer",
        r"(?:.*)*kernel",
        ".*größe/.*",
        r".*\u006bernel",
    ],
)
@pytest.mark.parametrize(
    "path",
    ["m/dense/kernel", "m/a_dense/a_kernel", "m/dense/bias", "größe/kernel"],
)
def test_what_re2_has_not_is_asked_of_re(pattern, path):
    layout_map = LayoutMap(None)
    layout_map[pattern] = ("model",)
    expected = reference([pattern], path)
    assert (layout_map[path] is not None) == (expected is not None)


def test_a_look_ahead_finds_an_end_of_a_path_too():
    layout_map = LayoutMap(None)
    layout_map["dense(?!.*bias).*"] = ("model",)
    assert layout_map["m/dense/kernel"].axes == ("model",)
    assert layout_map["m/dense/bias"] is None


def test_w_and_d_are_unicode_as_in_python():
    layout_map = LayoutMap(None)
    layout_map[r"\w+/kernel"] = ("model",)
    layout_map[r"d\d/bias"] = (None,)
    assert layout_map["größe/kernel"].axes == ("model",)
    assert layout_map["d٣/bias"].axes == (None,)  # an Arabic digit


def test_case_beyond_ascii_is_folded_as_in_python():
    layout_map = LayoutMap(None)
    layout_map["(?i)kernel"] = ("model",)
    assert layout_map["\u212aernel"].axes == ("model",)  # the Kelvin sign


def test_any_str_is_a_path():
    layout_map = LayoutMap(None)
    layout_map["m.*kernel"] = ("model",)
    assert layout_map["m\ud800/kernel"].axes == ("model",)
    assert layout_map["m\n/kernel"] is None  # `.` is no newline
    assert layout_map["m/kernel\n"] is None
    assert layout_map[""] is None


def test_a_key_that_is_no_expression_is_refused_at_once():
    layout_map = LayoutMap(None)
    with pytest.raises(ValueError, match=r'"a\(b" is no regular expression'):
        layout_map["a(b"] = ("model",)
    assert len(layout_map) == 0 and layout_map["m/kernel"] is None


def test_re_is_not_asked_about_plain_patterns_and_paths(monkeypatch):
    monkeypatch.setattr(
        "torch_mesh.keras.layout_map.fullmatch",
        lambda pattern, text: pytest.fail(f"{pattern} {text}"),
    )
    layout_map = LayoutMap(None)
    layout_map[r".*dense_\d+/(kernel|bias)$"] = ("model",)
    assert layout_map["m/dense_12/kernel"].axes == ("model",)
    assert layout_map["m/conv/kernel"] is None


def test_thousands_of_patterns_are_told_apart():
    layout_map = LayoutMap(None)
    for i in range(3000):
        layout_map[f".*layer_{i}/kernel"] = (None,) * (i % 7)
    for i in (0, 1, 12, 123, 1234, 2999):
        found = layout_map[f"m/layer_{i}/kernel"]
        assert found is layout_map[f".*layer_{i}/kernel"]
    assert layout_map["m/layer_3000/kernel"] is None


def test_a_map_that_was_asked_is_copied():
    layout_map = LayoutMap(None)
    layout_map["dense/kernel"] = ("model",)
    assert layout_map["m/dense/kernel"] is not None
    twin = copy.deepcopy(layout_map)
    assert twin["m/dense/kernel"].axes == ("model",)
    del twin["dense/kernel"]
    assert twin["m/dense/kernel"] is None
    assert layout_map["m/dense/kernel"] is not None


def test_re_compiles_a_pattern_once():
    assert fullmatch("a(?=b)b", "ab")
    assert not fullmatch("a(?=b)b", "b")
    with pytest.raises(re.error):
        fullmatch("(", "")
