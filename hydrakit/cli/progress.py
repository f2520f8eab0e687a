"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hydrakit.observers.log import data_lines, duration, epoch_text, name_of, summary
from hydrakit.runs.callbacks import RunCallback

if TYPE_CHECKING:
    from rich.progress import Progress

    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import EpochRecord, RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def watching(plan: Plan) -> Iterator[RunCallback]:
    """A watcher that shows how the plan's run goes, on standard error."""
    from rich.console import Console

    from hydrakit.data.dicom.index import report_index_progress

    console = Console(stderr=True)
    if not console.is_terminal:
        plain = PlainProgress(plan)
        with report_index_progress(plain.indexing):
            yield plain
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        live = LiveProgress(plan, progress)
        with report_index_progress(live.indexing):
            yield live


class PreparingProgress(RunCallback):
    """Prints now and then how many cases have been read."""

    def __init__(self) -> None:
        self.last_line = time.monotonic()

    def preparing(self, dataset: str, cases: int) -> None:
        """A number of cases has been read so far."""
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            click.echo(f"preparing {dataset}: {cases} cases read", err=True)
            self.last_line = time.monotonic()


class PlainProgress(RunCallback):
    """Prints a line now and then, and one for each round.

    Args:
        plan: Plan of the run; None where `started` brings it.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan
        self.last_line = time.monotonic()
        self.began = self.last_line
        self.before = 0

    def say(self, line: str) -> None:
        """Print a line that must not be missed."""
        click.echo(line, err=True)
        self.last_line = time.monotonic()

    def mention(self, line: str) -> None:
        """Print a line if the last one was some time ago."""
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.say(line)

    def indexing(self, known: int, of: int) -> None:
        """So many files have been looked into for DICOM headers."""
        self.mention(f"reading DICOM headers: {known} of {of} files")

    def preparing(self, dataset: str, cases: int) -> None:
        """So many cases of a dataset have been read."""
        self.mention(f"preparing {dataset}: {cases} cases read")

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """The data is ready, and rounds begin."""
        self.plan = plan
        rounds = len(plan.rounds)
        for name, facts in (rundir.facts() or {}).items():
            for line in data_lines(name, facts):
                self.say(line)
        self.say(f"{rundir.path}: {rounds} round{'s' if rounds > 1 else ''} on {device}")
        self.began = time.monotonic()

    def bootstrapping(self, done: int, of: int) -> None:
        """So many random starts have been looked at."""
        self.mention(f"bootstrap: {done} of {of} random starts")
        self.began = time.monotonic()

    def skipped(self, number: int, round: Round) -> None:
        """A round is on disk already."""
        self.say(f"{self.name(number, round)}: done before")

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """A round goes on after an epoch that was over before a stop."""
        self.say(f"{self.name(number, round)}: goes on after epoch {epoch}")
        self.began, self.before = time.monotonic(), epoch

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """An epoch is over."""
        if record.epoch == 0:  # nothing is trained: the round's own line tells all
            return
        epochs = round.hyperparameters.epochs
        done = record.epoch - self.before
        left = (time.monotonic() - self.began) / done * (epochs - record.epoch)
        self.mention(
            f"{self.name(number, round)}: epoch {record.epoch} of {epochs}, {epoch_text(record)}, "
            f"at most {duration(left)} left"
        )

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """A round is over."""
        self.say(f"{self.name(number, round)}: {summary(result)}")
        self.began, self.before = time.monotonic(), 0

    def name(self, number: int, round: Round) -> str:
        """Name of a round in messages."""
        assert self.plan is not None
        return name_of(self.plan, number, round)


class LiveProgress(PlainProgress):
    """A bar for what is under way, above it a line for each round that is done."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        super().__init__(plan)
        self.progress = progress
        self.task = progress.add_task("reading data", total=None, figures="")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(line, highlight=False, markup=False)

    def mention(self, line: str) -> None:
        """Leave it to the bar."""

    def indexing(self, known: int, of: int) -> None:
        """So many files have been looked into for DICOM headers."""
        self._show("reading DICOM headers", known, of)

    def preparing(self, dataset: str, cases: int) -> None:
        """So many cases of a dataset have been read."""
        self._show(f"preparing {dataset}", cases, None)

    def bootstrapping(self, done: int, of: int) -> None:
        """So many random starts have been looked at."""
        self._show("bootstrap", done, of)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """An epoch is over."""
        epochs = round.hyperparameters.epochs
        self._show(self.name(number, round), record.epoch, epochs, epoch_text(record))

    def _show(self, description: str, done: int, of: int | None, figures: str = "") -> None:
        if self.progress.tasks[0].description == description:
            self.progress.update(self.task, completed=done, total=of, figures=figures)
        else:  # begins the clock anew
            self.progress.reset(
                self.task, completed=done, total=of, description=description, figures=figures
            )
