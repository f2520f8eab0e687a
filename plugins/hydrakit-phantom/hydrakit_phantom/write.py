"""Writing of a complete phantom folder, which appears by one rename."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrakit.errors import DataError, unknown
from hydrakit_phantom.brain import write_brain
from hydrakit_phantom.lung import write_lung
from hydrakit_phantom.prostate import write_prostate
from hydrakit_phantom.settings import (
    DATASETS,
    DIFFICULTY,
    MARK,
    MAX_PATIENTS,
    MIN_PATIENTS,
    PATIENTS,
    Settings,
)

WRITERS = {"prostatex": write_prostate, "brain": write_brain, "lung": write_lung}
RECORD = "phantom.json"
FORMAT = 1  # increase when the same arguments give other files


@dataclass(frozen=True, kw_only=True)
class PhantomFolder:
    """Contents of a phantom folder.

    Attributes:
        cases: Number of cases by dataset and class.
        existed: Whether the phantom existed already, so that nothing was written.
    """

    cases: dict[str, dict[str, int]]
    existed: bool


def write_phantom(
    out: Path,
    *,
    patients: int = PATIENTS,
    seed: int = 0,
    datasets: Sequence[str] = DATASETS,
    difficulty: float = DIFFICULTY,
) -> PhantomFolder:
    """Write synthetic datasets in the real formats, one folder each.

    A patient's files depend only on the seed, the difficulty and the patient's number.

    Args:
        out: Folder to write; it must be missing, empty, or contain the same phantom already.
        patients: Number of patients of each dataset (brain: images, without copies).
        seed: Seed of all randomness.
        datasets: Datasets to write: any of ``prostatex``, ``brain`` and ``lung``.
        difficulty: From 0 (easy) to 1 (the classes have equal distributions).

    Raises:
        DataError: An argument is out of range, or ``out`` is in use or cannot be written.
    """
    _check(patients, seed, datasets, difficulty)
    arguments = {
        "patients": patients,
        "seed": seed,
        "datasets": [name for name in DATASETS if name in datasets],
        "difficulty": float(difficulty),
    }
    existing = _existing_phantom(out, arguments)
    if existing is not None:
        return existing
    settings = Settings(patients=patients, seed=seed, difficulty=float(difficulty))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            part = Path(folder) / out.name
            cases = _fill(part, arguments, settings)
            if out.is_dir():
                out.rmdir()  # it is empty; renaming onto it does not work on every system
            part.rename(out)
    except OSError as error:
        raise DataError(
            f"{out}: the phantom cannot be written: {error.strerror or error}"
        ) from None
    return PhantomFolder(cases=cases, existed=False)


def _check(patients: int, seed: int, datasets: Sequence[str], difficulty: float) -> None:
    """Refuse arguments that are out of range."""
    if not MIN_PATIENTS <= patients <= MAX_PATIENTS:
        raise DataError(f"patients is {patients}: must be from {MIN_PATIENTS} to {MAX_PATIENTS}")
    if seed < 0:
        raise DataError(f"seed is {seed}: must be 0 or more")
    if not 0 <= difficulty <= 1:
        raise DataError(f"difficulty is {difficulty}: must be from 0 to 1")
    if not datasets:
        raise DataError(f"no dataset is named: choose from {', '.join(DATASETS)}")
    for name in datasets:
        if name not in WRITERS:
            raise DataError(unknown("phantom dataset", name, WRITERS))
    if len(set(datasets)) != len(datasets):
        raise DataError(f"a dataset is named twice: {','.join(datasets)}")


def _fill(part: Path, arguments: dict[str, Any], settings: Settings) -> dict[str, dict[str, int]]:
    """Write the datasets and then the record into a new folder; return the number of cases."""
    cases: dict[str, dict[str, int]] = {}
    part.mkdir()
    for name in arguments["datasets"]:
        root = part / name
        root.mkdir()
        cases[name] = WRITERS[name](root, settings)
        (root / "README.txt").write_text(
            f"{MARK}.\nWritten by `hydrakit phantom` in the format of the real dataset.\n",
            encoding="utf-8",
        )
    record = {
        "format": FORMAT,
        "what": MARK,
        "arguments": arguments,
        "cases": cases,
        "files": _count(part, arguments["datasets"]),
    }
    (part / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return cases


def _count(out: Path, datasets: Sequence[str]) -> dict[str, int]:
    """Count the files of each dataset."""
    return {name: sum(1 for path in (out / name).rglob("*") if path.is_file()) for name in datasets}


def _existing_phantom(out: Path, arguments: dict[str, Any]) -> PhantomFolder | None:
    """Return the contents of ``out`` if it is the same phantom, None if it is free.

    Raises:
        DataError: The folder contains something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    remedy = "choose another folder, or remove it"
    if not out.is_dir():
        raise DataError(f"{out}: is a file; {remedy}")
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        old, cases, files = dict(record["arguments"]), record["cases"], record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{out}: is not empty and holds no phantom; {remedy}") from None
    if record.get("format") != FORMAT or old != arguments:
        changed = [key for key in arguments if old.get(key) != arguments[key]]
        raise DataError(
            f"{out}: holds a phantom of other {', '.join(changed) or 'format'}; {remedy}"
        )
    if files != _count(out, arguments["datasets"]):
        raise DataError(f"{out}: holds a phantom that has lost or gained files; {remedy}")
    return PhantomFolder(cases=cases, existed=True)
