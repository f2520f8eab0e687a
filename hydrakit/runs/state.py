"""A round under way: what of it lies in its ``.part`` folder, so that it goes on after any stop."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from hydrakit.compute import signals
from hydrakit.errors import WeightsError
from hydrakit.plan.results import Bootstrap, WeightChange
from hydrakit.runs.rundir import CHECKPOINT
from hydrakit.runs.trace import Trace
from hydrakit.storage.files import write_atomic
from hydrakit.training.bootstrap import StartScores
from hydrakit.training.checkpoint import Checkpointer, read_facts

STARTS = "bootstrap.json"


@dataclass
class RoundState:
    """What is known of a round while it is trained.

    Attributes:
        folder: Where it is kept.
        every: Seconds between two writings.
        keeper: Of the epochs.
        bootstrap: Which random start the first round began with.
        moved: What the round changed.
        trace: Of the test split, where that was asked for.
    """

    folder: Path
    every: float
    keeper: Checkpointer = field(init=False)
    bootstrap: Bootstrap | None = None
    moved: WeightChange | None = None
    trace: Trace | None = None
    _seen: StartScores | None = None
    _wrote: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Begin to count the time."""
        self.keeper = Checkpointer(self.folder / CHECKPOINT, every=self.every)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """The round trains; however the block ends, its last epoch is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            # The disk may be what failed: the last checkpoint is whole, and the failure is told.
            with suppress(OSError):
                self._keep()
            raise

    def _keep(self) -> None:
        self._write_starts()
        self.keeper.write()

    @property
    def epoch(self) -> int:
        """The last epoch that is over, by the checkpoint; 0 where there is none.

        Raises:
            WeightsError: It is damaged.
        """
        path = self.folder / CHECKPOINT
        return read_facts(path).epoch if path.is_file() else 0

    def looked(self) -> StartScores | None:
        """What was seen of random starts before a stop.

        Raises:
            WeightsError: The file is damaged.
        """
        path = self.folder / STARTS
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_bytes())
            if found["digest"] != _digest(found["looked"]):
                raise ValueError
            return StartScores.model_validate(found["looked"], strict=False)
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
            raise WeightsError(
                f"{path}: was changed or damaged: delete it, and the random starts are looked at "
                "anew"
            ) from None

    def look(self, looked: StartScores) -> None:
        """Another start was looked at.

        Raises:
            OSError: It cannot be written.
        """
        self._seen = looked
        signals.check()
        if time.monotonic() - self._wrote >= self.every:
            self._write_starts()

    def _write_starts(self) -> None:
        if self._seen is None:
            return
        looked = self._seen.model_dump(mode="json")
        text = json.dumps({"digest": _digest(looked), "looked": looked})
        write_atomic(self.folder / STARTS, text.encode())
        self._seen, self._wrote = None, time.monotonic()


def _digest(looked: object) -> str:
    return hashlib.sha256(json.dumps(looked, sort_keys=True).encode()).hexdigest()
