"""Experiment trackers, which receive the metrics during a run; off by default.

A resumed run continues the record of the tracker: metrics that the tracker already has are not sent
again. Metrics of rounds that were trained without the tracker are sent when the round is skipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrakit.errors import HydrakitError, PlanError, one_line
from hydrakit.hooks import TrackedRun, Tracker, TrackerFactory, hookimpl
from hydrakit.plugins.guard import describe_error
from hydrakit.plugins.options import option_fields, parse_options
from hydrakit.runs.callbacks import RunCallback
from hydrakit.storage.paths import SQLITE, absolute_store

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import EpochRecord, RoundResult
    from hydrakit.plugins.registry import Plugins
    from hydrakit.rounds import Round
    from hydrakit.runs.context import RunContext
    from hydrakit.runs.rundir import RunDir


_log = logging.getLogger("hydrakit")

MLFLOW_BATCH = 1000  # the most metrics that MLflow takes at once
PARAMETER_LENGTH = 500  # characters; MLflow's limit is 6000, and was 500 in earlier versions
LOCK_SECONDS = 120.0  # of waiting for other processes that use the same SQLite store


@dataclass(frozen=True)
class TensorBoardOptions:
    """Options of the tracker `tensorboard`."""

    to: str = field(default="", metadata={"help": "Folder of all runs; empty: the run's folder"})


class TensorBoard:
    """TensorBoard event files: in the folder ``tensorboard`` of the run, or in one of all runs.

    Args:
        options: Options of the tracker.

    Raises:
        PlanError: TensorBoard is not installed, or ``to`` is not a folder.
    """

    def __init__(self, options: TensorBoardOptions) -> None:
        self._writer_of = _installed("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._to = _folder_of(options.to, "tensorboard") if options.to else None
        self._run: TrackedRun | None = None

    def describe(self, run: TrackedRun) -> None:
        """Store the description of the run."""
        self._run = run

    def open(self, folder: Path) -> dict[str, set[int]]:
        """Open the tracker; see `Tracker.open`."""
        event_accumulator: Any = import_module(
            "tensorboard.backend.event_processing.event_accumulator"
        )
        run, here = self._run, folder / "tensorboard"
        assert run is not None
        if self._to is not None:
            here = self._to / (run.group or "") / f"{run.name}-{run.key[:8]}"
        before: Any = event_accumulator.EventAccumulator(
            str(here), {event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 1}
        )
        if here.is_dir():
            before.Reload()
        names, texts = before.Tags()["scalars"], before.Tags()["tensors"]
        self._writer = self._writer_of(log_dir=str(here))
        if "parameters/text_summary" not in texts:
            rows = [f"| {name} | {value} |" for name, value in run.parameters.items()]
            self._writer.add_text("parameters", "\n".join(["| | |", "|---|---|", *rows]))
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


@dataclass(frozen=True)
class MLflowOptions:
    """Options of the tracker `mlflow`."""

    to: str = field(
        default="",
        metadata={
            "help": "Folder of mlflow.db, or a tracking URI; empty: MLflow's own tracking URI if "
            "one is set, else the working folder"
        },
    )


class MLflow:
    """A run in an MLflow store.

    A run of a comparison belongs to the experiment with the name of the comparison, any other run
    to ``hydrakit``. The tag ``hydrakit.run`` finds a resumed run again. One process at a time uses
    an SQLite store: cells that begin together would all create its tables.

    Args:
        options: Options of the tracker.

    Raises:
        PlanError: MLflow is not installed, or ``to`` is a file.
    """

    def __init__(self, options: MLflowOptions) -> None:
        # By default MLflow sends usage data to its developers; a run must not send anything.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # By default MLflow waits for minutes for a server that does not answer.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self._mlflow = _installed("mlflow", "mlflow")
        self._uri = self._chosen(options.to)
        file = self._uri.removeprefix(SQLITE).split("?")[0]
        self._file = Path(file) if self._uri.startswith(SQLITE) else None
        self._waiting: list[Any] = []
        self._run: TrackedRun | None = None
        self._id = ""

    def _chosen(self, to: str) -> str:
        """URI of the store."""
        if not to and self._mlflow.is_tracking_uri_set():
            uri: str = self._mlflow.get_tracking_uri()
            return uri
        return to if "://" in to else f"{SQLITE}{_folder_of(to, 'mlflow') / 'mlflow.db'}"

    def describe(self, run: TrackedRun) -> None:
        """Store the description of the run."""
        self._run = run

    def open(self, folder: Path) -> dict[str, set[int]]:
        """Open the tracker; see `Tracker.open`."""
        run = self._run
        assert run is not None
        with self._alone():
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
            experiment = self._experiment(run.group or "hydrakit")
            tag = "hydrakit.run"
            found = self._client.search_runs([experiment], f"tags.`{tag}` = '{run.key}'")
            here = (
                found[0]
                if found
                else self._client.create_run(
                    experiment,
                    run_name=run.name,
                    tags={tag: run.key, "hydrakit.folder": str(run.folder)},
                )
            )
            self._id = here.info.run_id
            self._client.update_run(self._id, status="RUNNING")
            parameters = [
                self._mlflow.entities.Param(name, value)
                for name, value in run.parameters.items()
                if name not in here.data.params
            ]
            if parameters:
                self._client.log_batch(self._id, params=parameters)
            return {
                name: {each.step for each in self._client.get_metric_history(self._id, name)}
                for name in here.data.metrics
            }

    def _experiment(self, name: str) -> str:
        """Id of the experiment, which is created unless it exists."""
        existing = self._client.get_experiment_by_name(name)
        if existing is None:
            files = self._file and (self._file.parent / "mlartifacts" / name).as_uri()
            try:
                created: str = self._client.create_experiment(name, files)
                return created
            except self._mlflow.exceptions.MlflowException:
                # Another process may have created it on a server, which is not locked.
                existing = self._client.get_experiment_by_name(name)
                if existing is None:
                    raise
        found: str = existing.experiment_id
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock an SQLite store within a ``with`` block."""
        if self._file is None:
            yield
            return
        from filelock import FileLock

        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock", timeout=LOCK_SECONDS):
            yield

    def send(self, name: str, value: float, step: int) -> None:
        """Send a value; the values of an epoch are written together."""
        now = int(time.time() * 1000)
        self._waiting.append(self._mlflow.entities.Metric(name, value, now, step))

    def flush(self) -> None:
        """Write all values that were sent."""
        with self._alone():
            while self._waiting:
                self._client.log_batch(self._id, metrics=self._waiting[:MLFLOW_BATCH])
                del self._waiting[:MLFLOW_BATCH]

    def attach(self, path: Path) -> None:
        """Copy a file to the files of the MLflow run."""
        self._client.log_artifact(self._id, str(path))

    def close(self, *, failed: bool) -> None:
        """Set the status of the MLflow run."""
        with self._alone():
            self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")


