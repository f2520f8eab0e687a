"""Write a whole phantom: all of it, by one rename, or nothing."""

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
    FEWEST_PATIENTS,
    MARK,
    MOST_PATIENTS,
    PATIENTS,
    Settings,
)

WRITERS = {"prostatex": write_prostate, "brain": write_brain, "lung": write_lung}
RECORD = "phantom.json"
FORMAT = 1  # rises whenever the same arguments give other files


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a phantom folder holds.

    Attributes:
        cases: Number of cases per class, per dataset.
        already_there: Whether it was there before, so that nothing was written.
    """

    cases: dict[str, dict[str, int]]
    already_there: bool


def write_phantom(
    out: Path,
    *,
    patients: int = PATIENTS,
    seed: int = 0,
    datasets: Sequence[str] = DATASETS,
    difficulty: float = DIFFICULTY,
) -> Written:
    """Write synthetic datasets in the real formats, one folder each.

    A patient's files depend on the seed, the difficulty and the patient's number alone.

    Args:
        out: A folder that is not there or empty, or that holds this very phantom already.
        patients: Of each dataset (brain: images, copies not counted).
        seed: Of everything random.
        datasets: Which of ``prostatex``, ``brain`` and ``lung``.
        difficulty: From 0 (easy) to 1 (nothing tells the classes apart).

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
    there = _already_there(out, arguments)
    if there is not None:
        return there
    settings = Settings(patients=patients, seed=seed, difficulty=float(difficulty))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            part = Path(folder) / out.name
            cases = _fill(part, arguments, settings)
            if out.is_dir():
                out.rmdir()  # empty: renaming onto it does not work everywhere
            part.rename(out)
    except OSError as error:
        raise DataError(
            f"{out}: the phantom cannot be written: {error.strerror or error}"
        ) from None
    return Written(cases=cases, already_there=False)


def _check(patients: int, seed: int, datasets: Sequence[str], difficulty: float) -> None:
    """Refuse arguments that are out of range."""
    if not FEWEST_PATIENTS <= patients <= MOST_PATIENTS:
        raise DataError(
            f"patients is {patients}: must be from {FEWEST_PATIENTS} to {MOST_PATIENTS}"
        )
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
    """Write the datasets and then the record into a new folder; gives the cases."""
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
    """Number of files of each dataset."""
    return {name: sum(1 for path in (out / name).rglob("*") if path.is_file()) for name in datasets}


def _already_there(out: Path, arguments: dict[str, Any]) -> Written | None:
    """What ``out`` holds if it is this phantom, None if it is free.

    Raises:
        DataError: It holds something else.
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
    return Written(cases=cases, already_there=True)
