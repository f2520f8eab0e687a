"""`Job`: a plan to train in a folder, as a file that any process on any machine can run.

A job and the process that started it exchange data through folders alone: the job's file says what
to train and how, the folder of the run holds its progress and its results, and a file beside that
folder says why the job failed.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hydrakit import engine
from hydrakit.data.origin import DataOrigin
from hydrakit.errors import HydrakitError, one_line
from hydrakit.jobs.candidates import CandidateSearch, InnerRun, data_key, in_turn, with_values
from hydrakit.jobs.states import DIVERGED, failure_lines, failure_path, status_of
from hydrakit.plan.model import Plan
from hydrakit.plugins.guard import PluginFault, describe_error
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.schema import Frozen, Name, Text
from hydrakit.storage.files import write_atomic
from hydrakit.storage.lock import TakenOverError
from hydrakit.storage.records import read_record, writable, write_record
from hydrakit.training.loop import DivergedError
from hydrakit.version import version

__all__ = ["Job", "job_command"]


class Choice(Frozen):
    """Values that a job tries on inner folds of its training part before it trains its plan.

    Attributes:
        candidates: Values that replace those of the plan, by path.
        folds: Number of inner folds.
        folder: Folder of the search.
        rounds: Folder of rounds that its runs share.
        origins: What chosen plans must be computed from: by the key of what decides the data in
            them (`hydrakit.jobs.candidates.data_key`), then by dataset.
    """

    candidates: tuple[dict[str, Any], ...]
    folds: int
    folder: Path
    rounds: Path
    origins: dict[Text, dict[Name, DataOrigin]]


class Job(Frozen):
    """A plan to train and test in a folder.

    Attributes:
        format: Version of the format of the job's file.
        hydrakit: Version of hydrakit that made the job.
        name: Name of the job and of its file, unique among the jobs of a command.
        plan: Plan to train.
        out: Folder of the run.
        context: Where and how to compute.
        expected: What the run must be computed from, by dataset; empty for no check.
        group: Name of the comparison or the search, for trackers.
        choice: Values to try before; None for none.
    """

    format: Literal[1] = 1
    hydrakit: Text = Field(default_factory=version)
    name: Text
    plan: Plan
    out: Path
    context: RunContext
    expected: dict[Name, DataOrigin] = Field(default_factory=dict)
    group: Text | None = None
    choice: Choice | None = None

    @property
    def failure_path(self) -> Path:
        """Path of the file that says why the job failed."""
        return failure_path(self.out)

    def status(self) -> str:
        """Status of the job: ``done``, ``waiting``, or why it failed, on one line."""
        run = RunDir(self.out)
        if not self.context.test and run.rounds_done(self.plan) == (
            len(self.plan.rounds) * self.plan.ensemble
        ):
            return "done"
        return status_of(self.out)

    @property
    def diverged(self) -> bool:
        """Whether the job failed because training diverged, which is a result for a search."""
        return failure_lines(self.out)[:1] == [DIVERGED]

    def write(self, folder: Path) -> Path:
        """Write the job's file into a folder, with absolute paths; return its path.

        Raises:
            PlanError: The folder cannot be written.
        """
        path = folder / f"{self.name}.json"
        with writable(folder, "choose another folder with `--out`"):
            folder.mkdir(parents=True, exist_ok=True)
            write_record(path, self.resolved())
        return path

    def resolved(self) -> Job:
        """Copy with absolute paths, independent of working folder and environment variables."""
        choice = self.choice and self.choice.model_copy(
            update={name: getattr(self.choice, name).resolve() for name in ("folder", "rounds")}
        )
        return self.model_copy(
            update={
                "out": self.out.resolve(),
                "context": self.context.resolved(),
                "choice": choice,
            }
        )

    def write_failure(self, text: str) -> None:
        """Write why the job failed; the last line is the reason."""
        self.failure_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.failure_path, f"{text}\n".encode())


def read_job(path: Path) -> Job:
    """Read a file that `Job.write` wrote.

    Raises:
        PlanError: The file cannot be read, is not a job, or a later version wrote it.
    """
    return read_record(path, Job, remedy="give a file that a launcher has written")


def job_command(paths: Sequence[Path]) -> list[str]:
    """Command that runs jobs, given by their files, one after another."""
    return [sys.executable, "-m", "hydrakit", "job", *map(str, paths)]


def run_job(job: Job) -> None:
    """Run a job, or go on with it; write the reason if it fails.

    Raises:
        KeyboardInterrupt: The process was asked to stop; the job is not failed.
        TakenOverError: Another process runs the job now; it is not failed either.
    """
    try:
        train_job(job)
    except TakenOverError:
        raise
    except DivergedError as error:
        job.write_failure(f"{DIVERGED}\n{one_line(str(error))}")
    except PluginFault as error:
        where = f" (traceback: {job.failure_path})" if error.__cause__ else ""
        job.write_failure(f"{traceback.format_exc()}{one_line(str(error))}{where}")
    except HydrakitError as error:
        job.write_failure(one_line(str(error)))
    except Exception as error:  # a bug or out of memory
        job.write_failure(f"{traceback.format_exc()}{describe_error(error)}")


def train_job(
    job: Job, *, callbacks: Sequence[RunCallback] = (), plugins: Plugins | None = None
) -> RunDir:
    """Train the plan of a job, or the plan that it chooses.

    Args:
        job: The job.
        callbacks: Callbacks for the events of the runs.
        plugins: Plugins of this process; None loads the installed ones.

    Raises:
        HydrakitError: The job cannot be run.
    """
    plugins, choice = plugins or job.context.plugins(), job.choice
    run = _runner(callbacks, plugins)
    if choice is None:
        return run(job.plan, job.context, job.out, job.expected, job.group)
    inner = job.context.changed(trace_test=False, round_cache=choice.rounds)

    def train(each: InnerRun) -> RunDir:
        return run(each.plan, inner, each.out, each.origins, f"{job.group}.tuning")

    table = CandidateSearch(
        folder=choice.folder,
        plan=job.plan,
        candidates=choice.candidates,
        folds=choice.folds,
        plugins=plugins,
        origins=choice.origins,
        train=in_turn(train),
    ).run()
    chosen = with_values(job.plan, table.best.values, plugins)
    return run(chosen, job.context, job.out, choice.origins[data_key(chosen)], job.group)


def _runner(
    callbacks: Sequence[RunCallback], plugins: Plugins
) -> Callable[[Plan, RunContext, Path, Mapping[str, DataOrigin], str | None], RunDir]:
    def run(
        plan: Plan,
        context: RunContext,
        out: Path,
        expected: Mapping[str, DataOrigin],
        group: str | None,
    ) -> RunDir:
        return engine.run_cell(
            plan,
            context,
            out=out,
            expected=expected,
            group=group,
            callbacks=callbacks,
            plugins=plugins,
        )

    return run
