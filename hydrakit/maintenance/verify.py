"""Checking that the files of a run, or of all runs in a folder, are unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hydrakit.errors import PlanError
from hydrakit.runs.rundir import RunDir
from hydrakit.schema import Frozen
from hydrakit.storage.digests import (
    FILE,
    cached_digest,
    damaged_files,
    forget_digests,
    read_digests,
)

ROUNDS = ("rounds", "kept")
"""Names of folders with rounds: of runs and comparisons, and of tuning."""

UNFINISHED = (".part", ".new")
"""Suffixes of unfinished folders."""


class DamagedFile(Frozen):
    """A file that was changed or is missing.

    Attributes:
        path: Path of the file.
        wrong: Description of the fault.
        remedy: What the user can do; empty if the description says it.
    """

    path: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        """Path, fault and remedy on one line."""
        return ": ".join(part for part in (self.path, self.wrong, self.remedy) if part)


class VerifyResult(Frozen):
    """Result of `verify`.

    Attributes:
        folder: Path of the folder.
        files: Number of unchanged files.
        damaged: Files that were changed or are missing.
        unknown: Folders without digests, where files cannot be checked.
    """

    folder: str
    files: int
    damaged: tuple[DamagedFile, ...]
    unknown: tuple[str, ...]


def verify(folder: Path) -> VerifyResult:
    """Check all files in a folder that have a digest.

    Args:
        folder: Folder of a run, of a comparison with all its cells, or of a search with all its
            runs.

    Raises:
        PlanError: No file in the folder has a digest.
    """
    forget_digests()
    lists = sorted(path.parent for path in folder.rglob(FILE) if _is_whole(path.parent, folder))
    unknown = [path for path in _finished(folder) if not (path / FILE).is_file()]
    if not lists:
        raise PlanError(
            f"{folder}: was written by an older version, which stored no digests: its files cannot "
            "be verified"
            if unknown
            else f"{folder}: holds no finished round: name the folder of a run or of a comparison"
        )
    unchanged, damaged = 0, []
    for path in lists:
        try:
            wrong = list(_damaged(path))
            digests = read_digests(path)
        except PlanError as error:
            message = str(error).removeprefix(f"{path / FILE}: ")
            damaged.append(DamagedFile(path=str(path / FILE), wrong=message, remedy=""))
            continue
        damaged += [*wrong, *_changed_plan(path)]
        unchanged += len(digests.files) - len(wrong) if digests else 0
    return VerifyResult(
        folder=str(folder),
        files=unchanged,
        damaged=tuple({each.path: each for each in damaged}.values()),
        unknown=tuple(str(path) for path in unknown),
    )


def _is_whole(folder: Path, top: Path) -> bool:
    """Whether a folder is neither unfinished nor inside an unfinished folder."""
    return not any(Path(part).suffix in UNFINISHED for part in folder.relative_to(top).parts)


def _finished(top: Path) -> list[Path]:
    """Folders of finished rounds and runs."""
    rounds = [path for name in ROUNDS for path in top.glob(f"**/{name}/*") if path.is_dir()]
    runs = [path.parent for path in top.rglob("results.json")]
    return sorted(path for path in (*rounds, *runs) if _is_whole(path, top))


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
    elif cached_digest(path).sha256 != digests.plan:
        wrong = f"was changed after {folder.name} was trained with it"
    else:
        return
    yield DamagedFile(path=str(path), wrong=wrong, remedy="restore it from a copy")
