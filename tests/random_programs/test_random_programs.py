"""Random programs give plain torch's bits, strides and gradients."""

import pytest
from tests.random_programs import program, steps
from tests.random_programs.program import (
    Different,
    check,
    make,
    run_in,
    run_on_mesh,
)

CHUNKS = 12
EACH = 25


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_programs_give_the_bits_of_plain_torch(chunk):
    for seed in range(chunk * EACH, (chunk + 1) * EACH):
        check(seed)


def test_programs_hold_views_writes_lists_draws_and_plain_tensors():
    texts = "\n".join(str(make(seed)) for seed in range(60))
    for word in (
        "slice",
        "permute",
        "as_strided",
        "add_ to",
        "_foreach_",
        "index_add_",
        "addmm_",
        "dropout",
        "channels_last",
        "(out=",
        "None",
        "P+",
        "backward",
        "(refused)",
        "inference mode",
        "separate memories",
    ):
        assert word in texts, word
    lengths = [len(make(seed).steps) for seed in range(60)]
    assert min(lengths) >= 10
    assert max(lengths) > 40


def test_a_seed_makes_the_same_program_each_time():
    assert str(make(5)) == str(make(5))


@pytest.mark.parametrize("lost", ["add_ to", "slice", "_foreach_", "sum"])
def test_a_step_that_does_nothing_on_the_mesh_is_seen(lost):
    """What the comparison is worth: one step left out, and it differs.

    Where plain torch ends alike without the step, there is nothing to see.
    """
    tried = 0
    for seed in range(40):
        made = make(seed)
        at = [
            i
            for i, (step, refused) in enumerate(made.steps)
            if step.text.startswith(lost) and not refused
        ]
        if not at:
            continue
        step = made.steps[at[0]][0]
        made.steps[at[0]] = (steps.Step(step.text, lambda w: []), False)
        if ends_alike(lambda made=made: run_in(steps.World(), made)):
            continue
        tried += 1
        assert not ends_alike(lambda made=made: run_on_mesh(made)), seed
    assert tried >= 3


def ends_alike(run):
    try:
        run()
    except (Different, IndexError):
        return False
    return True


def test_meshes_have_uneven_and_empty_parts():
    assert {"data": 8} in program.MESHES
    assert {"data": 2, "model": 3} in program.MESHES
