"""`SlurmLauncher`: submits groups of jobs as an array of Slurm, and follows them in its queue."""

from __future__ import annotations

import logging
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.jobs.job import Job, job_command
from hydrakit.schema import Frozen
from hydrakit.storage.files import refuse_links
from hydrakit.storage.records import read_record, writable, write_record
from hydrakit_slurm.queue import ENDED, Batch, Queue, QueueError, State, Submitted

if TYPE_CHECKING:
    from hydrakit.runs.context import RunContext

POLL = 0.5  # seconds that `poll` waits at most
FASTEST, SLOWEST = 1.0, 30.0  # seconds between two questions to the queue
DELAY = 60.0  # seconds until a shared folder shows here what another machine has written
PATIENCE = 120.0  # seconds within which cancelled tasks must end: Slurm kills them after 30
ABSENCES = 3  # questions to the queue, after which a task that it does not list has ended

FILE = "slurm.json"
FOLDER = "slurm"

_log = logging.getLogger("hydrakit.slurm")


class QueueName(Frozen):
    """Content of ``slurm.json``.

    Attributes:
        name: Name of all tasks of the folder in the queue, by which they are found after a crash.
    """

    name: Annotated[str, Field(pattern="^hydrakit-[0-9a-f]{16}$")]


@dataclass
class _Task:
    """A task in the queue.

    Attributes:
        jobs: Jobs that it runs one after another.
        submitted: Its id and files.
        state: Its last known state.
        since: Time of the last change of its state.
        absences: How many times in a row the queue did not list it.
    """

    jobs: Sequence[Job]
    submitted: Submitted
    state: State = field(default_factory=lambda: State("PENDING"))
    since: float = field(default_factory=time.monotonic)
    absences: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and the folders of its jobs show its results."""
        if self.absences >= ABSENCES:
            return True
        if self.state.word == "COMPLETED" and any(job.status() == "waiting" for job in self.jobs):
            return time.monotonic() > self.since + DELAY
        return self.state.word in ENDED


class SlurmLauncher:
    """Runs jobs of hydrakit as tasks of Slurm; see `hydrakit.hooks.Launcher`.

    A task runs one or more groups of jobs, one after another. When it is stopped because of its
    time limit or of pre-emption, Slurm starts it again, and it goes on. A task is over only when
    Slurm does not start it again.

    Args:
        queue: The queue.
        most: Largest number of tasks of an array; more groups are divided among them.
        cpus: Processor cores of a task; None for as many as its jobs have threads.
        prefix: Command that runs ``hydrakit job`` in a container; empty for none.
    """

    def __init__(
        self, queue: Queue, *, most: int, cpus: int | None = None, prefix: str = ""
    ) -> None:
        self._queue = queue
        self._most = most
        self._cpus = cpus
        self._prefix = shlex.split(prefix)
        self._name: str | None = None
        self._tasks: dict[str, _Task] = {}
        self._next, self._pause = 0.0, FASTEST
        self._warned = False

    def processes(self, context: RunContext, groups: int) -> int:
        """As many tasks at a time as ``jobs`` says, else all; see `Launcher.processes`.

        Raises:
            PlanError: This machine has no Slurm.
        """
        self._queue.check()
        return min(context.jobs or groups, groups)

    def threads(self, groups: int) -> int:
        """As many as each task has processor cores."""
        return self._cpus or 1

    def submit(self, groups: Sequence[Sequence[Job]], folder: Path, *, processes: int) -> None:
        """Submit groups as one array, after what an earlier command left in the queue was ended.

        Raises:
            HydrakitError: Slurm refuses the tasks, or tasks of an earlier command do not end.
        """
        parts = self._parts(groups)
        if self._name is None:
            self._name = self._begin(folder)
        commands = [self._command(part, folder) for part in parts]
        threads = max(job.context.threads or 1 for part in parts for job in part)
        batch = self._batch(commands, threads, processes)
        for part, submitted in zip(parts, self._queue.submit(batch, folder / FOLDER), strict=True):
            self._tasks[submitted.number] = _Task(part, submitted)
        self._ask_soon()

    def preview(self, context: RunContext, groups: int, folder: Path, *, processes: int) -> str:
        """The script that `submit` would submit; nothing is written."""
        commands = [["hydrakit", "job"]] * min(groups, self._most)
        batch = self._batch(commands, context.threads or 1, processes)
        script = self._queue.script(batch, folder.resolve() / FOLDER)
        command = shlex.join([*self._prefix, "hydrakit", "job"])
        return f"{script}\n# tasks: {len(commands)}; each runs: {command} FILE..."

    def poll(self) -> list[tuple[Job, str]]:
        """Jobs of the tasks that have ended; the queue is asked every 1 to 30 seconds."""
        if (wait := self._next - time.monotonic()) > 0:
            time.sleep(min(wait, POLL))
            return []
        try:
            ended = self._update()
        except QueueError as error:  # such as a restart of Slurm: its jobs continue
            if not self._warned:
                _log.warning("%s: asking again every %.0f seconds", error, SLOWEST)
            self._warned, ended = True, []
        else:
            self._warned = False
        self._pause = min(2 * self._pause, SLOWEST)
        self._next = time.monotonic() + self._pause
        if ended:
            self._ask_soon()
        return ended

    def states(self) -> dict[str, str]:
        """State of each task, by the names of its jobs."""
        return {job.name: str(task.state) for task in self._tasks.values() for job in task.jobs}

    def cancel(self) -> None:
        """Cancel all tasks, and wait until those that run have written checkpoints.

        Raises:
            HydrakitError: Slurm does not answer, or a task does not end.
        """
        if self._tasks:
            assert self._name is not None
            self._end(self._name)
            self._tasks = {}

    def _parts(self, groups: Sequence[Sequence[Job]]) -> list[list[Job]]:
        """The jobs of each task."""
        parts: list[list[Job]] = [[] for _ in range(min(len(groups), self._most))]
        for number, group in enumerate(groups):
            parts[number % len(parts)].extend(group)
        return parts

    def _command(self, jobs: Sequence[Job], folder: Path) -> list[str]:
        paths = [job.write(folder).resolve() for job in jobs]
        if self._prefix:
            return [*self._prefix, "hydrakit", "job", *map(str, paths)]
        return job_command(paths)

    def _batch(self, commands: Sequence[Sequence[str]], threads: int, limit: int) -> Batch:
        name = self._name or f"hydrakit-{0:016x}"
        return Batch(commands, name, limit=limit, cpus=self._cpus or threads)

    def _begin(self, folder: Path) -> str:
        """Name of the tasks of a folder, none of which is in the queue.

        Raises:
            HydrakitError: The folder cannot be used, or tasks of an earlier command do not end.
        """
        if "%" in str(folder.resolve()):
            raise PlanError(
                f"{folder.resolve()}: Slurm does not accept a path with a %: choose another one "
                "with `--out`"
            )
        path = folder / FILE
        with writable(folder, "choose another folder with `--out`"):
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            refuse_links(folder)
        if path.exists():
            remedy = "delete it, after `squeue --me` shows no job of this folder"
            name = read_record(path, QueueName, remedy=remedy).name
            self._end(name)
            return name
        name = f"hydrakit-{secrets.token_hex(8)}"
        write_record(path, QueueName(name=name))  # before any task has it
        return name

    def _end(self, name: str) -> None:
        """Cancel all tasks of a name, and wait for their end."""
        running = self._running(name)
        if not running:
            return
        self._queue.cancel(name)
        limit = time.monotonic() + PATIENCE
        while running := self._running(name):
            if time.monotonic() > limit:
                raise HydrakitError(
                    f"jobs of Slurm did not end within {PATIENCE:.0f} seconds: "
                    f"{', '.join(running[:5])}: start the command again when `squeue "
                    f"--name={name}` lists none"
                )
            time.sleep(POLL)

    def _running(self, name: str) -> list[str]:
        """Ids of the tasks of a name that have not ended."""
        return [
            number for number, state in self._queue.states(name).items() if state.word not in ENDED
        ]

    def _update(self) -> list[tuple[Job, str]]:
        """Ask the queue for all states; return the jobs of ended tasks."""
        assert self._name is not None
        listed, ended = self._queue.states(self._name), []
        for number, task in list(self._tasks.items()):
            state = listed.get(number)
            task.absences = 0 if state else task.absences + 1
            if state is not None and state != task.state:
                task.state, task.since = state, time.monotonic()
                self._ask_soon()
            if not task.is_over:
                continue
            del self._tasks[number]
            how = str(task.state) if state else "Slurm does not list it any more"
            ended += [(job, f"{how}: {task.submitted.log}") for job in task.jobs]
            if task.state.word == "COMPLETED":
                task.submitted.log.unlink(missing_ok=True)
            task.submitted.pickle.unlink(missing_ok=True)
        return ended

    def _ask_soon(self) -> None:
        self._pause, self._next = FASTEST, time.monotonic() + FASTEST
