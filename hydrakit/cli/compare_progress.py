"""Progress of a comparison: one line a cell, and on a terminal one bar for the whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.compare.engine import CompareCallback

if TYPE_CHECKING:
    from rich.progress import Progress

    from hydrakit.compare.design import Cell
    from hydrakit.runs.rundir import RunDir

SECONDS_BETWEEN_LINES = 5.0


class PlainCompareProgress(CompareCallback):
    """A line for each cell."""

    def __init__(self) -> None:
        self.cells, self.ended, self.last = 0, 0, time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        click.echo(line, err=True)

    def preparing(self, dataset: str, cases: int) -> None:
        """So many cases of a dataset have been read."""
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.say(f"preparing {dataset}: {cases} cases read")
            self.last = time.monotonic()

    def begun(self, out: Path, cells: int, rounds: int, at_once: int) -> None:
        """The data is ready, and cells begin."""
        self.cells = cells
        self.say(f"{out}: {cells} cells, {rounds} rounds, {at_once} at once")

    def done(self, cell: Cell, run: RunDir, before: bool) -> None:
        """A cell is finished."""
        self.ended += 1
        results = run.results()
        assert results is not None
        took = "done before" if before else f"{sum(r.seconds for r in results.rounds):.1f} s"
        figure = results.test.figures.score
        self.say(f"{cell}: test AUC {figure:.3f}, {took} ({self.ended} of {self.cells})")

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell failed."""
        self.ended += 1
        self.say(f"{cell}: failed: {reason} ({self.ended} of {self.cells})")

    def killed(self, cell: Cell, reason: str) -> None:
        """A process ended before its time."""
        self.say(f"{cell}: its process ended ({reason}); the others go on")


class LiveCompareProgress(PlainCompareProgress):
    """A line for each cell, and below them a bar for the whole."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.task = progress.add_task("reading data", total=None)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(line, highlight=False, markup=False)

    def preparing(self, dataset: str, cases: int) -> None:
        """So many cases of a dataset have been read."""
        self.progress.update(self.task, description=f"preparing {dataset}", completed=cases)

    def begun(self, out: Path, cells: int, rounds: int, at_once: int) -> None:
        """The data is ready, and cells begin."""
        super().begun(out, cells, rounds, at_once)
        self.progress.reset(self.task, total=rounds, description="comparing")

    def rounds_done(self, rounds: int) -> None:
        """So many rounds are there."""
        self.progress.update(
            self.task, completed=rounds, description=f"{self.ended} of {self.cells} cells"
        )
