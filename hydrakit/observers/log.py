"""A run's ``log.txt``: what is told on the terminal, warnings, and where failures arose.

It may be sent to someone else, so that nothing of a patient or a case is in it. Text that can come
from data is left out: the messages of warnings and of exceptions that are not hydrakit's own, and
what modules that handle files say of them. Their kind and their place in the code are kept.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from hydrakit.errors import DataError, HydrakitError, PluginError
from hydrakit.runs.callbacks import RunCallback
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import DataFacts, EpochRecord, RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir

FILE = "log.txt"
SIZE = 1_000_000  # bytes of a file
OLDER = 2  # files that are kept besides
LEFT_OUT = "(its message is not kept here)"
BEGINNING = 20  # characters by which an exception's message is found in a line

_log = logging.getLogger("hydrakit")


class RunLog(RunCallback):
    """Writes ``log.txt`` in a run's folder, for a ``with`` block.

    The file is made with its first line: a run with nothing left to do has none.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: Plan | None = None

    def __enter__(self) -> Self:
        """Begin to write."""
        self._handler = _Handler(self.folder / FILE)
        self._before = _log.level, warnings.showwarning
        show = warnings.showwarning

        def show_and_note(  # noqa: PLR0917 - as `warnings.showwarning`
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            _log.warning("%s at %s:%d %s", category.__name__, filename, lineno, LEFT_OUT)
            show(message, category, filename, lineno, file, line)

        _log.addHandler(self._handler)
        _log.setLevel(logging.INFO)
        warnings.showwarning = show_and_note
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write how the block ended."""
        try:
            if isinstance(error, KeyboardInterrupt):
                _log.info("%s", str(error) or "stopped")
            elif error is not None:
                info = (type(error), error, error.__traceback__)
                text = f"failed: {_told(error)}"
                # To the file alone: the caller reports the error with its message.
                record = _log.makeRecord(_log.name, logging.ERROR, __file__, 0, text, (), info)
                self._handler.handle(record)
        finally:
            level, warnings.showwarning = self._before
            _log.setLevel(level)
            _log.removeHandler(self._handler)
            self._handler.close()

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Write who runs what, and on which data."""
        self.plan = plan
        _log.info(
            "hydrakit %s, process %d: %s, target %s, %d rounds on %s",
            *(version(), os.getpid(), plan.strategy, plan.target, len(plan.rounds), device),
        )
        for name, facts in (rundir.facts() or {}).items():
            for line in data_lines(name, facts):
                _log.info("%s", line)

    def bootstrapping(self, done: int, of: int) -> None:
        """Write once that all random starts have been evaluated."""
        if done == of:
            _log.info("bootstrap: %d random starts", of)

    def skipped(self, number: int, round: Round) -> None:
        """Write that a round was done before."""
        self._say(number, round, "done before")

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """Write after which epoch a round goes on."""
        self._say(number, round, f"goes on after epoch {epoch}")

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Write the metrics of an epoch."""
        self._say(number, round, f"epoch {record.epoch}, {figures(record)}")

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Write the summary of a round."""
        self._say(number, round, summary(result))

    def _say(self, number: int, round: Round, words: str) -> None:
        assert self.plan is not None
        _log.info("%s: %s", name_of(self.plan, number, round), words)


def _told(error: BaseException) -> str:
    """An exception in words that no data can have said."""
    own = isinstance(error, HydrakitError) and not isinstance(error, DataError | PluginError)
    return f"{type(error).__name__}: {error}" if own else f"{type(error).__name__} {LEFT_OUT}"


class _Handler(RotatingFileHandler):
    """Writes ``log.txt``; where that fails, the run goes on without it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=SIZE, backupCount=OLDER, encoding="utf-8", delay=True)
        self.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.failed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Loggers below this one are of modules that name files and cases."""
        return record.name == _log.name and bool(super().filter(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that nothing can be written."""
        if not self.failed:
            reason = getattr(sys.exc_info()[1], "strerror", None) or sys.exc_info()[1]
            print(f"{self.baseFilename}: cannot be written: {reason}", file=sys.stderr)
        self.failed = True


class _Formatter(logging.Formatter):
    """Lines without what an exception says."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and where the exception arose, if there is one."""
        error = record.exc_info[1] if record.exc_info else None
        text = " ".join(record.getMessage().split())
        while error is not None:
            if _told(error).endswith(LEFT_OUT):
                said = " ".join(str(error).split())[:BEGINNING]
                text = f"{text[: text.find(said)]}{LEFT_OUT}" if said and said in text else text
            error = error.__cause__ or error.__context__
        plain = logging.makeLogRecord({**record.__dict__, "msg": text, "args": None})
        plain.exc_text = None
        return super().format(plain)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Kinds of exceptions, and the frames through which they went, the cause last."""
        lines, error = [], ei[1]
        while error is not None:
            lines.append(f"{type(error).__name__} at")
            for frame in traceback.extract_tb(error.__traceback__):
                lines.append(f"  {frame.filename}:{frame.lineno} in {frame.name}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join(lines)


SPLITS = ("train", "val", "test")


def name_of(plan: Plan, number: int, round: Round) -> str:
    """How a round is called."""
    return f"round {number} of {len(plan.rounds)}, {round.dataset} {round.train}"


def data_lines(name: str, facts: DataFacts) -> Iterator[str]:
    """What a dataset gives to the run, and what of it is left out or should be known."""
    parts = [f"{facts.cases[split]} {split}" for split in SPLITS if split in facts.cases]
    out = sum(facts.excluded.values())
    parts += [f"{out} without a usable image"] if out else []
    parts += [f"{facts.dropped} copies dropped"] if facts.dropped else []
    parts += [f"{facts.withheld} withheld (in the target's test split)"] if facts.withheld else []
    parts += [f"{facts.unused} unused"] if facts.unused else []
    yield f"{name}: {', '.join(parts)}"
    strong = [each.fact for each in facts.shortcuts if each.strong]
    if out or facts.copies or strong:
        notes = [f"{facts.copies} cases are copies of others"] if facts.copies else []
        notes += [f"{', '.join(strong)} tell{'s' * (len(strong) == 1)} the class"] if strong else []
        notes += [f"see `hydrakit datasets check {name}`"]
        yield f"{name}: {'; '.join(notes)}"


def figures(record: EpochRecord) -> str:
    """An epoch's figures in a few words."""
    train, val = record.train, record.val
    kind = "R2" if val.auc is None else "AUC"
    text = f"loss {train.loss:.3f} val {val.loss:.3f}, {kind} {train.score:.3f} val {val.score:.3f}"
    if record.reference_auc is not None:
        text += f" reference {record.reference_auc:.3f}"
    return text


def summary(result: RoundResult) -> str:
    """A finished round in a few words."""
    kind = "R2" if result.val.auc is None else "AUC"
    at = f" at epoch {result.best_epoch} of {result.epochs}" if result.epochs else ""
    text = f"val {kind} {result.val.score:.3f}{at}, {duration(result.seconds)}"
    if result.bootstrap is not None and len(result.bootstrap.val_auc) > 1:
        starts = result.bootstrap.val_auc
        best = starts[result.bootstrap.chosen]
        text += f" (best of {len(starts)} random starts: {best:.3f})"
    return text


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
