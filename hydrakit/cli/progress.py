"""Progress of a run: a progress bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydrakit.cli.printing import say
from hydrakit.errors import printable
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
def run_progress(plan: Plan | None) -> Iterator[RunCallback]:
    """Print the progress of a run on standard error, by the callback that is yielded.

    The plan is None if `RunCallback.started` gives it.
    """
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
    """Prints from time to time how many cases have been read."""

    def __init__(self) -> None:
        self.last_line = time.monotonic()

    def print(self, line: str) -> None:
        """Print a line."""
        say(line, err=True)
        self.last_line = time.monotonic()

    def print_sometimes(self, line: str) -> None:
        """Print a line unless another was printed within the last seconds."""
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.print(line)

    def noted(self, text: str) -> None:
        """Print the sentence."""
        self.print(f"Note: {text}")

    def indexing(self, known: int, of: int) -> None:
        """Print the number of files with DICOM headers read."""
        self.print_sometimes(f"reading DICOM headers: {known} of {of} files")

    def preparing(self, dataset: str, cases: int) -> None:
        """Print the number of cases read so far."""
        self.print_sometimes(f"preparing {dataset}: {cases} cases read")


class PlainProgress(PreparingProgress):
    """Prints a line from time to time, and one for each round.

    Args:
        plan: Plan of the run; None if `started` sets it.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.network = 1
        self.start_time = self.last_line
        self.start_epoch = 0

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Print a summary of the data and of the run before the first round."""
        self.plan = plan
        rounds = len(plan.rounds)
        for name, facts in (rundir.facts() or {}).items():
            for line in data_lines(name, facts):
                self.print(line)
        each = f", each for {plan.ensemble} networks" if plan.ensemble > 1 else ""
        self.print(f"{rundir.path}: {rounds} round{'s' if rounds > 1 else ''} on {device}{each}")
        self.start_time, self.network = time.monotonic(), 1

    def member(self, number: int, rundir: RunDir) -> None:
        """Name the network of the ensemble in the lines that follow."""
        self.start_time, self.network = time.monotonic(), number

    def bootstrapping(self, done: int, of: int) -> None:
        """Print the number of random starts evaluated."""
        self.print_sometimes(f"bootstrap: {done} of {of} random starts")
        self.start_time = time.monotonic()

    def skipped(self, number: int, round: Round) -> None:
        """Print that a round was finished before."""
        self.print(f"{self.name(number, round)}: done before")

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """Print the epoch after which a round is resumed."""
        self.print(f"{self.name(number, round)}: resumed after epoch {epoch}")
        self.start_time, self.start_epoch = time.monotonic(), epoch

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Print the metrics of an epoch and the time left."""
        if record.epoch == 0:  # nothing is trained: `finished` prints all there is
            return
        epochs = round.hyperparameters.epochs
        done = record.epoch - self.start_epoch
        left = (time.monotonic() - self.start_time) / done * (epochs - record.epoch)
        self.print_sometimes(
            f"{self.name(number, round)}: epoch {record.epoch} of {epochs}, {epoch_text(record)}, "
            f"at most {duration(left)} left"
        )

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Print the summary of a round."""
        self.print(f"{self.name(number, round)}: {summary(result)}")
        self.start_time, self.start_epoch = time.monotonic(), 0

    def name(self, number: int, round: Round) -> str:
        """Name of a round in messages."""
        assert self.plan is not None
        return name_of(self.plan, number, round, network=self.network)


class LiveProgress(PlainProgress):
    """A progress bar for the current step, below a line for each finished round."""

    def __init__(self, plan: Plan | None, progress: Progress) -> None:
        super().__init__(plan)
        self.progress = progress
        self.task = progress.add_task("reading data", total=None, figures="")

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(printable(line), highlight=False, markup=False)

    def indexing(self, known: int, of: int) -> None:
        """Show the number of files with DICOM headers read."""
        self._show("reading DICOM headers", known, of)

    def preparing(self, dataset: str, cases: int) -> None:
        """Show the number of cases read."""
        self._show(f"preparing {dataset}", cases, None)

    def bootstrapping(self, done: int, of: int) -> None:
        """Show the number of random starts evaluated."""
        self._show("bootstrap", done, of)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Show the metrics of an epoch."""
        epochs = round.hyperparameters.epochs
        self._show(self.name(number, round), record.epoch, epochs, epoch_text(record))

    def _show(self, description: str, done: int, of: int | None, figures: str = "") -> None:
        if self.progress.tasks[0].description == description:
            self.progress.update(self.task, completed=done, total=of, figures=figures)
        else:  # also restarts the estimate of the time left
            self.progress.reset(
                self.task, completed=done, total=of, description=description, figures=figures
            )
