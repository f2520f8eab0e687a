"""A task, as submitit runs it: by its local executor, in processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from hydrakit_slurm import import_submitit

import_submitit()

import submitit  # noqa: E402

from hydrakit_slurm.task import Task  # noqa: E402

# Stands for `hydrakit job`: its first turn waits to be stopped, and its second one ends at once.
COMMAND = """
import signal, sys, time
path = sys.argv[1]
def stop(number, frame):
    open(path, "a").write(f"stopped by {number}\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
try:
    turns = len(open(path).readlines()) // 2
except FileNotFoundError:
    turns = 0
open(path, "a").write("began\\n")
if not turns:
    time.sleep(60)
open(path, "a").write("done\\n")
"""


def submit(folder: Path, *command: str) -> submitit.Job[None]:
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=5, stderr_to_stdout=True)
    return executor.submit(Task([sys.executable, "-c", *command]))


def wait_for(path: Path, text: str) -> None:
    limit = time.monotonic() + 60
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < limit
        time.sleep(0.02)


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_task_that_is_pre_empted_stops_its_command_and_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    job = submit(tmp_path / "jobs", COMMAND, str(path))
    wait_for(path, "began")
    task = child_of(int(job.job_id))
    os.kill(child_of(task), signal.SIGUSR2)  # Slurm signals all processes: the command goes on
    os.kill(task, signal.SIGUSR1)  # SIGUSR2, which submitit asks for: test_cluster.py
    wait_for(path, "done")
    lines = path.read_text().splitlines()
    assert lines == ["began", f"stopped by {signal.SIGTERM}", "began", "done"]
    while not job.done():
        time.sleep(0.02)


def test_a_task_ends_as_its_command_ends(tmp_path: Path) -> None:
    for command, status in (
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("", 0),
    ):
        with pytest.raises(SystemExit) as ended:
            run(Task([sys.executable, "-c", command]))
        assert ended.value.code == status


def run(task: Task) -> None:
    """Run a task here, with submitit's environment of a job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBMITIT_EXECUTOR", "local")
        before = {each: signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGUSR2)}
        try:
            task()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
