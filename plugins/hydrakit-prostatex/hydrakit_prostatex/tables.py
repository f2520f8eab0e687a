"""The official tables: the findings, and the series in which each was located."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hydrakit.data.safe_paths import quote
from hydrakit.errors import DataError

Position = tuple[float, float, float]
# A finding is known by all three: fid repeats, at other positions, in three patients. Tables may
# write one number in several ways, so they are joined by its value.
FindingKey = tuple[str, str, Position]


@dataclass(frozen=True, slots=True)
class Tables:
    """The names of a pair of tables, and how findings are labelled.

    Attributes:
        findings: File name of the table of findings.
        images: File name of the table of series.
        column: Of the label, in the table of findings.
        labels: The class of each value of that column.
        has_labels: Whether the column must be there; else findings may be without label.
    """

    findings: str
    images: str
    column: str
    labels: Mapping[str, int]
    has_labels: bool


_CLINSIG = ("ClinSig", {"FALSE": 0, "TRUE": 1})
_GRADE = ("ggg", {"1": 0, "2": 1, "3": 2, "4": 3, "5": 4})
PROSTATEX = {
    "train": Tables("ProstateX-Findings-Train.csv", "ProstateX-Images-Train.csv", *_CLINSIG, True),
    "test": Tables("ProstateX-Findings-Test.csv", "ProstateX-Images-Test.csv", *_CLINSIG, False),
}
PROSTATEX2 = {
    "train": Tables(
        "ProstateX-2-Findings-Train.csv", "ProstateX-2-Images-Train.csv", *_GRADE, True
    ),
    "test": Tables("ProstateX-2-Findings-Test.csv", "ProstateX-2-Images-Test.csv", *_GRADE, False),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of a table of findings.

    Attributes:
        patient: ``ProxID``.
        fid: ``fid``.
        pos: ``pos``, as it is written, without outer blanks.
        position: ``pos``: ``(x, y, z)`` in millimetres, in the patient's frame of reference.
        label: The class; None where the table has no labels.
        zone: ``zone``: PZ, TZ, AS or SV; empty where the table does not tell it.
    """

    patient: str
    fid: str
    pos: str
    position: Position
    label: int | None
    zone: str = ""

    @property
    def key(self) -> FindingKey:
        """What the tables are joined by."""
        return _key(self.patient, self.fid, self.position)


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


def read_findings(path: Path, tables: Tables) -> list[Finding]:
    """The findings, in the order of the table.

    Raises:
        DataError: The table cannot be read, lacks a column, or holds a wrong value.
    """
    findings: dict[FindingKey, Finding] = {}
    optional = ("zone",) if tables.has_labels else ("zone", tables.column)
    needed = ("ProxID", "fid", "pos", *((tables.column,) if tables.has_labels else ()))
    for line, row in _rows(path, needed, optional):
        where = f"{path}, line {line}"
        for name in ("ProxID", "fid"):
            if not (row[name].isprintable() and 0 < len(row[name]) <= 60):
                raise DataError(f"{where}: {name} is {quote(row[name])}: must be a short name")
        zone = row.get("zone", "")
        if not (zone.isprintable() and len(zone) <= 60):
            raise DataError(f"{where}: zone is {quote(zone)}: must be a short name, or empty")
        label = None
        if tables.column in row:
            label = tables.labels.get(row[tables.column].upper())
            if label is None:
                known = ", ".join(tables.labels)
                told = quote(row[tables.column])
                raise DataError(f"{where}: {tables.column} is {told}: must be one of {known}")
        position = _position(row["pos"])
        if position is None:
            raise DataError(f"{where}: pos is {quote(row['pos'])}: must be three numbers 'x y z'")
        finding = Finding(row["ProxID"], row["fid"], row["pos"], position, label, zone)
        if finding.key in findings:
            named = quote("/".join((finding.patient, finding.fid, finding.pos)))
            raise DataError(f"{where}: the finding {named} is listed twice: remove one")
        findings[finding.key] = finding
    return list(findings.values())


def _position(text: str) -> Position | None:
    try:
        x, y, z = (float(part) for part in text.split())
    except ValueError:
        return None
    return (x, y, z) if math.isfinite(x + y + z) else None


def _key(patient: str, fid: str, position: Position) -> FindingKey:
    x, y, z = position
    return (patient, fid, (round(x, 3), round(y, 3), round(z, 3)))


def read_listed_series(path: Path) -> dict[FindingKey, list[ListedSeries]]:
    """The series of each finding.

    Raises:
        DataError: The table cannot be read, lacks a column, or holds a wrong value.
    """
    listed: dict[FindingKey, list[ListedSeries]] = {}
    for line, row in _rows(path, ("ProxID", "fid", "pos", "ijk", "DCMSerDescr", "DCMSerNum")):
        position = _position(row["pos"])
        try:
            i, j, k = (int(part) for part in row["ijk"].split())
            series = ListedSeries(int(row["DCMSerNum"]), row["DCMSerDescr"], (i, j, k))
        except ValueError:
            raise DataError(
                f"{path}, line {line}: ijk is {quote(row['ijk'])} and DCMSerNum "
                f"{quote(row['DCMSerNum'])}: must be three whole numbers 'i j k' and one"
            ) from None
        if position is None:
            raise DataError(
                f"{path}, line {line}: pos is {quote(row['pos'])}: must be three numbers"
            )
        listed.setdefault(_key(row["ProxID"], row["fid"], position), []).append(series)
    return listed


def _rows(
    path: Path, columns: Iterable[str], optional: Iterable[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the named columns of each row, without outer blanks."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            for column in columns:
                if column not in (table.fieldnames or ()):
                    raise DataError(
                        f"{path}: no column {column!r}: must be the official {path.name}"
                    )
            present = (*columns, *(name for name in optional if name in (table.fieldnames or ())))
            for row in table:
                yield table.line_num, {name: (row[name] or "").strip() for name in present}
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
            f"{root}: no {name} below it: put the two tables of the lesion information there "
            "(unpacked)"
        )
    try:
        differs = next((p for p in found[1:] if p.read_bytes() != found[0].read_bytes()), None)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if differs:
        raise DataError(f"{differs}: differs from {found[0]}: leave one {name} below {root}")
    return found[0]
