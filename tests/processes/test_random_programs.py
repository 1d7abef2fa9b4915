"""Random programs over several processes give plain torch's bits."""

import pytest
from tests.random_programs import teams


@pytest.mark.parametrize(
    ("num_processes", "transport", "count"),
    [(2, "", 60), (3, "", 40), (2, "c10d", 30)],
)
def test_random_programs_give_the_bits_of_plain_torch(
    num_processes, transport, count
):
    assert not teams.check_many(0, count, num_processes, transport)


def test_what_one_process_gets_wrong_is_seen(monkeypatch, tmp_path):
    """The comparison is worth something: a program that differs is found."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from tests.random_programs import teams\n"
        "run = teams.run\n"
        "def wrong(seed, num_processes):\n"
        "    from torch_mesh import _C\n"
        "    found = run(seed, num_processes)\n"
        "    return 'planted' if _C.job()[0] and seed == 1 else found\n"
        "teams.run = wrong\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{teams.ROOT}")
    found = teams.check_many(0, 3, 2, "")
    assert [(seed, "process 1: planted" in text) for seed, text in found] == [
        (1, True)
    ]
