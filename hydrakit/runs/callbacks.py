"""Callbacks for the events of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import EpochRecord, RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir


__all__ = ["RunCallback"]


class RunCallback:
    """Base class of callbacks: one method for each event, which does nothing unless overridden.

    The order of the calls is: `preparing` while data is read, then `started`, and `noted` for what
    the user must know. For a round that is on disk: `skipped`. For any other round: `resumed` if it
    was stopped before, `bootstrapping` if it is the first one, `epoch` after each epoch, and
    `finished`. In an ensemble, `member` comes before the rounds of the second network, and of each
    other one. After the test: `completed`. A run that was finished earlier calls only `completed`.
    The last call is `closed`, also after a failure. (A run that fails before it uses its folder,
    because of its plan or its data, does not call `closed`.)

    For each event, all callbacks of a run are called in turn. An exception in one ends the run:
    a callback that can do without its work handles its own errors, as the log and trackers do.
    """

    def preparing(self, dataset: str, cases: int) -> None:
        """Cases of a dataset have been read.

        Args:
            dataset: Name of the dataset.
            cases: Number of cases so far.
        """

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """The data is ready, and the rounds begin.

        Args:
            plan: Plan of the run.
            rundir: Folder of the run.
            device: Device that computes, such as ``cuda:0``.
        """

    def noted(self, text: str) -> None:
        """Something that the user must know and that does not stop the run, in one sentence."""

    def member(self, number: int, rundir: RunDir) -> None:
        """The events that follow are of a network of the ensemble, which has a folder of its own.

        Args:
            number: Number of the network, from 1; the first one has no such event.
            rundir: Its folder.
        """

    def bootstrapping(self, done: int, of: int) -> None:
        """Random starts have been evaluated.

        Args:
            done: Number of starts so far.
            of: Number of all starts.
        """

    def skipped(self, number: int, round: Round) -> None:
        """A round is skipped, because it is on disk already.

        Args:
            number: Number of the round, from 1.
            round: The round.
        """

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """A round continues that was stopped.

        Args:
            number: Number of the round, from 1.
            round: The round.
            epoch: The last epoch that was finished before the stop.
        """

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """An epoch is finished.

        Args:
            number: Number of the round, from 1.
            round: The round.
            record: Metrics of the epoch.
        """

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """A round is finished and on disk.

        Args:
            number: Number of the round, from 1.
            round: The round.
            result: Metrics of the epoch that it ends with.
        """

    def completed(self, rundir: RunDir) -> None:
        """The run is finished: its folder has results. Called for a run finished earlier too."""

    def closed(self, failed: bool) -> None:
        """The run has ended or failed; this is the last call."""


@contextmanager
def closing(callbacks: RunCallback) -> Iterator[None]:
    """Call `RunCallback.closed` at the end of a ``with`` block, also after an exception."""
    try:
        yield
    except BaseException:
        callbacks.closed(failed=True)
        raise
    callbacks.closed(failed=False)


class Callbacks(RunCallback):
    """Combines several callbacks into one, which calls them in order."""

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

    def noted(self, text: str) -> None:
        """Pass the event on."""
        for each in self.members:
            each.noted(text)

    def member(self, number: int, rundir: RunDir) -> None:
        """Pass the event on."""
        for each in self.members:
            each.member(number, rundir)

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
