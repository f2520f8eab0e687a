"""Removing from a run or a comparison what nobody needs any more.

Of a finished run these are the weights of its rounds: body and heads lie in the run's folder, and
figures in small files. Of others only what killed processes left; what a run needs to go on stays.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hydrakit.compare.design import FILE as COMPARE
from hydrakit.compare.design import CompareDir
from hydrakit.errors import PlanError
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.digests import FILE, damaged_files, update_digests
from hydrakit.storage.lock import locked

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")
"""Names of files that `hydrakit.storage.files.write_atomic` did not come to rename."""

LEFT = "left by processes that were killed"
WEIGHTS = "weights of the rounds of finished runs, which only their resuming would need"
SHARED = "rounds that the cells of the finished comparison shared"


@dataclass(frozen=True)
class RemovableFiles:
    """What can be removed.

    Attributes:
        path: Of a file or a folder.
        why: One of `LEFT`, `WEIGHTS` and `SHARED`.
        size: In bytes.
    """

    path: Path
    why: str
    size: int


def clean(folder: Path, agree: Callable[[Sequence[RemovableFiles]], bool]) -> list[RemovableFiles]:
    """Remove what nobody needs from the folder of a run or of a comparison; gives what it was.

    Args:
        folder: Of either.
        agree: Told what would be removed, if there is anything; False leaves everything as it is.

    Raises:
        PlanError: It is the folder of neither, a finished run is damaged (its rounds may be what it
            can be made from again), or a file cannot be removed.
        HydrakitError: A process is at work in it.
    """
    compared = (folder / COMPARE).is_file()
    runs = _runs(CompareDir(folder)) if compared else [RunDir(folder)]
    for run in runs:
        run.plan()  # it is one
    with ExitStack() as locks:
        for path in dict.fromkeys((folder, *(run.path for run in runs))):
            locks.enter_context(locked(path))
        found = [each for run in runs for each in _of_run(run)]
        if compared:
            found += _of_comparison(CompareDir(folder))
        if not found or not agree(found):
            return []
        for run in runs:
            _check(run)
        try:
            _remove(found, runs)
        except OSError as error:
            raise PlanError(
                f"{error.filename or folder}: cannot be removed ({error.strerror}): allow it, and "
                "clean again"
            ) from None
    return found


def _runs(here: CompareDir) -> list[RunDir]:
    """The cells that were begun, of earlier designs too."""
    return [RunDir(path.parent) for path in sorted(here.path.glob("cells/*/plan.json"))]


def _of_run(run: RunDir) -> Iterator[RemovableFiles]:
    finished = run.results_path.is_file()
    yield from _left(run.path, "*", "heads/*", "rounds/*/*")
    for path in sorted(run.path.glob("rounds/*.*")):
        if path.suffix == ".new" or finished or path.with_suffix("").is_dir():
            yield _waste(path, LEFT)
    if finished:
        for folder in run.round_folders():
            yield from (_waste(path, WEIGHTS) for path in _weights(folder))


def _of_comparison(here: CompareDir) -> Iterator[RemovableFiles]:
    yield from _left(here.path, "*", "cells/*")
    cells = here.description().design.cells()
    finished = all(here.status(cell) == "done" for cell in cells) and here.comparison_path.is_file()
    for path in sorted(here.rounds.glob("*")):
        if path.suffix:
            yield _waste(path, LEFT)
        elif finished:
            yield _waste(path, SHARED)


def _left(folder: Path, *patterns: str) -> Iterator[RemovableFiles]:
    """Temporary files; not those in a folder that goes as a whole, or of a round under way."""
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.parent.suffix:
                yield _waste(path, LEFT)


def _weights(folder: Path) -> list[Path]:
    """Of a round: body and heads; not what the heads said of validation cases, which is small."""
    names = ("body", "head*", "last-head")
    return sorted(path for name in names for path in folder.glob(f"{name}.safetensors"))


def _waste(path: Path, why: str) -> RemovableFiles:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return RemovableFiles(path, why, sum(each.stat().st_size for each in files))


def _check(run: RunDir) -> None:
    """See that a finished run does not need its rounds."""
    if not run.results_path.is_file():
        return
    for name, wrong in damaged_files(run.path):
        raise PlanError(f"{run.path / name}: {wrong}: {run.remedy(name)}. Nothing was removed")
    heads = {run.head_path(name) for round in run.plan().rounds for name in round.heads}
    for path in (run.body_path, *sorted(heads)):
        if not path.is_file():
            raise PlanError(f"{path}: is missing: {run.remedy(path.name)}. Nothing was removed")


def _remove(found: Sequence[RemovableFiles], runs: Sequence[RunDir]) -> None:
    """Remove, and have digests tell only of what is there, whenever this may be stopped."""
    for run in runs:
        folders = [path.parent for path in {each.path for each in found if each.why == WEIGHTS}]
        rounds = [path for path in run.round_folders() if path in folders]
        lists = [f"rounds/{path.name}/{FILE}" for path in rounds if (path / FILE).is_file()]
        update_digests(run.path, without=lists)
        for path in rounds:
            update_digests(path, without=[each.name for each in _weights(path)])
        update_digests(run.path, renewed=lists)
    for each in found:
        if each.path.is_dir():
            shutil.rmtree(each.path)
        else:
            each.path.unlink()