def _installed(module: str, tracker: str) -> Any:
    """Import the package of a tracker."""
    try:
        return import_module(module)
    except ImportError:
        raise PlanError(
            f"--track {tracker}: {tracker} is not installed: "
            f"`pip install 'hydrakit-imaging[{tracker}]'`"
        ) from None


def _folder_of(to: str, tracker: str) -> Path:
    """The folder of a store; an empty text is the working folder."""
    folder = Path(to).resolve()
    if "://" in to or folder.is_file():
        hint = f", or {SQLITE}FILE" if tracker == "mlflow" else ""
        raise PlanError(f"--track-to {to}: is not a folder: give {tracker} a folder{hint}")
    return folder


def parameters_of(plan: Plan) -> dict[str, str]:
    """The main values of a plan for trackers, as short texts.

    A value that differs between the rounds is listed for each round.
    """
    target = plan.dataset(plan.target).split
    body = plan.body
    values: dict[str, object] = {
        "plan": plan.digest(),
        "strategy": plan.strategy,
        "profile": plan.profile,
        "target": plan.target,
        "datasets": ", ".join(each.name for each in plan.datasets),
        "split": target.model_dump(mode="json"),
        "body": body.name,
        "body options": body.options,
        "begins with weights": plan.body_weights is not None,
        "head": "; ".join(
            [str(plan.head), *(f"{name}: {head}" for name, head in plan.heads.items())]
        ),
        "ensemble": plan.ensemble,
        "test views": plan.test_views,
        "bootstrap": plan.bootstrap,
        "seed": plan.seed,
        "split seed": plan.effective_split_seed,
        "rounds": len(plan.rounds),
    }
    for name in type(plan.rounds[0].hyperparameters).model_fields:
        of_rounds = [_text(getattr(each.hyperparameters, name)) for each in plan.rounds]
        same = len(set(of_rounds)) == 1
        values[name.replace("_", " ")] = of_rounds[0] if same else ", ".join(of_rounds)
    return {name: one_line(_text(value), PARAMETER_LENGTH - 3) for name, value in values.items()}


