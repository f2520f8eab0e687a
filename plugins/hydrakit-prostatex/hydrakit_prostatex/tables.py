"""The two official training tables: the findings, and the series in which each was located."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydrakit.errors import DataError

FINDINGS = "ProstateX-Findings-Train.csv"
IMAGES = "ProstateX-Images-Train.csv"
_LABELS = {"TRUE": True, "FALSE": False}

# A finding is known by all three: fid repeats, at other positions, in three patients.
FindingKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the findings table.

    Attributes:
        key: ``(ProxID, fid, pos)``, without outer blanks.
        position: ``pos``: ``(x, y, z)`` in millimetres, in the patient's frame of reference.
        significant: ``ClinSig``.
    """

    key: FindingKey
    position: tuple[float, float, float]
    significant: bool


@dataclass(frozen=True, slots=True)
class ListedSeries:
    """A row of the images table.

    Attributes:
        number: ``DCMSerNum``.
        description: ``DCMSerDescr``.
        ijk: Column, row and slice of the finding; the slice counts from 0 at the lowest.
    """

    number: int
    description: str
    ijk: tuple[int, int, int]


def read_findings(path: Path) -> list[Finding]:
    """The findings, in the order of the table.

    Raises:
        DataError: The table cannot be read, lacks a column, or holds a wrong value.
    """
    findings: dict[FindingKey, Finding] = {}
    for line, row in _rows(path, ("ProxID", "fid", "pos", "ClinSig")):
        where = f"{path}, line {line}"
        key = (row["ProxID"], row["fid"], row["pos"])
        significant = _LABELS.get(row["ClinSig"].upper())
        if significant is None:
            raise DataError(f"{where}: ClinSig is {row['ClinSig']!r}: must be TRUE or FALSE")
        if key in findings:
            raise DataError(f"{where}: the finding {'/'.join(key)} is listed twice: remove one")
        try:
            x, y, z = (float(part) for part in row["pos"].split())
        except ValueError:
            x = y = z = math.nan
        if not math.isfinite(x + y + z):
            raise DataError(f"{where}: pos is {row['pos']!r}: must be three numbers 'x y z'")
        findings[key] = Finding(key, (x, y, z), significant)
    return list(findings.values())


def read_listed_series(path: Path) -> dict[FindingKey, list[ListedSeries]]:
    """The series of each finding.

    Raises:
        DataError: The table cannot be read, lacks a column, or holds a wrong value.
    """
    listed: dict[FindingKey, list[ListedSeries]] = {}
    for line, row in _rows(path, ("ProxID", "fid", "pos", "ijk", "DCMSerDescr", "DCMSerNum")):
        try:
            i, j, k = (int(part) for part in row["ijk"].split())
            series = ListedSeries(int(row["DCMSerNum"]), row["DCMSerDescr"], (i, j, k))
        except ValueError:
            raise DataError(
                f"{path}, line {line}: ijk is {row['ijk']!r} and DCMSerNum {row['DCMSerNum']!r}: "
                "must be three whole numbers 'i j k' and one"
            ) from None
        listed.setdefault((row["ProxID"], row["fid"], row["pos"]), []).append(series)
    return listed


def _rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the named columns of each row, without outer blanks."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            for column in columns:
                if column not in (table.fieldnames or ()):
                    raise DataError(
                        f"{path}: no column {column!r}: must be the official {path.name}"
                    )
            for row in table:
                yield table.line_num, {name: (row[name] or "").strip() for name in columns}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None


def find_table(files: Iterable[Path], name: str, root: Path) -> Path:
    """The official table among files, in whatever folder and case.

    Raises:
        DataError: There is none, or several that differ.
    """
    found = [path for path in files if path.name.casefold() == name.casefold()]
    if not found:
        raise DataError(
            f"{root}: no {name} below it: put the two tables of the training set's lesion "
            "information there (unpacked)"
        )
    try:
        differs = next((p for p in found[1:] if p.read_bytes() != found[0].read_bytes()), None)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if differs:
        raise DataError(f"{differs}: differs from {found[0]}: leave one {name} below {root}")
    return found[0]
