"""Runs jobs through a launcher until none is left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hydrakit.errors import PlanError
from hydrakit.hooks import Launcher, LauncherFactory
from hydrakit.jobs.job import Job
from hydrakit.jobs.states import STATES
from hydrakit.plugins.options import parse_options, split_component
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.context import RunContext
from hydrakit.storage.files import write_atomic

ATTEMPTS = 2
"""Number of processes that may end unexpectedly while running a job, before it has failed."""


def build_launcher(text: str, plugins: Plugins) -> Launcher:
    """Build the launcher of ``NAME`` or ``NAME:option=value,...``.

    Raises:
        PlanError: The text has another form, or an option is unknown or wrong.
        PluginError: No plugin offers the launcher.
    """
    name, options = split_component(text, option="--launcher")
    factory = plugins.get(LauncherFactory, name)
    launcher: Launcher = factory.build(parse_options(factory, options))
    return launcher


def preview(
    launcher: Launcher, context: RunContext, groups: int, folder: Path, processes: int
) -> str | None:
    """What a launcher would submit for a number of groups; None if it has no ``preview``."""
    method = getattr(launcher, "preview", None)
    if method is None or not groups:
        return None
    text: str = method(context, groups, folder, processes=processes)
    return text


class JobDriver:
    """Submits jobs to a launcher, and submits those again whose process was lost.

    The folder of each job says whether it is done; a launcher says only that a process has ended.
    A job whose process is lost `ATTEMPTS` times has failed; the other jobs continue. At the end of
    a ``with`` block, whatever is still queued or running is cancelled.

    Args:
        launcher: Runs the jobs.
        folder: Folder for the files of the jobs and of the launcher.
        processes: Number of jobs that run at the same time (`Launcher.processes`), an attribute.
        on_poll: Called a few times per second.
        on_lost: Called with a job and a description, when its process ended unexpectedly.

    Raises:
        PlanError: The launcher runs no job.
    """

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        processes: int,
        *,
        on_poll: Callable[[], None] = lambda: None,
        on_lost: Callable[[Job, str], None] = lambda job, how: None,
    ) -> None:
        if processes < 1:
            raise PlanError(
                f"the launcher would run {processes} jobs at the same time, so that none begins: "
                "correct its plugin, or choose another with `--launcher`"
            )
        self._launcher = launcher
        self._folder = folder
        self.processes = processes
        self._on_poll = on_poll
        self._on_lost = on_lost
        self._losses: Counter[str] = Counter()
        self._waiting: set[str] = set()
        self._states: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Cancel what is queued or running."""
        self._launcher.cancel()
        (self._folder / STATES).unlink(missing_ok=True)

    def run(self, groups: Sequence[Sequence[Job]]) -> None:
        """Run jobs, and return when none is left; it can be called several times.

        Args:
            groups: Jobs that are not done; those of a group share rounds.
        """
        self.submit(groups)
        while self._waiting:
            self.poll()

    def submit(self, groups: Sequence[Sequence[Job]]) -> None:
        """Queue jobs."""
        groups = [group for group in groups if group]
        for job in (job for group in groups for job in group):
            job.failure_path.unlink(missing_ok=True)  # failed jobs are tried again
            self._waiting.add(job.name)
        if groups:
            self._launcher.submit(groups, self._folder, processes=self.processes)

    def poll(self) -> list[Job]:
        """Wait for at most about half a second; return the jobs that ended, done or failed."""
        ended, again = [], []
        for job, how in self._launcher.poll():
            if job.name not in self._waiting:  # reported twice, or never submitted
                continue
            if job.status() == "waiting" and self._must_run_again(job, how):
                again.append([job])
                continue
            self._waiting.discard(job.name)
            ended.append(job)
        if again:
            self._launcher.submit(again, self._folder, processes=self.processes)
        self._write_states()
        self._on_poll()
        return ended

    def _must_run_again(self, job: Job, how: str) -> bool:
        """Whether a job without a result is run again; if not, write that it has failed."""
        self._losses[job.name] += 1
        self._on_lost(job, how)
        if self._losses[job.name] < ATTEMPTS:
            return True
        job.write_failure(f"its process ended unexpectedly {ATTEMPTS} times ({how})")
        return False

    def _write_states(self) -> None:
        """Write the states of the jobs for `hydrakit status`, if the launcher has any."""
        states = dict(self._launcher.states())
        if states != self._states:
            self._states = states
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._folder / STATES, json.dumps(states).encode(), sync=False)
