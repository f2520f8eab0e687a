"""Following a run while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrakit.plan.results import EpochRecord, RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir


class RunCallback:
    """Told how a run goes. These methods do nothing: override the ones of interest."""

    def preparing(self, dataset: str, cases: int) -> None:
        """So many cases of a dataset have been read."""

    def started(self, rundir: RunDir, device: str) -> None:
        """The data is ready, and rounds begin."""

    def bootstrapping(self, done: int, of: int) -> None:
        """So many random starts have been looked at."""

    def skipped(self, number: int, round: Round) -> None:
        """A round is on disk already."""

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """A round goes on after an epoch that was over before a stop."""

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """An epoch is over."""

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """A round is over."""
