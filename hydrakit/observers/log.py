"""``log.txt`` of a run: what the terminal shows, warnings, and where failures occurred.

A user may send this file to someone else, so it must not contain anything about patients or cases.
Text that can come from data is therefore left out: messages of warnings and of foreign exceptions,
and log messages of modules that handle files. The log contains their type and their place in the
code.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from hydrakit.compute import streams
from hydrakit.errors import DataError, HydrakitError, PluginError, command_line, one_line, printable
from hydrakit.runs.callbacks import RunCallback
from hydrakit.storage.files import open_in_place
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.plan.results import DataFacts, EpochRecord, RoundResult
    from hydrakit.rounds import Round
    from hydrakit.runs.rundir import RunDir

FILE = "log.txt"
SIZE = 1_000_000  # bytes of a file
OLDER_FILES = 2
LEFT_OUT = "(message left out)"
MAX_LINE = 100_000  # characters
PREFIX = 20  # characters of an exception's message that are searched for in a line

_log = logging.getLogger("hydrakit")


class RunLog(RunCallback):
    """Writes ``log.txt`` in a run's folder, for a ``with`` block.

    The file is created with its first line: a run with nothing left to do has no file.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: Plan | None = None
        self.network = 1
        self._lost: set[str] = set()

    def __enter__(self) -> Self:
        """Start logging."""
        self._handler = _Handler(self.folder / FILE)
        self._before = _log.level, warnings.showwarning
        show = warnings.showwarning

        def show_and_log(  # noqa: PLR0917 - as `warnings.showwarning`
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
        warnings.showwarning = show_and_log
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Log how the block ended, and stop logging."""
        try:
            self._log_lost_streams()
            if isinstance(error, KeyboardInterrupt):
                _log.info("%s", str(error) or "stopped")
            elif error is not None:
                info = (type(error), error, error.__traceback__)
                text = f"failed: {_without_data(error)}"
                # To the file only: the caller reports the error with its message.
                record = _log.makeRecord(_log.name, logging.ERROR, __file__, 0, text, (), info)
                self._handler.handle(record)
        finally:
            level, warnings.showwarning = self._before
            _log.setLevel(level)
            _log.removeHandler(self._handler)
            with suppress(OSError):  # `handleError` has reported it
                self._handler.close()

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Log version, process, plan, device and data."""
        self.plan = plan
        _log.info(
            "hydrakit %s, process %d: %s, target %s, %d rounds on %s",
            *(version(), os.getpid(), plan.strategy, plan.target, len(plan.rounds), device),
        )
        for name, facts in (rundir.facts() or {}).items():
            for line in data_lines(name, facts):
                _log.info("%s", line)

    def noted(self, text: str) -> None:
        """Log the sentence."""
        _log.warning("%s", text)

    def member(self, number: int, rundir: RunDir) -> None:
        """Name the network of the ensemble in the lines that follow."""
        self.network = number

    def bootstrapping(self, done: int, of: int) -> None:
        """Log the number of random starts when all have been evaluated."""
        if done == of:
            _log.info("bootstrap: %d random starts", of)

    def skipped(self, number: int, round: Round) -> None:
        """Log that a round was finished before."""
        self._log_round(number, round, "done before")

    def resumed(self, number: int, round: Round, epoch: int) -> None:
        """Log after which epoch a round continues."""
        self._log_round(number, round, f"goes on after epoch {epoch}")

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Log the metrics of an epoch."""
        self._log_round(number, round, f"epoch {record.epoch}, {epoch_text(record)}")

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Log the summary of a round."""
        self._log_round(number, round, summary(result))

    def _log_lost_streams(self) -> None:
        """Log that standard output or error cannot be written any more, which stops nothing."""
        for name in streams.failures.keys() - self._lost:
            reason = getattr(streams.failures[name], "strerror", None) or "it is closed"
            _log.warning("%s cannot be written (%s): the run goes on without it", name, reason)
            self._lost.add(name)

    def _log_round(self, number: int, round: Round, text: str) -> None:
        assert self.plan is not None
        self._log_lost_streams()
        _log.info("%s: %s", name_of(self.plan, number, round, network=self.network), text)


def _without_data(error: BaseException) -> str:
    """Description of an exception without text that can come from data."""
    own = isinstance(error, HydrakitError) and not isinstance(error, DataError | PluginError)
    return f"{type(error).__name__}: {error}" if own else f"{type(error).__name__} {LEFT_OUT}"


class _Handler(RotatingFileHandler):
    """Writes ``log.txt``; if that fails, the run continues without it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=SIZE, backupCount=OLDER_FILES, encoding="utf-8", delay=True)
        self.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.failed = False

    def _open(self) -> TextIOWrapper:
        """Open the file, unless it has become a link."""
        return open(
            self.baseFilename,
            "a",
            encoding="utf-8",
            errors="backslashreplace",
            opener=open_in_place,
        )

    def filter(self, record: logging.LogRecord) -> bool:
        """Reject child loggers: their modules name files and cases."""
        return record.name == _log.name and bool(super().filter(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """Report once that the file cannot be written."""
        if not self.failed:
            reason = getattr(sys.exc_info()[1], "strerror", None) or sys.exc_info()[1]
            line = printable(f"{self.baseFilename}: cannot be written: {reason}")
            with suppress(OSError, ValueError):  # standard error may be lost, too
                print(line, file=sys.stderr)
        self.failed = True


class _Formatter(logging.Formatter):
    """Formats records without messages of foreign exceptions."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the line, and the place of the exception if there is one."""
        error = record.exc_info[1] if record.exc_info else None
        text = one_line(record.getMessage(), MAX_LINE)
        while error is not None:
            if _without_data(error).endswith(LEFT_OUT):
                start = one_line(str(error))[:PREFIX]
                text = f"{text[: text.find(start)]}{LEFT_OUT}" if start and start in text else text
            error = error.__cause__ or error.__context__
        plain = logging.makeLogRecord({**record.__dict__, "msg": text, "args": None})
        plain.exc_text = None
        return super().format(plain)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Types and stack frames of an exception and its causes, the first cause last."""
        lines, error = [], ei[1]
        while error is not None:
            lines.append(f"{type(error).__name__} at")
            for frame in traceback.extract_tb(error.__traceback__):
                lines.append(printable(f"  {frame.filename}:{frame.lineno} in {frame.name}"))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join(lines)


SPLITS = ("train", "val", "test")


def name_of(plan: Plan, number: int, round: Round, *, network: int = 1) -> str:
    """Name of a round in messages, with the number of its network if there are several."""
    name = f"round {number} of {len(plan.rounds)}, {round.dataset} {round.train}"
    return f"network {network} of {plan.ensemble}, {name}" if plan.ensemble > 1 else name


def data_lines(name: str, facts: DataFacts) -> Iterator[str]:
    """Lines about a dataset: its numbers of cases, and warnings."""
    parts = [f"{facts.cases[split]} {split}" for split in SPLITS if split in facts.cases]
    out = sum(facts.excluded.values())
    parts += [f"{out} without a usable image"] if out else []
    parts += [f"{facts.dropped} duplicates dropped"] if facts.dropped else []
    parts += [f"{facts.withheld} withheld (in the target's test split)"] if facts.withheld else []
    parts += [f"{facts.unused} unused"] if facts.unused else []
    yield f"{name}: {', '.join(parts)}"
    strong = [each.fact for each in facts.shortcuts if each.strong]
    if out or facts.copies or facts.conflicting or strong:
        notes = [f"{facts.copies} cases are duplicates of others"] if facts.copies else []
        if facts.conflicting:
            notes.append(f"{len(facts.conflicting)} cases have a copy with another label")
        if strong:
            notes.append(f"{', '.join(strong)} predict{'s' * (len(strong) == 1)} the class")
        notes += [f"see `{command_line('hydrakit', 'datasets', 'check', name)}`"]
        yield f"{name}: {'; '.join(notes)}"


def epoch_text(record: EpochRecord) -> str:
    """Metrics of an epoch on one line."""
    train, val = record.train, record.val
    kind = "R2" if val.auc is None else "AUC"
    text = f"loss {train.loss:.3f} val {val.loss:.3f}, {kind} {train.score:.3f} val {val.score:.3f}"
    if record.reference_auc is not None:
        text += f" reference {record.reference_auc:.3f}"
    return text


def summary(result: RoundResult) -> str:
    """Result of a finished round on one line."""
    kind = "R2" if result.val.auc is None else "AUC"
    at = f" at epoch {result.best_epoch} of {result.epochs}" if result.epochs else ""
    text = f"val {kind} {result.val.score:.3f}{at}, {duration(result.seconds)}"
    if result.bootstrap is not None and len(result.bootstrap.val_auc) > 1:
        starts = result.bootstrap.val_auc
        best = starts[result.bootstrap.chosen]
        text += f" (best of {len(starts)} random starts: {best:.3f})"
    return text


def duration(seconds: float) -> str:
    """Duration as text, in seconds or in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
