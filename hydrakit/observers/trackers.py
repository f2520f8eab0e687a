"""Experiment trackers, which receive the metrics during a run; off by default.

A resumed run continues the record of the tracker: metrics that the tracker already has are not sent
again. Metrics of rounds that were trained without the tracker are sent when the round is skipped.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.errors import HydrakitError, PlanError, one_line
from hydrakit.hooks import Tracker, TrackerFactory, hookimpl
from hydrakit.plugins.guard import describe_error
from hydrakit.runs.callbacks import RunCallback

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import EpochRecord, RoundResult
    from hydrakit.plugins.registry import Plugins
    from hydrakit.rounds import Round
    from hydrakit.runs.context import RunContext
    from hydrakit.runs.rundir import RunDir


_log = logging.getLogger("hydrakit")


class TensorBoard:
    """TensorBoard event files, in the folder ``tensorboard`` of the run."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer_of: Any = SummaryWriter

    def open(self, folder: Path) -> dict[str, set[int]]:
        """Open the tracker; see `Tracker.open`."""
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
        """Send a value."""
        self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all values that were sent."""
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """Close the event files, which do not contain how the run ended."""
        self._writer.close()


class MLflow:
    """An MLflow run in its own SQLite file, ``mlflow/mlflow.db`` in the folder of the run."""

    def __init__(self) -> None:
        # By default MLflow sends usage data to its developers; a run must not send anything.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow: Any = import_module("mlflow")
        self._waiting: list[Any] = []

    def open(self, folder: Path) -> dict[str, set[int]]:
        """Open the tracker; see `Tracker.open`."""
        here = (folder / "mlflow").resolve()
        here.mkdir(exist_ok=True)
        self._client = self._mlflow.MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")
        existing = self._client.get_experiment_by_name("hydrakit")
        experiment = (
            existing.experiment_id
            if existing
            else self._client.create_experiment("hydrakit", (here / "files").as_uri())
        )
        runs = self._client.search_runs([experiment])
        name = folder.resolve().name
        self._run = runs[0] if runs else self._client.create_run(experiment, run_name=name)
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
        """Send a value; the values of an epoch are written together."""
        now = int(time.time() * 1000)
        self._waiting.append(self._mlflow.entities.Metric(name, value, now, step))

    def flush(self) -> None:
        """Write all values that were sent."""
        if self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting)
            self._waiting = []

    def close(self, *, failed: bool) -> None:
        """Set the status of the MLflow run."""
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")


def trackers_of(
    context: RunContext, plugins: Plugins, *, folder: Path | None = None
) -> list[RunCallback]:
    """Trackers of a context, as callbacks.

    Args:
        context: Context of the run.
        plugins: Plugins with the trackers.
        folder: Folder that the trackers open; None for the folder of the run.

    Raises:
        PluginError: No plugin offers one of the trackers.
        PlanError: The package of a tracker is not installed.
    """
    return [TrackerCallback(_build(name, plugins), folder, name=name) for name in context.trackers]


def _build(name: str, plugins: Plugins) -> Tracker:
    factory = plugins.get(TrackerFactory, name)
    try:
        tracker: Tracker = factory.build(factory.options())
    except ImportError:
        raise PlanError(
            f"--track {name}: {name} is not installed: `pip install 'hydrakit-imaging[{name}]'`"
        ) from None
    return tracker


class TrackerCallback(RunCallback):
    """Sends the metrics of every epoch to a tracker.

    A tracker that fails after it was opened does not stop the run: it gets nothing more, and one
    line at the end says so.

    Args:
        tracker: Tracker that receives the metrics.
        folder: Folder that the tracker opens; None for the folder of the run.
        name: Name of the tracker, for messages.
    """

    def __init__(self, tracker: Tracker, folder: Path | None = None, *, name: str = "") -> None:
        self.tracker = tracker
        self.folder = folder
        self.name = name
        self.rundir: RunDir | None = None
        self.failure: str | None = None
        self.sent: dict[str, set[int]] = {}
        self.epochs_before = 0  # epochs of all earlier rounds
        self.prefix = ""  # of all names: the network of an ensemble

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Open the tracker in its folder."""
        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)
        self.sent = self.tracker.open(self.folder or rundir.path)
        self.rundir = rundir

    def member(self, number: int, rundir: RunDir) -> None:
        """Name the network of the ensemble in the values that follow."""
        self.rundir, self.prefix, self.epochs_before = rundir, f"network-{number}/", 0

    def skipped(self, number: int, round: Round) -> None:
        """Send the epochs of a round that was trained without this tracker."""
        self._finish_round(number, round)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Send the metrics and flush them: the run may be killed before the next epoch."""
        self._send_records(number, round, [record])

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Send the epochs that ran without this tracker."""
        self._finish_round(number, round)

    def completed(self, rundir: RunDir) -> None:
        """Send the test figures, unless the run was finished before and never opened the tracker.

        In an ensemble they are those of the mean prediction.
        """
        results = rundir.results()
        if self.rundir is None or self.failure is not None or results is None:
            return
        if results.test is None:  # a model trained on all cases
            return
        self.prefix = ""
        with self._without_stopping():
            for key, value in results.test.figures.model_dump(exclude_none=True).items():
                self._send(f"test {key}", value, 0)
            self.tracker.flush()

    def closed(self, failed: bool) -> None:
        """Close the tracker, unless the run was finished before and never opened it."""
        if self.rundir is None:
            return
        with self._without_stopping():
            self.tracker.close(failed=failed)
        if self.failure is not None:
            print(f"hydrakit: {self.failure}", file=sys.stderr)

    @contextmanager
    def _without_stopping(self) -> Iterator[None]:
        """Store and log the first failure of the tracker in a ``with`` block."""
        try:
            yield
        except Exception as error:
            if self.failure is None:
                why = str(error) if isinstance(error, HydrakitError) else describe_error(error)
                self.failure = (
                    f"tracker {self.name!r} failed, and the run went on without it: {one_line(why)}"
                )
                _log.warning("tracker %r failed: the run goes on without it", self.name)

    def _send_records(self, number: int, round: Round, records: Sequence[EpochRecord]) -> None:
        """Send epochs and flush them, unless the tracker has failed."""
        if self.failure is None:
            with self._without_stopping():
                for record in records:
                    self._send_all(number, round, record)
                self.tracker.flush()

    def _send_all(self, number: int, round: Round, record: EpochRecord) -> None:
        name = f"{number:02d}-{round.dataset}-{round.train}"
        for split, metrics in (("train", record.train), ("val", record.val)):
            for key, value in metrics.model_dump(exclude_none=True).items():
                self._send(f"{name}/{split} {key}", value, record.epoch)
        if record.reference_auc is not None:
            # Numbered over all epochs of the run.
            self._send("reference AUC", record.reference_auc, self.epochs_before + record.epoch)

    def _send(self, name: str, value: float, step: int) -> None:
        name = f"{self.prefix}{name}"
        steps = self.sent.setdefault(name, set())
        if step not in steps:  # an epoch that is trained again has the same values
            self.tracker.send(name, value, step)
            steps.add(step)

    def _finish_round(self, number: int, round: Round) -> None:
        """Send the epochs that the tracker does not have yet, and count them."""
        assert self.rundir is not None
        epochs = self.rundir.epochs(number, round)
        self._send_records(number, round, epochs)
        self.epochs_before += epochs[-1].epoch


@hookimpl
def hydrakit_trackers() -> Iterator[TrackerFactory]:
    """Offer the trackers `tensorboard` and `mlflow`."""
    yield TrackerFactory(
        name="tensorboard",
        summary="TensorBoard event files in the run's folder (extra `tensorboard`)",
        build=lambda _: TensorBoard(),
    )
    yield TrackerFactory(
        name="mlflow",
        summary="An MLflow store in the run's folder (extra `mlflow`)",
        build=lambda _: MLflow(),
    )
