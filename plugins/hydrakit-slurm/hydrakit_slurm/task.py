"""What a job of Slurm does: it runs one command, and asks for another turn when it is stopped.

submitit pickles a `Task`: a list of words. All data is in the files that the command names.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission

STOPPED = (130, 143)
"""Exit statuses of a ``hydrakit job`` that was stopped by a signal and has written a checkpoint."""


class Task:
    """A command, as submitit calls it in a job of Slurm.

    Before the time limit, and before pre-emption where the cluster is set up so, Slurm sends a
    signal; submitit then calls `checkpoint` and puts the job back into the queue, where it begins
    again with the same command: `hydrakit job` continues from the checkpoint.

    Args:
        command: The program and its arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._pid: int | None = None

    def __call__(self) -> None:
        """Run the command, and end this process with its exit status."""
        requeue = JobEnvironment._usr_sig()
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.getsignal(requeue))
        # Slurm signals all processes of a job: this one alone acts on these two.
        self._pid = os.posix_spawnp(
            self.command[0],
            self.command,
            os.environ,
            setsigmask=[signal.SIGUSR1, signal.SIGUSR2],
        )
        _, wait_status = os.waitpid(self._pid, 0)
        self._pid = None
        status = os.waitstatus_to_exitcode(wait_status)
        if status in STOPPED and is_running():
            signal.raise_signal(requeue)
        raise SystemExit(status if status >= 0 else 128 - status)

    def checkpoint(self) -> DelayedSubmission:
        """Stop the command, wait until it has written its checkpoint, and return what to do next.

        It is called within a signal handler, while `__call__` waits.
        """
        if self._pid is not None:
            with suppress(ProcessLookupError, ChildProcessError):  # it has ended by itself
                os.kill(self._pid, signal.SIGTERM)
                os.waitpid(self._pid, 0)
        return DelayedSubmission(Task(self.command))


def is_running() -> bool:
    """Whether Slurm still counts this job as running: whoever stopped the command was not Slurm.

    A job that is cancelled or that Slurm itself puts back into the queue is completing.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:  # submitit's local executor
        return False
    asked = subprocess.run(
        ["squeue", "--noheader", f"--jobs={number}", "--format=%T"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return asked.stdout.strip() == "RUNNING"
