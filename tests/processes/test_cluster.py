"""What the environment says about a job."""

import logging

import pytest

from torch_mesh import cluster, job

STEP = {
    "SLURM_JOB_ID": "71228",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NODELIST": "node[007-008,012]",
}
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "here",
    "MASTER_PORT": "4321",
}


@pytest.fixture
def say(monkeypatch):
    """A function that sets the variables of a launcher, and no others."""
    for name in (*STEP, *TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)

    def set_all(variables, **more):
        for name, value in {**variables, **more}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a[1-3,7],b", ["a1", "a2", "a3", "a7", "b"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("r[1-2]n[3-4].x,c-1", ["r1n3.x", "r1n4.x", "r2n3.x", "r2n4.x", "c-1"]),
        ("", []),
    ],
)
def test_a_list_of_hosts(text, hosts):
    assert list(cluster.hosts_of(text)) == hosts


@pytest.mark.parametrize("text", ["a[1-]", "a[x]", "a[3-1]", "a[0-99999999]"])
def test_what_is_no_list_of_hosts(text):
    with pytest.raises(ValueError):
        list(cluster.hosts_of(text))


def test_a_slurm_step(say):
    say(STEP)
    assert cluster.described() == cluster.Described(
        "node007", 61440 + 71228 % 4096, 4, 3, other_host="node008"
    )
    say(STEP, SLURM_STEP_NUM_TASKS=None, SLURM_STEP_NODELIST="one")
    assert cluster.described() == cluster.Described(
        "one", 61440 + 71228 % 4096, 4, 3
    )
    # torchrun under srun: what torchrun says counts.
    say(TORCHRUN)
    assert cluster.described().host == "here"
    say(TORCHRUN, WORLD_SIZE="1")
    assert cluster.described() is None


@pytest.mark.parametrize("step", [None, "4294967290", "4294967291", "batch"])
def test_salloc_and_batch_scripts_are_one_process(say, caplog, step):
    say(STEP, SLURM_STEP_NUM_TASKS=None, SLURM_STEP_ID=step)
    with caplog.at_level(logging.WARNING, "torch_mesh"):
        assert cluster.described() is None
    assert len(caplog.messages) == 1
    assert "one process; srun starts them" in caplog.messages[0]
    caplog.clear()
    say({}, SLURM_NTASKS="1")
    assert cluster.described() is None
    assert not caplog.messages


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({**STEP, "SLURM_PROCID": None}, "missing  SLURM_PROCID"),
        ({**STEP, "SLURM_PROCID": "4"}, "SLURM_PROCID='4'"),
        ({**STEP, "SLURM_JOB_ID": "x"}, "SLURM_JOB_ID='x'"),
        ({**STEP, "SLURM_STEP_NODELIST": "a[1-"}, "no list of hosts"),
        ({**TORCHRUN, "MASTER_ADDR": None}, "missing  MASTER_ADDR"),
        ({**TORCHRUN, "RANK": "2"}, "RANK='2'"),
        ({**TORCHRUN, "MASTER_PORT": "0"}, "MASTER_PORT='0'"),
    ],
)
def test_a_job_that_is_described_in_part(say, variables, words):
    say(variables)
    with pytest.raises(ValueError, match="initialize") as error:
        cluster.described()
    assert words in str(error.value)
    assert "[job-addresses]" in str(error.value)


def test_torchruns_store_is_torchruns(say):
    for said, has_store in (("True", True), ("False", False)):
        say(TORCHRUN, TORCHELASTIC_USE_AGENT_STORE=said)
        assert cluster.described().has_store == has_store


def test_jobs_and_attempts_have_keys_of_their_own(say):
    names = set()
    for attempt in ("0", "1"):
        say(TORCHRUN, TORCHELASTIC_RESTART_COUNT=attempt)
        names |= {job.begin(), job.begin(), job.name()}
    assert len(names) == 4
