"""The queue of a Slurm cluster: what sbatch, squeue and scancel do for the launcher."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydrakit.errors import HydrakitError, PlanError, one_line
from hydrakit_slurm import SlurmOptions, further_options

if TYPE_CHECKING:
    import submitit

TIMEOUT = 180
"""Seconds within which a program of Slurm must answer. While a job is put back into the queue,
scancel itself tries again for more than a minute."""

MAX_TURNS = 1000  # how often a job may reach its time limit

PROGRAMS = ("sbatch", "squeue", "scancel", "srun")

ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States of tasks that the queue does not run again by itself."""


class QueueError(HydrakitError):
    """The queue does not answer; it may do so later."""


@dataclass(frozen=True)
class Submitted:
    """A task in the queue.

    Attributes:
        number: Its id.
        log: File with its output.
        pickle: File with its command.
    """

    number: str
    log: Path
    pickle: Path


@dataclass(frozen=True)
class State:
    """State of a task.

    Attributes:
        word: The state in Slurm's words, such as ``PENDING``.
        more: The node, or why the task waits or failed.
    """

    word: str
    more: str = ""

    def __str__(self) -> str:
        """Both, on one line."""
        return f"{self.word} {self.more}".strip()


@dataclass(frozen=True)
class Batch:
    """Commands to queue.

    Attributes:
        commands: Program and arguments of each task.
        name: Name of the tasks in the queue.
        limit: Number of tasks that run at the same time.
        cpus: Processor cores of each.
    """

    commands: Sequence[Sequence[str]]
    name: str
    limit: int
    cpus: int


class Queue(Protocol):
    """A queue of tasks; tests use one without a cluster."""

    def check(self) -> None:
        """Raise PlanError if there is no queue here."""

    def submit(self, batch: Batch, folder: Path) -> Sequence[Submitted]:
        """Queue the tasks; their files are in a new folder within ``folder``."""

    def script(self, batch: Batch, folder: Path) -> str:
        """Return the script that `submit` would submit."""

    def states(self, name: str) -> Mapping[str, State]:
        """Return the state of each task of a name that the queue still lists, by id."""

    def cancel(self, name: str) -> None:
        """End all tasks of a name; those that run get SIGTERM first."""


class SlurmQueue:
    """The queue of the Slurm cluster to which this machine belongs.

    Args:
        options: What each task asks for.
    """

    def __init__(self, options: SlurmOptions) -> None:
        self._options = options

    def check(self) -> None:
        """Refuse a machine without Slurm.

        Raises:
            PlanError: A program of Slurm is missing.
        """
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise PlanError(
                    f"launcher 'slurm': this machine has no program {program}: start the command "
                    "on a machine of the cluster, such as its login node"
                )

    def submit(self, batch: Batch, folder: Path) -> list[Submitted]:
        """Submit tasks, as one array.

        Raises:
            PlanError: Slurm refuses them.
        """
        from submitit.core.utils import FailedJobError

        from hydrakit_slurm.task import Task

        # Only this user can open the new folder: nobody else can put a pickle there.
        own = Path(tempfile.mkdtemp(dir=folder, prefix="array-"))
        executor = self._executor(batch, own)
        try:
            with _outside_of_a_job():
                jobs = executor.submit_array([Task(command) for command in batch.commands])
        except FailedJobError as error:
            shutil.rmtree(own)
            raise PlanError(f"launcher 'slurm': {one_line(str(error))}") from None
        for path in own.iterdir():
            if path.is_symlink():  # submitit's, to the script; hydrakit refuses folders with links
                path.unlink()
        return [Submitted(job.job_id, job.paths.stdout, job.paths.submitted_pickle) for job in jobs]

    def script(self, batch: Batch, folder: Path) -> str:
        """The script for sbatch; see `submit`."""
        executor = self._executor(batch, folder)
        if len(batch.commands) > 1:
            executor.parameters["map_count"] = len(batch.commands)
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def states(self, name: str) -> dict[str, State]:
        """State of each task of this name, by id; Slurm lists a task for minutes after its end.

        Raises:
            QueueError: Slurm does not answer.
        """
        lines = _answer(
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--user={os.getuid()}",
            f"--name={name}",
            "--format=%i|%T|%R",
        ).splitlines()
        parts = [line.split("|", 2) for line in lines]
        return {number: State(word, more) for number, word, more in parts}

    def cancel(self, name: str) -> None:
        """Cancel all tasks of this name.

        Raises:
            QueueError: Slurm does not answer.
        """
        _answer("scancel", f"--user={os.getuid()}", f"--name={name}")

    def _executor(self, batch: Batch, folder: Path) -> submitit.SlurmExecutor:
        """The executor of submitit, with what the tasks ask for."""
        from submitit import SlurmExecutor

        options = self._options
        parameters: dict[str, Any] = {
            "job_name": batch.name,
            "array_parallelism": batch.limit,
            "partition": options.partition,
            "time": options.minutes,
            "mem": options.memory,
            "cpus_per_task": batch.cpus,
            # Since Slurm 22.05, srun does not take this number from the script.
            "srun_args": [f"--cpus-per-task={batch.cpus}"],
            "gpus_per_node": options.gpus or None,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "signal_delay_s": options.grace,
            "setup": [options.setup] if options.setup else None,
            "stderr_to_stdout": True,
            "wckey": None,  # submitit sets its own, which some clusters refuse
            "additional_parameters": {"requeue": True, **further_options(options.sbatch)},
        }
        executor = SlurmExecutor(folder, max_num_timeout=MAX_TURNS)
        executor.update_parameters(**parameters)
        return executor


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Remove the variables of the job that runs this process, if one does.

    Its number of processor cores, for example, would count for the jobs that it submits.
    """
    of_job = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("SLURM_", "SLURMD_", "SRUN_")) and name != "SLURM_CONF"
    }
    if "SLURM_JOB_ID" not in of_job:
        yield
        return
    try:
        for name in of_job:
            del os.environ[name]
        yield
    finally:
        os.environ.update(of_job)


def _answer(program: str, *arguments: str) -> str:
    """Standard output of a program of Slurm.

    Raises:
        QueueError: It fails, or does not end.
    """
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise QueueError(f"{program}: no answer for {TIMEOUT} seconds") from None
    if done.returncode:
        raise QueueError(f"{program}: {one_line(done.stderr) or f'status {done.returncode}'}")
    return done.stdout
