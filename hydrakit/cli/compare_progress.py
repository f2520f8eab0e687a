"""Progress of a comparison: one line per cell, and on a terminal one bar for all cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.cli.progress import PreparingProgress
from hydrakit.compare.engine import CompareCallback
from hydrakit.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from hydrakit.compare.design import Cell
    from hydrakit.runs.rundir import RunDir


class PlainCompareProgress(PreparingProgress, CompareCallback):
    """Prints a line for each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.ended = 0, 0

    def begun(self, out: Path, cells: int, rounds: int, processes: int) -> None:
        """Print the size of the comparison before the first cell."""
        self.cells = cells
        self.print(f"{out}: {cells} cells, {rounds} rounds, {processes} at a time")

    def done(self, cell: Cell, run: RunDir, before: bool) -> None:
        """Print the result of a cell."""
        self.ended += 1
        results = run.results()
        assert results is not None
        took = "done before" if before else f"{sum(r.seconds for r in results.rounds):.1f} s"
        score = results.tested.figures.score
        self.print(f"{cell}: test AUC {score:.3f}, {took} ({self.ended} of {self.cells})")

    def failed(self, cell: Cell, reason: str) -> None:
        """Print why a cell failed."""
        self.ended += 1
        self.print(f"{cell}: failed: {reason} ({self.ended} of {self.cells})")

    def killed(self, cell: Cell, reason: str) -> None:
        """Print that the process of a cell ended unexpectedly."""
        self.print(f"{cell}: its process ended unexpectedly ({reason}); the others continue")


class LiveCompareProgress(PlainCompareProgress):
    """Prints a line for each cell above a progress bar for all cells."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.task = progress.add_task("reading data", total=None)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(printable(line), highlight=False, markup=False)

    def preparing(self, dataset: str, cases: int) -> None:
        """Show the number of cases read."""
        self.progress.update(self.task, description=f"preparing {dataset}", completed=cases)

    def begun(self, out: Path, cells: int, rounds: int, processes: int) -> None:
        """Start the bar over all rounds."""
        super().begun(out, cells, rounds, processes)
        self.progress.reset(self.task, total=rounds, description="comparing")

    def rounds_done(self, rounds: int) -> None:
        """Show the number of finished rounds."""
        self.progress.update(
            self.task, completed=rounds, description=f"{self.ended} of {self.cells} cells"
        )
