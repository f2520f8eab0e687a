"""Writes the report of a run after its rounds, and at the end."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from hydrakit.errors import HydrakitError
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir


PAUSE = 10
"""Least time between two reports of unfinished work, as a multiple of what the last one took."""


class ReportWriter(RunCallback):
    """Writes ``report.html`` into the run's folder.

    Rounds may take less time than the report of them: it is written after a round only if the last
    one is long enough ago (`PAUSE`), and always at the end, also of a run that stops.

    Args:
        plugins: Plugins that describe the datasets.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.rundir: RunDir | None = None
        self._waiting: RunDir | None = None  # folder with rounds that the report lacks
        self._next = 0.0  # time before which no other report of an unfinished run is written

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Store the folder of the run."""
        self.rundir = rundir

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Write the report of the finished rounds, unless the last one is too recent."""
        assert self.rundir is not None
        self._waiting = self.rundir
        if time.monotonic() >= self._next:
            self._write(self.rundir)

    def completed(self, rundir: RunDir) -> None:
        """Write the final report, unless an earlier process wrote it."""
        self._waiting = None
        if not rundir.report_path.is_file():
            self._write(rundir)

    def closed(self, failed: bool) -> None:
        """Write the report of rounds that the last report lacks; after a failure, if possible."""
        if self._waiting is None:
            return
        if not failed:
            self._write(self._waiting)
            return
        with suppress(OSError, HydrakitError):  # the first error counts
            self._write(self._waiting)

    def _write(self, rundir: RunDir) -> None:
        from hydrakit.report.page import write_report

        began = time.monotonic()
        write_report(rundir, plugins=self.plugins)
        now = time.monotonic()
        self._waiting, self._next = None, now + PAUSE * (now - began)
