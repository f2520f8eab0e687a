"""Progress of the round that is being trained, in its ``.part`` folder, for resuming."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hydrakit.compute import signals
from hydrakit.errors import DataError, PlanError, WeightsError
from hydrakit.plan.results import Bootstrap, WeightChange
from hydrakit.runs.rundir import CHECKPOINT
from hydrakit.runs.trace import Trace
from hydrakit.storage.files import read_json, write_atomic
from hydrakit.training.bootstrap import StartScores
from hydrakit.training.checkpoint import Checkpointer, read_facts

STARTS = "bootstrap.json"


@dataclass
class RoundState:
    """State of a round during training.

    Attributes:
        folder: Folder of the round's progress.
        interval: Seconds between two writings.
        plan: Digest of the plan.
        data: Digest of the data (`hydrakit.data.origin.origins_digest`).
        checkpointer: Stores the progress of the epochs.
        bootstrap: Random start that was chosen, in the first round.
        weight_change: How much the round changed the body, after training.
        trace: Test metrics of every epoch, if they were requested.
    """

    folder: Path
    interval: float
    plan: str
    data: str
    checkpointer: Checkpointer = field(init=False)
    bootstrap: Bootstrap | None = None
    weight_change: WeightChange | None = None
    trace: Trace | None = None
    _unwritten: StartScores | None = None
    _last_write: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Create the checkpointer, which starts to measure the training time."""
        self.checkpointer = Checkpointer(
            self.folder / CHECKPOINT, interval=self.interval, plan=self.plan, data=self.data
        )

    def check(self) -> None:
        """Check that the stored progress, if any, is that of this plan and this data.

        Progress that an older version stored does not say it, and is used.

        Raises:
            PlanError: The plan was changed after the round began.
            DataError: The data was changed after the round began.
            WeightsError: A file is damaged.
        """
        stored: list[tuple[Path, str | None, str | None]] = []
        path = self.folder / CHECKPOINT
        if path.is_file():
            facts = read_facts(path)
            stored.append((path, facts.plan, facts.data))
        path = self.folder / STARTS
        if path.is_file():
            content = self._read_starts(path)
            stored.append((path, content.get("plan"), content.get("data")))
        for path, plan, data in stored:
            if plan not in (None, self.plan):
                raise PlanError(
                    f"{self.folder.parent.parent / 'plan.json'}: was changed after {path} was "
                    "written: restore it, or run the changed plan in another folder: `hydrakit run "
                    "--plan FILE`"
                )
            if data not in (None, self.data):
                raise DataError(
                    f"{path}: was computed from other data: restore the data, or start a new run "
                    "with another `--out`"
                )

    @property
    def epoch(self) -> int:
        """Last finished epoch in the checkpoint; 0 if there is no checkpoint.

        Raises:
            WeightsError: The checkpoint is damaged.
        """
        path = self.folder / CHECKPOINT
        return read_facts(path).epoch if path.is_file() else 0

    @contextmanager
    def saved_on_failure(self) -> Iterator[None]:
        """Write the latest progress to disk if a ``with`` block is stopped or fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            # The cause may be a full disk: earlier files stay valid, and the first error counts.
            with suppress(OSError):
                self._write_start_scores()
                self.checkpointer.write()
            raise

    def read_start_scores(self) -> StartScores | None:
        """Scores of random starts that were evaluated before a stop.

        Raises:
            WeightsError: The file is damaged.
        """
        path = self.folder / STARTS
        if not path.is_file():
            return None
        try:
            return StartScores.model_validate(self._read_starts(path)["looked"], strict=False)
        except ValidationError:
            raise _damaged_starts(path) from None

    def _read_starts(self, path: Path) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(read_json(path))
            if content["digest"] != _digest(content["looked"]):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise _damaged_starts(path) from None
        return content

    def save_start_scores(self, scores: StartScores) -> None:
        """Store the scores so far, on disk if the interval has passed.

        Raises:
            OSError: The file cannot be written.
        """
        self._unwritten = scores
        signals.check()
        if time.monotonic() - self._last_write >= self.interval:
            self._write_start_scores()

    def _write_start_scores(self) -> None:
        if self._unwritten is None:
            return
        scores = self._unwritten.model_dump(mode="json")
        content = {"plan": self.plan, "data": self.data, "looked": scores}
        text = json.dumps({"digest": _digest(scores), **content})
        write_atomic(self.folder / STARTS, text.encode())
        self._unwritten, self._last_write = None, time.monotonic()


def _damaged_starts(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: was changed or is damaged: delete it, and run again to evaluate all random "
        "starts again"
    )


def _digest(scores: object) -> str:
    return hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest()
