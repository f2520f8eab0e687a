"""Following a run: callbacks for its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import EpochRecord, RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir


class RunCallback:
    """Called when something happens in a run. The methods do nothing: override those you need.

    `preparing` comes first, while data is read, then `started`. A round that is on disk calls
    `skipped`; any other one calls `resumed` if it was stopped before, `bootstrapping` if it begins
    with random starts, `epoch` after each epoch, and `finished`. `completed` follows the test.
    A run that was finished earlier calls only `completed`. The last call is `closed`, also after a
    failure; but nothing closes a run that fails before it uses its folder, since its plan or its
    data is wrong.

    For each event, all callbacks of a run are called in turn. An exception in one ends the run.
    """

    def preparing(self, dataset: str, cases: int) -> None:
        """A number of cases of a dataset has been read so far."""

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """The data is ready, and the rounds begin."""

    def bootstrapping(self, done: int, of: int) -> None:
        """A number of random starts has been evaluated."""

    def skipped(self, number: int, round: Round) -> None:
        """A round is on disk already."""

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """A round goes on after the last epoch that was finished before a stop."""

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """An epoch is finished."""

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """A round is finished and on disk."""

    def completed(self, rundir: RunDir) -> None:
        """The run is finished: its folder has results. Called for a run finished earlier too."""

    def closed(self, failed: bool) -> None:
        """The run is over, or has failed; nothing else is called afterwards."""


@contextmanager
def closing(callbacks: RunCallback) -> Iterator[None]:
    """Call `RunCallback.closed` at the end of a ``with`` block, however it ends."""
    try:
        yield
    except BaseException:
        callbacks.closed(failed=True)
        raise
    callbacks.closed(failed=False)


class Callbacks(RunCallback):
    """Several callbacks as one; they are called in order."""

    def __init__(self, members: Sequence[RunCallback] = ()) -> None:
        self.members = tuple(members)

    def preparing(self, dataset: str, cases: int) -> None:
        """Pass the event on, as all methods do."""
        for each in self.members:
            each.preparing(dataset, cases)

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Pass the event on."""
        for each in self.members:
            each.started(plan, rundir, device)

    def bootstrapping(self, done: int, of: int) -> None:
        """Pass the event on."""
        for each in self.members:
            each.bootstrapping(done, of)

    def skipped(self, number: int, round: Round) -> None:
        """Pass the event on."""
        for each in self.members:
            each.skipped(number, round)

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """Pass the event on."""
        for each in self.members:
            each.resumed(number, round, epoch)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Pass the event on."""
        for each in self.members:
            each.epoch(number, round, record)

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Pass the event on."""
        for each in self.members:
            each.finished(number, round, result)

    def completed(self, rundir: RunDir) -> None:
        """Pass the event on."""
        for each in self.members:
            each.completed(rundir)

    def closed(self, failed: bool) -> None:
        """Pass the event on."""
        for each in self.members:
            each.closed(failed)