def _text(value: object) -> str:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return value if isinstance(value, str) else json.dumps(value)


def trackers_of(
    context: RunContext,
    plugins: Plugins,
    *,
    folder: Path | None = None,
    group: str | None = None,
) -> list[RunCallback]:
    """Trackers of a context, as callbacks.

    Args:
        context: Context of the run.
        plugins: Plugins with the trackers.
        folder: Folder that the trackers open; None for the folder of the run.
        group: Name of the comparison or the search that the run is a part of.

    Raises:
        PluginError: No plugin offers one of the trackers.
        PlanError: The package of a tracker is not installed, or the store cannot be used.
    """
    factories = [plugins.get(TrackerFactory, name) for name in context.trackers]
    to = context.track_to and absolute_store(context.track_to)
    with_store = {
        each.name
        for each in factories
        if any(option.name == "to" for option in option_fields(each.options))
    }
    if to and not with_store:
        names = ", ".join(context.trackers)
        why = f"{names} has no option 'to'" if names else "there is no tracker: add --track NAME"
        raise PlanError(f"--track-to {context.track_to}: {why}")
    return [
        TrackerCallback(
            each.build(parse_options(each, {"to": to} if to and each.name in with_store else {})),
            folder,
            name=each.name,
            group=group,
        )
        for each in factories
    ]


class TrackerCallback(RunCallback):
    """Sends the metrics of every epoch to a tracker.

    A tracker that fails does not stop the run: it gets nothing more, and one line at the end says
    so.

    Args:
        tracker: Tracker that receives the metrics.
        folder: Folder that the tracker opens; None for the folder of the run.
        name: Name of the tracker, for messages.
        group: Name of the comparison or the search that the run is a part of.
    """

    def __init__(
        self,
        tracker: Tracker,
        folder: Path | None = None,
        *,
        name: str = "",
        group: str | None = None,
    ) -> None:
        self.tracker = tracker
        self.folder = folder
        self.name = name
        self.group = group
        self.rundir: RunDir | None = None
        self.opened = False
        self.report: Path | None = None  # of the finished run
        self.failure: str | None = None
        self.sent: dict[str, set[int]] = {}
        self.epochs_before = 0  # epochs of all earlier rounds
        self.prefix = ""  # of all names: the network of an ensemble

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Open the tracker in its folder."""
        self.rundir = rundir
        folder = self.folder or rundir.path
        with self._without_stopping():
            folder.mkdir(exist_ok=True)
            if describe := getattr(self.tracker, "describe", None):
                describe(_tracked(plan, rundir, folder.resolve(), self.group))
            self.sent = self.tracker.open(folder)
            self.opened = True

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
        self.report = rundir.report_path
        if results.test is None:  # a model trained on all cases
            return
        self.prefix = ""
        with self._without_stopping():
            for key, value in results.test.figures.model_dump(exclude_none=True).items():
                self._send(f"test {key}", value, 0)
            self.tracker.flush()

    def closed(self, failed: bool) -> None:
        """Attach the report and close the tracker, unless it was never opened."""
        attach = getattr(self.tracker, "attach", None)
        if attach and self.report and self.report.is_file() and not (failed or self.failure):
            with self._without_stopping():
                attach(self.report)
        if self.opened:
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


def _tracked(plan: Plan, rundir: RunDir, folder: Path, group: str | None) -> TrackedRun:
    """Description of a run for its trackers, which open ``folder``."""
    begun = rundir.events()[:1]  # tells a new run in the same folder from a resumed one
    identity = [str(folder), plan.digest(), *(str(each.time) for each in begun)]
    return TrackedRun(
        key=hashlib.sha256("\n".join(identity).encode()).hexdigest(),
        name=folder.name,
        folder=folder,
        group=group,
        parameters=parameters_of(plan),
    )


@hookimpl
def hydrakit_trackers() -> Iterator[TrackerFactory]:
    """Offer the trackers `tensorboard` and `mlflow`."""
    yield TrackerFactory(
        name="tensorboard",
        summary="TensorBoard event files, by default in the run's folder (extra `tensorboard`)",
        build=TensorBoard,
        options=TensorBoardOptions,
    )
    yield TrackerFactory(
        name="mlflow",
        summary="One MLflow store for all runs (extra `mlflow`)",
        build=MLflow,
        options=MLflowOptions,
    )
