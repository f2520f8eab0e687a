"""Sending figures to TensorBoard or MLflow while a run goes on: extras, never on by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydrakit.errors import PlanError
from hydrakit.plan import Round
from hydrakit.results import EpochRecord, RoundResult
from hydrakit.rundir import RunDir
from hydrakit.watch import Watcher

TRACKERS = ("tensorboard", "mlflow")


@contextmanager
def tracking(watcher: Watcher | None, kind: str | None) -> Iterator[Watcher | None]:
    """A watcher that tells a tracker too, for a ``with`` block; the same one where none is asked.

    Raises:
        PlanError: The tracker's package is missing.
    """
    if kind is None or watcher is None:
        yield watcher
        return
    tracked = Tracked(watcher, kind)
    try:
        yield tracked
    finally:
        tracked.close()


class Tracked(Watcher):
    """Tells another watcher everything, and a tracker the figures of every epoch."""

    def __init__(self, watcher: Watcher, kind: str) -> None:
        """Fails here, before anything is trained, where the tracker is not installed.

        Args:
            watcher: Who is told as well.
            kind: One of `TRACKERS`.

        Raises:
            PlanError: The tracker's package is missing.
        """
        self.watcher = watcher
        self.kind = kind
        self.writer: Any = None
        self.steps = 0
        self._open: Any
        try:
            if kind == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                self._open = SummaryWriter
            else:
                import mlflow  # type: ignore[import-not-found, unused-ignore]

                self._open = mlflow
        except ImportError:
            raise PlanError(
                f"--track {kind}: {kind} is not installed: `pip install {kind}`"
            ) from None

    def preparing(self, dataset: str, cases: int) -> None:
        """As `Watcher`, like all that follow."""
        self.watcher.preparing(dataset, cases)

    def started(self, rundir: RunDir, device: str) -> None:
        """The tracker's files lie in the run's folder."""
        self.watcher.started(rundir, device)
        self.writer = self._begin(rundir.path)

    def _begin(self, folder: Path) -> Any:
        if self.kind == "tensorboard":
            return self._open(log_dir=str(folder / "tensorboard"))
        self._open.set_tracking_uri((folder / "mlflow").resolve().as_uri())
        self._open.start_run(run_name=folder.name)
        return self._open

    def bootstrapping(self, done: int, of: int) -> None:
        """No figure to send."""
        self.watcher.bootstrapping(done, of)

    def skipped(self, number: int, round: Round) -> None:
        """Its figures were sent when it ran."""
        self.watcher.skipped(number, round)

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """The figures of these epochs were sent when they ran."""
        self.watcher.resumed(number, round, epoch)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Send the figures, over all epochs of the run in order."""
        self.watcher.epoch(number, round, record)
        self.steps += 1
        name = f"{number:02d}-{round.dataset}-{round.train}"
        for split, figures in (("train", record.train), ("val", record.val)):
            for key, value in figures.model_dump(exclude_none=True).items():
                self._send(f"{name}/{split} {key}", value, record.epoch)
        if record.reference_auc is not None:
            self._send("reference AUC", record.reference_auc, self.steps)

    def _send(self, name: str, value: float, step: int) -> None:
        if self.kind == "tensorboard":
            self.writer.add_scalar(name, value, step)
        else:
            self.writer.log_metric(name, value, step=step)

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Make safe what was sent."""
        self.watcher.finished(number, round, result)
        if self.kind == "tensorboard":
            self.writer.flush()

    def close(self) -> None:
        """The run is over, or has failed."""
        if self.writer is None:
            return
        if self.kind == "tensorboard":
            self.writer.close()
        else:
            self.writer.end_run()
