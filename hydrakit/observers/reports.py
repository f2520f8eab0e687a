"""Writes the report of a run after every round, and at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir


class ReportWriter(RunCallback):
    """Writes ``report.html`` into the run's folder.

    Args:
        plugins: Plugins that describe the datasets.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.rundir: RunDir | None = None

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Store the folder of the run."""
        self.rundir = rundir

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Write the report of the finished rounds."""
        assert self.rundir is not None
        self._write(self.rundir)

    def completed(self, rundir: RunDir) -> None:
        """Write the final report, unless an earlier process wrote it."""
        if not rundir.report_path.is_file():
            self._write(rundir)

    def _write(self, rundir: RunDir) -> None:
        from hydrakit.report.page import write_report

        write_report(rundir, plugins=self.plugins)
