"""Checking that the files of a run, or of all runs in a folder, are unchanged."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from hydrakit.errors import PlanError, one_line
from hydrakit.runs.rundir import SEALED, RunDir
from hydrakit.schema import Frozen, PathText
from hydrakit.storage.digests import (
    FILE,
    Digests,
    cached_digest,
    damaged_files,
    forget_digests,
    read_digests,
)
from hydrakit.storage.files import reason, walk
from hydrakit.storage.lock import FILES as LOCK_FILES
from hydrakit.storage.records import readable

ROUNDS = ("rounds", "kept")
"""Names of folders with rounds: of runs and comparisons, and of tuning."""

RESULTS = "results.json"
"""File of a finished run."""

UNFINISHED = (".part", ".new")
"""Suffixes of unfinished folders."""


class DamagedFile(Frozen):
    """A file that was changed or is missing.

    Attributes:
        path: Path of the file.
        wrong: Description of the fault.
        remedy: What the user can do; empty if the description says it.
    """

    path: PathText
    wrong: PathText
    remedy: PathText

    def __str__(self) -> str:
        """Path, fault and remedy on one line."""
        return one_line(": ".join(part for part in (self.path, self.wrong, self.remedy) if part))


class VerifyResult(Frozen):
    """Result of `verify`.

    Attributes:
        folder: Path of the folder.
        files: Number of unchanged files.
        damaged: Files that were changed or are missing.
        unknown: Results without digests: finished rounds and runs whose list of digests is missing,
            and single files that the list of their folder does not contain. They may be changed.
        not_covered: Other files without digests, which change after the end of a run or can be
            written again: logs, reports, the summary of a comparison, files of unfinished rounds.
    """

    folder: PathText
    files: int
    damaged: tuple[DamagedFile, ...]
    unknown: tuple[PathText, ...]
    not_covered: tuple[PathText, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether every result has a digest, and no file differs from its digest."""
        return not self.damaged and not self.unknown


def verify(folder: Path) -> VerifyResult:
    """Check all files in a folder that have a digest, and list those that have none.

    Digests show that a file was changed by accident or by hand. They are no signature: somebody who
    changes both a file and its digest is not noticed.

    Args:
        folder: Folder of a run, of a comparison with all its cells, or of a search with all its
            runs.

    Raises:
        PlanError: No file in the folder has a digest, or the folder cannot be read.
    """
    forget_digests()
    with readable(folder, "check its name and its permissions"):
        entries = sorted(walk(folder), key=lambda each: each.path)
    linked = [Path(each.path) for each in entries if each.is_symlink() and each.is_dir()]
    files = [Path(each.path) for each in entries if not each.is_dir()]
    lists = [path.parent for path in files if path.name == FILE and _is_whole(path, folder)]
    folders = [Path(each.path) for each in entries if each.is_dir(follow_symlinks=False)]
    finished = {path for path in folders if path.parent.name in ROUNDS and _is_whole(path, folder)}
    finished |= {path.parent for path in files if path.name == RESULTS and _is_whole(path, folder)}
    unknown = sorted({*linked, *(finished - set(lists))})
    if not lists:
        raise PlanError(
            f"{folder}: was written by an older version, which stored no digests: its files cannot "
            "be verified"
            if unknown
            else f"{folder}: holds no finished round: name the folder of a run or of a comparison"
        )
    unchanged = 0
    damaged: list[DamagedFile] = []
    digests: dict[Path, Digests] = {}
    for path in lists:
        try:
            wrong = list(_damaged(path))
            if (found := read_digests(path)) is not None:
                digests[path] = found
        except PlanError as error:
            message = str(error).removeprefix(f"{path / FILE}: ")
            damaged.append(DamagedFile(path=str(path / FILE), wrong=message, remedy=""))
            continue
        damaged += [*wrong, *_changed_plan(path)]
        unchanged += len(digests[path].files) - len(wrong) if path in digests else 0
    without = [path for path in files if not _has_digest(path, folder, digests)]
    results = [path for path in without if _is_result(path, folder, finished)]
    unknown += [path for path in results if not {*path.parents} & {*unknown}]
    return VerifyResult(
        folder=str(folder),
        files=unchanged,
        damaged=tuple({each.path: each for each in damaged}.values()),
        unknown=tuple(map(str, unknown)),
        not_covered=tuple(
            str(path)
            for path in without
            if path not in results and path.name not in (FILE, *LOCK_FILES)
        ),
    )


def _is_whole(path: Path, top: Path) -> bool:
    """Whether a path is neither an unfinished folder nor inside of one."""
    return not any(Path(part).suffix in UNFINISHED for part in path.relative_to(top).parts)


def _has_digest(path: Path, top: Path, digests: Mapping[Path, Digests]) -> bool:
    """Whether a list contains a file; a list of digests contains its own digest."""
    if path.name == "plan.json" and any(
        each.plan is not None and folder.parent.parent == path.parent
        for folder, each in digests.items()
    ):
        return True
    return any(
        folder in digests and path.relative_to(folder).as_posix() in digests[folder].files
        for folder in path.parents
        if folder.is_relative_to(top)
    )


def _is_result(path: Path, top: Path, finished: Container[Path]) -> bool:
    """Whether a file is one of those that a finished round or run gets a digest of."""
    if path.name.startswith(".") or not _is_whole(path, top):
        return False
    if path.parent.name == "heads" or path.name in SEALED:
        folder = path.parent.parent if path.parent.name == "heads" else path.parent
        return folder in finished
    is_in_round = path.parent in finished and path.parent.parent.name in ROUNDS
    if path.name == FILE:  # a finished run has digests of its rounds' lists
        return is_in_round and path.parent.parent.parent in finished
    return is_in_round


def _damaged(folder: Path) -> Iterator[DamagedFile]:
    """Files of one folder that differ from its digests."""
    for name, wrong in damaged_files(folder):
        run = RunDir(folder)
        if folder.parent.name in ROUNDS:
            run = RunDir(folder.parent.parent)
            remedy = f"restore it, or {run.retraining(folder)}"
        else:
            remedy = run.remedy(name)
        yield DamagedFile(path=str(folder / name), wrong=wrong, remedy=remedy)


def _changed_plan(folder: Path) -> Iterator[DamagedFile]:
    """The plan of a round's run, if it was changed after the round was trained."""
    digests, path = read_digests(folder), folder.parent.parent / "plan.json"
    if digests is None or digests.plan is None:
        return
    if not path.is_file():
        wrong = "is missing"
    else:
        try:
            if cached_digest(path).sha256 == digests.plan:
                return
            wrong = f"was changed after {folder.name} was trained with it"
        except (OSError, ValueError) as error:
            wrong = f"cannot be read ({reason(error)})"
    yield DamagedFile(path=str(path), wrong=wrong, remedy="restore it from a copy")
