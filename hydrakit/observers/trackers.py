"""Sending figures to TensorBoard or MLflow while a run goes on: extras, never on by default.

A run that goes on after a stop goes on in the same place: what a tracker has already is not sent
again, and what was trained without it is sent when its round is passed over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from hydrakit.errors import PlanError
from hydrakit.plan.results import EpochRecord, RoundResult
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir


class Tracker(Protocol):
    """Where figures go."""

    def open(self, folder: Path) -> dict[str, set[int]]:
        """Begin, or go on, in a run's folder; gives the steps of every figure that it has."""

    def send(self, name: str, value: float, step: int) -> None:
        """A figure."""

    def flush(self) -> None:
        """Make safe what was sent."""

    def close(self, *, failed: bool) -> None:
        """The run is over, or has failed."""


class TensorBoard:
    """Event files in the run's folder ``tensorboard``."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer_of: Any = SummaryWriter

    def open(self, folder: Path) -> dict[str, set[int]]:
        """As `Tracker`, like all that follow."""
        event_accumulator: Any = import_module(
            "tensorboard.backend.event_processing.event_accumulator"
        )
        here = str(folder / "tensorboard")
        before: Any = event_accumulator.EventAccumulator(here, {event_accumulator.SCALARS: 0})
        if Path(here).is_dir():
            before.Reload()
        names = before.Tags()["scalars"]
        self._writer = self._writer_of(log_dir=here)
        return {name: {each.step for each in before.Scalars(name)} for name in names}

    def send(self, name: str, value: float, step: int) -> None:
        """A figure."""
        self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Make safe what was sent."""
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """The run is over; event files do not tell how."""
        self._writer.close()


class MLflow:
    """One run in a SQLite store of its own, ``mlflow/mlflow.db`` in the run's folder."""

    def __init__(self) -> None:
        # It reports its use to its makers unless told otherwise: a run sends nothing anywhere.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow: Any = import_module("mlflow")
        self._waiting: list[Any] = []

    def open(self, folder: Path) -> dict[str, set[int]]:
        """As `Tracker`, like all that follow."""
        here = (folder / "mlflow").resolve()
        here.mkdir(exist_ok=True)
        self._client = self._mlflow.MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")
        found = self._client.get_experiment_by_name("hydrakit")
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment("hydrakit", (here / "files").as_uri())
        )
        begun = self._client.search_runs([experiment])
        name = folder.resolve().name
        self._run = begun[0] if begun else self._client.create_run(experiment, run_name=name)
        self._client.update_run(self._id, status="RUNNING")
        return {
            name: {each.step for each in self._client.get_metric_history(self._id, name)}
            for name in self._run.data.metrics
        }

    @property
    def _id(self) -> str:
        name: str = self._run.info.run_id
        return name

    def send(self, name: str, value: float, step: int) -> None:
        """A figure; those of an epoch go together."""
        now = int(time.time() * 1000)
        self._waiting.append(self._mlflow.entities.Metric(name, value, now, step))

    def flush(self) -> None:
        """Make safe what was sent."""
        if self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting)
            self._waiting = []

    def close(self, *, failed: bool) -> None:
        """The run is over, or has failed."""
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


@contextmanager
def tracking(watcher: RunCallback | None, kind: str | None) -> Iterator[RunCallback | None]:
    """A watcher that tells a tracker too, for a ``with`` block; the same one where none is asked.

    Fails before anything is trained where the tracker is not installed.

    Args:
        watcher: Who is told as well.
        kind: One of `TRACKERS`, or None.

    Raises:
        PlanError: The tracker's package is missing.
    """
    if kind is None or watcher is None:
        yield watcher
        return
    try:
        tracker = TRACKERS[kind]()
    except ImportError:
        raise PlanError(
            f"--track {kind}: {kind} is not installed: `pip install 'hydrakit-imaging[{kind}]'`"
        ) from None
    tracked = Tracked(watcher, tracker)
    try:
        yield tracked
    except BaseException:
        tracked.close(failed=True)
        raise
    tracked.close(failed=False)


class Tracked(RunCallback):
    """Tells another watcher everything, and a tracker the figures of every epoch."""

    def __init__(self, watcher: RunCallback, tracker: Tracker) -> None:
        self.watcher = watcher
        self.tracker = tracker
        self.rundir: RunDir | None = None
        self.sent: dict[str, set[int]] = {}
        self.before = 0  # epochs of the rounds before this one

    def preparing(self, dataset: str, cases: int) -> None:
        """As `RunCallback`, like all that follow."""
        self.watcher.preparing(dataset, cases)

    def started(self, rundir: RunDir, device: str) -> None:
        """The tracker's files lie in the run's folder."""
        self.watcher.started(rundir, device)
        self.sent = self.tracker.open(rundir.path)
        self.rundir = rundir

    def bootstrapping(self, done: int, of: int) -> None:
        """No figure to send."""
        self.watcher.bootstrapping(done, of)

    def skipped(self, number: int, round: Round) -> None:
        """Its figures were sent when it ran, unless it ran without this tracker."""
        self.watcher.skipped(number, round)
        self._round_over(number, round)

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """Epochs that ran without this tracker are sent when the round is over."""
        self.watcher.resumed(number, round, epoch)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Send the figures, and make them safe: the run may be killed before the next."""
        self.watcher.epoch(number, round, record)
        self._send_all(number, round, record)
        self.tracker.flush()

    def _send_all(self, number: int, round: Round, record: EpochRecord) -> None:
        name = f"{number:02d}-{round.dataset}-{round.train}"
        for split, figures in (("train", record.train), ("val", record.val)):
            for key, value in figures.model_dump(exclude_none=True).items():
                self._send(f"{name}/{split} {key}", value, record.epoch)
        if record.reference_auc is not None:
            # Over all epochs of the run in order.
            self._send("reference AUC", record.reference_auc, self.before + record.epoch)

    def _send(self, name: str, value: float, step: int) -> None:
        steps = self.sent.setdefault(name, set())
        if step not in steps:  # else an epoch that is trained again, to the same bits
            self.tracker.send(name, value, step)
            steps.add(step)

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """All its figures are there."""
        self.watcher.finished(number, round, result)
        self._round_over(number, round)

    def _round_over(self, number: int, round: Round) -> None:
        """Send what the tracker does not have; the next round's epochs come after these."""
        assert self.rundir is not None
        epochs = self.rundir.epochs(number, round)
        for record in epochs:
            self._send_all(number, round, record)
        self.tracker.flush()
        self.before += epochs[-1].epoch

    def close(self, *, failed: bool) -> None:
        """The run is over, or has failed; one that was finished before was never begun."""
        if self.rundir is not None:
            self.tracker.close(failed=failed)
