"""What is passed to the programs of Slurm, which are shell scripts here, and what they answer."""

from __future__ import annotations

import pickletools
from pathlib import Path

import pytest

from hydrakit.errors import PlanError
from hydrakit_slurm import SlurmOptions, import_submitit
from hydrakit_slurm.queue import Batch, QueueError, SlurmQueue, State

import_submitit()

BATCH = Batch([["hydrakit", "job", f"{name}.json"] for name in "abc"], "hydrakit-1", 2, cpus=4)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the only programs; each prints, and writes its arguments into a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel", "srun"):
        write(folder / name, "echo Submitted batch job 7")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write(path: Path, command: str) -> None:
    path.write_text(f'#!/bin/sh\necho "$@" > "{path}.arguments"\n{command}\n')
    path.chmod(0o755)


def arguments(path: Path) -> str:
    return path.with_name(f"{path.name}.arguments").read_text().strip()


def test_tasks_are_submitted_as_an_array(programs: Path, tmp_path: Path) -> None:
    options = SlurmOptions(
        partition="gpu", time="1-00", memory="8G", gpus=1, account="mri", constraint="a100",
        setup="module load cuda", sbatch="--exclude=node7", grace=60,
    )  # fmt: skip
    submitted = SlurmQueue(options).submit(BATCH, tmp_path)
    assert [each.number for each in submitted] == ["7_0", "7_1", "7_2"]
    (script,) = submitted[0].pickle.parent.glob("*.sh")
    assert not script.is_symlink()
    lines = script.read_text().splitlines()
    for line in (
        "array=0-2%2", "partition=gpu", "time=1440", "mem=8G", "cpus-per-task=4", "account=mri",
        "gpus-per-node=1", "constraint=a100", "job-name=hydrakit-1", "signal=USR2@60", "requeue",
        "exclude=node7",
    ):  # fmt: skip
        assert f"#SBATCH --{line}" in lines
    assert "module load cuda" in lines
    assert not [line for line in lines if "wckey" in line]
    (run,) = [line for line in lines if line.startswith("srun")]
    assert "--cpus-per-task=4" in run
    assert SlurmQueue(options).script(BATCH, script.parent) == script.read_text()


def test_a_pickle_holds_the_words_of_a_command_and_nothing_else(
    programs: Path, tmp_path: Path
) -> None:
    submitted = SlurmQueue(SlurmOptions()).submit(BATCH, tmp_path)
    folder = submitted[0].pickle.parent
    assert folder.stat().st_mode & 0o077 == 0
    assert folder.parent == tmp_path
    content = submitted[1].pickle.read_bytes()
    assert len(content) < 1000
    operations = [(code.name, value) for code, value, _ in pickletools.genops(content)]
    texts = [str(value) for code, value in operations if "UNICODE" in code]
    named = {tuple(texts[i : i + 2]) for i in range(len(texts) - 1)}
    assert {("hydrakit_slurm.task", "Task"), ("submitit.core.utils", "DelayedSubmission")} <= named
    assert sum(code in ("STACK_GLOBAL", "GLOBAL") for code, _ in operations) == 2
    assert {"hydrakit", "job", "b.json"} <= set(texts)


def test_what_sbatch_refuses_is_one_line(programs: Path, tmp_path: Path) -> None:
    write(programs / "sbatch", "echo 'sbatch: error: invalid partition: x' >&2; exit 1")
    folder = tmp_path / "slurm"
    folder.mkdir()
    with pytest.raises(PlanError, match=r"^launcher 'slurm': sbatch: error: invalid partition: x$"):
        SlurmQueue(SlurmOptions(partition="x")).submit(BATCH, folder)
    assert list(folder.iterdir()) == []


def test_states_are_those_of_the_name(programs: Path) -> None:
    write(programs / "squeue", "echo '7_1|PENDING|(Priority)'; echo '7_0|RUNNING|node7'")
    states = SlurmQueue(SlurmOptions()).states("hydrakit-1")
    assert states == {"7_1": State("PENDING", "(Priority)"), "7_0": State("RUNNING", "node7")}
    assert str(states["7_1"]) == "PENDING (Priority)"
    assert "--name=hydrakit-1" in arguments(programs / "squeue").split()


def test_a_queue_that_does_not_answer(programs: Path) -> None:
    write(programs / "squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    with pytest.raises(QueueError, match="squeue: slurm_load_jobs error: Unable to contact"):
        SlurmQueue(SlurmOptions()).states("hydrakit-1")


def test_a_machine_without_slurm_is_refused(programs: Path) -> None:
    SlurmQueue(SlurmOptions()).check()
    (programs / "scancel").unlink()
    with pytest.raises(PlanError, match="this machine has no program scancel"):
        SlurmQueue(SlurmOptions()).check()
