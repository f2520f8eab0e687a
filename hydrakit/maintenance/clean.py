"""Deleting files of a run or a comparison that are no longer needed.

These are temporary files of killed processes and, in finished runs, the weights of single rounds:
the final body and heads are in the run's folder. Files that a run needs to resume are kept, and so
is the body of a round if a final head belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hydrakit.compare.design import FILE as COMPARE
from hydrakit.compare.design import CompareDir
from hydrakit.errors import PlanError
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.claims import FOLDER
from hydrakit.storage.digests import FILE, damaged_files, update_digests
from hydrakit.storage.files import TEMPORARY, delete
from hydrakit.storage.lock import locked

LEFT = "left by processes that were killed"
WEIGHTS = "weights of single rounds of finished runs, needed only to resume them"
SHARED = "rounds shared by the cells of the finished comparison"
CLAIMS = "claims of the processes that shared the finished comparison"


@dataclass(frozen=True)
class RemovableFiles:
    """A file or a folder that can be deleted.

    Attributes:
        path: Path of the file or folder.
        reason: Why it is not needed: `LEFT`, `WEIGHTS`, `SHARED` or `CLAIMS`.
        size: Total size in bytes.
    """

    path: Path
    reason: str
    size: int


def clean(
    folder: Path, confirm: Callable[[Sequence[RemovableFiles]], bool]
) -> list[RemovableFiles]:
    """Delete files that are no longer needed from the folder of a run or a comparison.

    Args:
        folder: Folder of a run or a comparison.
        confirm: Called with the files to delete, if there are any; if it returns False, nothing is
            deleted.

    Returns:
        The deleted files and folders.

    Raises:
        PlanError: The folder holds neither a run nor a comparison, or a link; a finished run is
            damaged (its rounds may be needed to restore it); or a file cannot be deleted.
        HydrakitError: A process is running in the folder.
    """
    is_comparison = (folder / COMPARE).is_file()
    tops = _runs(CompareDir(folder)) if is_comparison else [RunDir(folder)]
    runs = [run for top in tops for run in (top, *top.begun_members())]
    for run in runs:
        run.plan()  # raises if this is no run
    with locked(folder):
        # The runs are locked one at a time: a process can have only so many files open.
        of_runs: dict[Path, list[RemovableFiles]] = {}
        for run in runs:
            with _locked_in(folder, run):
                of_runs[run.path] = list(_of_run(run))
        removable = [each for found in of_runs.values() for each in found]
        of_comparison = list(_of_comparison(CompareDir(folder))) if is_comparison else []
        removable += of_comparison
        if not removable:
            return []
        for run in runs:
            _check(run)
        if not confirm(removable):
            return []
        try:
            for run in [each for each in runs if of_runs[each.path]]:
                with _locked_in(folder, run):
                    still = {each.path for each in _of_run(run)}
                    of_run = [each for each in of_runs[run.path] if each.path in still]
                    _delete(folder, of_run, run)
            _delete(folder, of_comparison, None)
        except OSError as error:
            raise PlanError(
                f"{error.filename or folder}: cannot be deleted ({error.strerror}): change its "
                "permissions, and run the same command again"
            ) from None
    return removable


def _locked_in(folder: Path, run: RunDir) -> AbstractContextManager[None]:
    """Lock a run, unless it is in the folder that is locked already."""
    return nullcontext() if run.path == folder else locked(run.path)


def _runs(compare_dir: CompareDir) -> list[RunDir]:
    """Runs of all cells that were started, also of earlier designs."""
    return [RunDir(path.parent) for path in sorted(compare_dir.path.glob("cells/*/plan.json"))]


def _of_run(run: RunDir) -> Iterator[RemovableFiles]:
    finished = run.results_path.is_file()
    yield from _temporary(run.path, "*", "heads/*", "rounds/*/*")
    for path in sorted(run.path.glob("rounds/*.*")):
        if path.suffix == ".new" or finished or path.with_suffix("").is_dir():
            yield _removable(path, LEFT)
    if finished:
        bodies = _needed_bodies(run)
        for folder in run.round_folders():
            paths = (path for path in _weights(folder) if path not in bodies)
            yield from (_removable(path, WEIGHTS) for path in paths)


def _needed_bodies(run: RunDir) -> set[Path]:
    """Bodies of rounds that delivered heads belong to, since later rounds have changed the body."""
    plan = run.plan()
    numbers = {plan.body_round(head) for each in plan.rounds for head in each.heads}
    return {
        run.round_path(number, plan.rounds[number - 1]) / "body.safetensors"
        for number in numbers
        if number is not None
    }


def _of_comparison(compare_dir: CompareDir) -> Iterator[RemovableFiles]:
    yield from _temporary(compare_dir.path, "*", "cells/*")
    description = compare_dir.description()
    done = all(
        cell.name in description.not_needed or compare_dir.status(cell) == "done"
        for cell in description.design.cells()
    )
    finished = done and compare_dir.comparison_path.is_file()
    if finished and compare_dir.tuning_rounds.is_dir():
        yield _removable(compare_dir.tuning_rounds, SHARED)
    if finished and (claims := compare_dir.path / FOLDER).is_dir():
        yield _removable(claims, CLAIMS)
    for path in sorted(compare_dir.rounds.glob("*")):
        if path.suffix:
            yield _removable(path, LEFT)
        elif finished:
            yield _removable(path, SHARED)


def _temporary(folder: Path, *patterns: str) -> Iterator[RemovableFiles]:
    """Temporary files, without those of an unfinished round or in a folder deleted as a whole."""
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.parent.suffix:
                yield _removable(path, LEFT)


def _weights(folder: Path) -> list[Path]:
    """Weight files of a round: body and heads; outputs for validation cases are small and kept."""
    names = ("body", "head*", "last-head")
    return sorted(path for name in names for path in folder.glob(f"{name}.safetensors"))


def _removable(path: Path, reason: str) -> RemovableFiles:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return RemovableFiles(path, reason, sum(each.stat().st_size for each in files))


def _check(run: RunDir) -> None:
    """Refuse to clean a finished run with damaged or missing files."""
    if not run.results_path.is_file():
        return
    for name, fault in damaged_files(run.path):
        raise PlanError(f"{run.path / name}: {fault}: {run.remedy(name)}. Nothing was deleted")
    heads = {run.head_path(name) for round in run.plan().rounds for name in round.heads}
    for path in (run.body_path, *sorted(heads)):
        if not path.is_file():
            raise PlanError(f"{path}: is missing: {run.remedy(path.name)}. Nothing was deleted")


def _delete(folder: Path, removable: Sequence[RemovableFiles], run: RunDir | None) -> None:
    """Delete files of a run after removing their digests, so that a stop at any time is harmless.

    Files of a comparison, which belong to no run, have no digests.
    """
    folders = {each.path.parent for each in removable if each.reason == WEIGHTS}
    if run is not None:
        rounds = [path for path in run.round_folders() if path in folders]
        lists = [f"rounds/{path.name}/{FILE}" for path in rounds if (path / FILE).is_file()]
        update_digests(run.path, without=lists)
        for path in rounds:
            files = [each.path.name for each in removable if each.path.parent == path]
            update_digests(path, without=files)
        update_digests(run.path, renewed=lists)
    for each in removable:
        delete(folder, each.path)
