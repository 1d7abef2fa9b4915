"""Files for launchers in docs/processes.md, and what reads them."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "processes.md"

PROGRAM = """
import torch_mesh as tm
tm.initialize()
print(tm.process_id(), tm.num_processes(), len(tm.list_devices("cpu")))
"""


def block(section):
    """The first indented block of a section."""
    text = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    lines = re.search(r"((?:    .*\n|\n)+)", text.partition(":\n\n")[2])[1]
    return textwrap.dedent(lines)


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load(block("Kubernetes"))


def test_the_manifest_is_what_kubeflow_takes(manifest):
    job = TrainerV1alpha1TrainJob.from_dict(manifest)
    assert job.to_dict() == manifest  # no field is unknown to it


def test_a_field_that_kubeflow_does_not_know_would_be_seen(manifest):
    wrong = {**manifest, "spec": {**manifest["spec"], "nodes": 2}}
    assert TrainerV1alpha1TrainJob.from_dict(wrong).to_dict() != wrong


def test_the_processes_of_the_manifest_meet(manifest, tmp_path):
    trainer = manifest["spec"]["trainer"]
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pods = []
    for node in range(trainer["numNodes"]):
        # What the runtime torch-distributed sets in the pod of a node.
        environment = {
            **os.environ,
            **{e["name"]: e["value"] for e in trainer["env"]},
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(node),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
            "TORCH_MESH_CPU_DEVICES": "2",
            "OMP_NUM_THREADS": "1",
        }
        program, *arguments = trainer["command"]
        assert program == "torchrun"
        torchrun = [sys.executable, "-m", "torch.distributed.run"]
        pods.append(
            subprocess.Popen(
                [*torchrun, *arguments],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [pod.communicate(timeout=200)[0].strip() for pod in pods]
    finally:
        for pod in pods:
            pod.kill()
    assert sorted(said) == ["0 2 4", "1 2 4"]


def test_the_batch_script_starts_a_process_on_each_host(tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(block("Slurm"))
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\necho "$OMP_NUM_THREADS $*"\n')
    srun.chmod(0o755)
    options = dict(
        line.removeprefix("#SBATCH --").split("=")
        for line in script.read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert int(options["nodes"]) > 1
    assert options["ntasks-per-node"] == "1"
    done = subprocess.run(
        ["bash", "-eu", str(script)],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "8 --cpus-per-task=8 --kill-on-bad-exit=1 python train.py\n"
    )
