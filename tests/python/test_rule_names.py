"""The table of rules speaks of operators and parameters that torch has."""

import re

import pytest
import torch

import torch_mesh

_DIMS = {"dim", "dims", "keepdim"}  # overloads may lack them: then all dims
# Arguments of modifiers that name parameters; a slice is Python's.
_PARAMS = {
    "along": slice(0, 1),
    "diagonals": slice(0, 3),
    "expands": slice(0, 1),
    "indexes": slice(0, 1),
    "joins": slice(0, 1),
    "pads": slice(0, 1),
    "permutes": slice(0, 1),
    "reduces": slice(0, 2),
    "reduces_whole": slice(0, 2),
    "remakes": slice(0, 1),
    "repeats": slice(0, 1),
    "resizes": slice(0, 2),
    "restores": slice(0, 3),
    "rewrites": slice(0, 2),
    "selects": slice(0, 1),
    "shifts": slice(0, 1),
    "size": slice(1, 2),
    "slices": slice(0, 4),
    "splits": slice(0, 2),
    "squeezes": slice(0, 1),
    "stacks": slice(0, 1),
    "swaps": slice(0, 1),
    "transposes": slice(0, 2),
    "unbinds": slice(0, 1),
    "unfolds": slice(0, 3),
    "unselects": slice(0, 2),
    "unslices": slice(0, 5),
    "unsqueezes": slice(0, 1),
    "view": slice(0, 1),
    "whole": slice(0, None),
    "window": slice(2, 7),
}


def _schemas():
    found = {}
    for schema in torch._C._jit_get_all_schemas():
        found.setdefault(schema.name, {})[schema.overload_name] = schema
    return found


def _of(name, schemas):
    """The schemas that a name of the table stands for, out= ones aside."""
    base, _, overload = name.partition(".")
    overloads = schemas.get(base) or schemas.get(base + "_") or {}
    if overload:
        overloads = (
            {overload: overloads[overload]} if (overload in overloads) else {}
        )
    return [
        schema
        for schema in overloads.values()
        if any("Tensor" in str(a.type) for a in schema.arguments)
        and not any(a.is_out for a in schema.arguments)
    ]


def _params(alternative):
    """The names of parameters that an alternative speaks of."""
    for name, text in re.findall(r"(\w{2,})\(([^)]*)\)", alternative):
        args = [arg.strip() for arg in text.split(",")]
        if name == "when":
            yield from (re.split("!?=", arg)[0] for arg in args)
            continue
        for arg in args[_PARAMS.get(name, slice(0, 0))]:
            for word in arg.split():
                if re.fullmatch(r"[a-z_A-Z]\w+", word) and not re.fullmatch(
                    r"[a-zA-Z]\d", word
                ):
                    yield word


def _num_terms(alternative):
    return alternative.split("->")[0].count(",") + 1


def _num_tensors(schema):
    return sum("Tensor" in str(a.type) for a in schema.arguments)


SCHEMAS = _schemas()
# Rules of ops that a release of torch has dropped; older ones have them.
DROPPED = {"aten::cholesky": (2, 14)}
RUNNING = tuple(int(part) for part in torch.__version__.split(".")[:2])
NAMES = [
    name
    for name in torch_mesh._C.rule_names()
    if name[:6] == "aten::" and DROPPED.get(name, (99, 0)) > RUNNING
]


@pytest.mark.parametrize("name", NAMES)
def test_an_op_of_the_table_exists_in_torch(name):
    assert _of(name, SCHEMAS)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_a_rule_names_exists(name):
    known = {a.name for s in _of(name, SCHEMAS) for a in s.arguments}
    for alternative in torch_mesh._C.rule_text(name).split(" | "):
        assert set(_params(alternative)) - _DIMS <= known


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_has_a_term_for_each_tensor_of_some_overload(name):
    numbers = {_num_tensors(schema) for schema in _of(name, SCHEMAS)}
    for alternative in torch_mesh._C.rule_text(name).split(" | "):
        assert "..." in alternative or _num_terms(alternative) in numbers
