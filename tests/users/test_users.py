"""Every program gives on the mesh what it gives on plain torch.

Small sizes and no times: `make users` takes those.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import pytest
import torch
from tests.users import table
from tests.users.measure import differences, run
from tests.users.place import Place
from tests.users.programs import load
from tests.users.registry import PROGRAMS

load()


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_a_program_gives_what_plain_torch_gives(name):
    program = PROGRAMS[name]
    dtype = torch.float64 if program.float64 else torch.float32
    limit = table.TOLERANCE[dtype]
    expected = run(program, Place("plain", dtype, small=True), steps=3)
    for mode in program.modes:
        actual = run(program, Place(mode, dtype, small=True), steps=3)
        of_results, of_weights, worst = differences(actual, expected, dtype)
        assert of_results <= (table.HALF if program.half else limit), mode
        assert of_weights <= limit, (mode, worst)
        assert actual.collectives, f"{mode}: nothing is split"


def test_there_are_sixty_programs():
    assert len(PROGRAMS) >= 60


def test_a_wrong_weight_is_a_difference():
    program = PROGRAMS["mnist"]
    expected = run(program, Place("plain", small=True), steps=1)
    actual = run(program, Place("data", small=True), steps=1)
    actual.weights["fc2.weight"][3, 5] += 1e-3
    assert differences(actual, expected)[1:] > (table.TOLERANCE[torch.float32],)
    assert differences(actual, expected)[2] == "fc2.weight"


def test_a_row_that_falls_short_is_named():
    rows = [
        table.Row("slow", "x", plain=0.03, ratios={"data": 1.2, "tensor": 1.6}),
        table.Row("small", "x", plain=0.01, ratios={"data": 9.0}),
        table.Row("other", "x", replicated={"nonzero", "sort"}),
        table.Row("wrong", "x", failures=["float32 data: it differs"]),
    ]
    assert table.problems(rows) == [
        "wrong: float32 data: it differs",
        "slow: tensor takes 1.60 x plain",
        "sort runs on replicas, and no reason is given",
    ]
    for line in table.problems(rows):
        assert line in table.page(rows)
