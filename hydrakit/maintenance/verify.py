"""Whether the files of a run, or of all runs below a folder, are as they were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hydrakit.errors import PlanError
from hydrakit.runs.rundir import RunDir
from hydrakit.schema import Frozen
from hydrakit.storage.digests import FILE, damaged_files, known_digest, look_again, read_digests

ROUNDS = ("rounds", "kept")
"""Folders of rounds: of a run, of runs that share them, of a plan that is tuned."""

UNFINISHED = (".part", ".new")
"""How folders end that were not finished."""


class DamagedFile(Frozen):
    """A file that is not as it was written.

    Attributes:
        path: Of the file.
        wrong: What is wrong with it.
        remedy: What to do, if that is not said with what is wrong.
    """

    path: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        """On one line."""
        return ": ".join(part for part in (self.path, self.wrong, self.remedy) if part)


class VerifyResult(Frozen):
    """What `verify` found.

    Attributes:
        folder: Where.
        files: How many are as they were written.
        damaged: Those that are not.
        unknown: Folders whose files cannot be checked, since nothing tells what they were.
    """

    folder: str
    files: int
    damaged: tuple[DamagedFile, ...]
    unknown: tuple[str, ...]


def verify(folder: Path) -> VerifyResult:
    """Look at every file below a folder of which it is told what it was when it was written.

    Args:
        folder: Of a run, of a comparison with all its cells, or of a search with all its runs.

    Raises:
        PlanError: Nothing is told of any file in it.
    """
    look_again()
    lists = sorted(path.parent for path in folder.rglob(FILE) if _is_whole(path.parent, folder))
    unknown = [path for path in _finished(folder) if not (path / FILE).is_file()]
    if not lists:
        raise PlanError(
            f"{folder}: was written by an older version, which noted no digests: nothing in it can "
            "be verified"
            if unknown
            else f"{folder}: holds no finished round: name the folder of a run or of a comparison"
        )
    sound, damaged = 0, []
    for path in lists:
        try:
            wrong = list(_damaged(path))
            digests = read_digests(path)
        except PlanError as error:
            said = str(error).removeprefix(f"{path / FILE}: ")
            damaged.append(DamagedFile(path=str(path / FILE), wrong=said, remedy=""))
            continue
        damaged += [*wrong, *_changed_plan(path)]
        sound += len(digests.files) - len(wrong) if digests else 0
    return VerifyResult(
        folder=str(folder),
        files=sound,
        damaged=tuple({each.path: each for each in damaged}.values()),
        unknown=tuple(str(path) for path in unknown),
    )


def _is_whole(folder: Path, top: Path) -> bool:
    """Whether it is not in a folder that was left unfinished."""
    return not any(Path(part).suffix in UNFINISHED for part in folder.relative_to(top).parts)


def _finished(top: Path) -> list[Path]:
    """The folders of finished rounds and runs."""
    rounds = [path for name in ROUNDS for path in top.glob(f"**/{name}/*") if path.is_dir()]
    runs = [path.parent for path in top.rglob("results.json")]
    return sorted(path for path in (*rounds, *runs) if _is_whole(path, top))


def _damaged(folder: Path) -> Iterator[DamagedFile]:
    """The files of one folder that are not what its digests tell."""
    for name, wrong in damaged_files(folder):
        run = RunDir(folder)
        if folder.parent.name in ROUNDS:
            run = RunDir(folder.parent.parent)
            remedy = f"restore it, or {run.retraining(folder)}"
        else:
            remedy = run.remedy(name)
        yield DamagedFile(path=str(folder / name), wrong=wrong, remedy=remedy)


def _changed_plan(folder: Path) -> Iterator[DamagedFile]:
    """The plan of a round's run, if it is another now."""
    digests, path = read_digests(folder), folder.parent.parent / "plan.json"
    if digests is None or digests.plan is None:
        return
    if not path.is_file():
        wrong = "is missing"
    elif known_digest(path).sha256 != digests.plan:
        wrong = f"was changed since {folder.name} was trained by it"
    else:
        return
    yield DamagedFile(path=str(path), wrong=wrong, remedy="restore it from a copy")
