"""Reading of the official tables: the findings, and the series in which each was located."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydrakit.data.archives import unpack_hint
from hydrakit.data.identity import normal_name
from hydrakit.data.safe_paths import quote
from hydrakit.errors import DataError
from hydrakit.storage.files import read_whole, reason
from hydrakit.storage.tables import read_table

PAGE = "https://doi.org/10.7937/K9TCIA.2017.MURS5CL"  # of the collection
Position = tuple[float, float, float]
# All three identify a finding: fid repeats, at other positions, in three patients. Tables may write
# one number in several ways, so they are joined by its value.
FindingKey = tuple[str, str, Position]


@dataclass(frozen=True, slots=True)
class Tables:
    """Names of a pair of tables, and the mapping of labels to classes.

    Attributes:
        findings: File name of the table of findings.
        images: File name of the table of series.
        column: Column of the label in the table of findings.
        labels: Class of each value of that column.
        has_labels: Whether the column is required; otherwise findings may have no label.
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
        patient: Patient, column ``ProxID``.
        fid: Number of the finding, column ``fid``.
        pos: Text of the column ``pos``, without surrounding blanks.
        position: Value of ``pos``: ``(x, y, z)`` in millimetres, in the patient's frame of
            reference.
        label: Class of the finding; None if the table has no labels.
        zone: Zone, column ``zone``: PZ, TZ, AS or SV; empty if the table does not state it.
    """

    patient: str
    fid: str
    pos: str
    position: Position
    label: int | None
    zone: str = ""

    @property
    def key(self) -> FindingKey:
        """Key by which the tables are joined."""
        return _key(self.patient, self.fid, self.position)


@dataclass(frozen=True, slots=True)
class ListedSeries:
    """A row of the images table.

    Attributes:
        number: SeriesNumber, column ``DCMSerNum``.
        description: SeriesDescription, column ``DCMSerDescr``.
        ijk: Column, row and slice of the finding; the slice counts from 0 at the lowest.
        slices: Number of slices, column ``Dim``; None if the table does not state it.
    """

    number: int
    description: str
    ijk: tuple[int, int, int]
    slices: int | None = None


def read_findings(path: Path, tables: Tables) -> list[Finding]:
    """Read the findings, in the order of the table.

    Raises:
        DataError: The table cannot be read, lacks a column, or holds an invalid value.
    """
    findings: dict[FindingKey, Finding] = {}
    optional = ("zone",) if tables.has_labels else ("zone", tables.column)
    required = ("ProxID", "fid", "pos", *((tables.column,) if tables.has_labels else ()))
    for place, row in _rows(path, required, optional):
        where = f"{path}, {place}"
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
                value, choices = quote(row[tables.column]), ", ".join(tables.labels)
                raise DataError(f"{where}: {tables.column} is {value}: must be one of {choices}")
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
    return (normal_name(patient), fid, (round(x, 3), round(y, 3), round(z, 3)))


def read_listed_series(path: Path) -> dict[FindingKey, list[ListedSeries]]:
    """Read the series of each finding.

    Raises:
        DataError: The table cannot be read, lacks a column, or holds an invalid value.
    """
    listed: dict[FindingKey, list[ListedSeries]] = {}
    columns = ("ProxID", "fid", "pos", "ijk", "DCMSerDescr", "DCMSerNum")
    for place, row in _rows(path, columns, ("Dim",)):
        position = _position(row["pos"])
        try:
            i, j, k = (int(part) for part in row["ijk"].split())
            number, slices = int(row["DCMSerNum"]), _slices(row.get("Dim", ""))
            series = ListedSeries(number, row["DCMSerDescr"], (i, j, k), slices)
        except ValueError:
            raise DataError(
                f"{path}, {place}: ijk is {quote(row['ijk'])} and DCMSerNum "
                f"{quote(row['DCMSerNum'])}: must be three whole numbers 'i j k' and one"
            ) from None
        if position is None:
            raise DataError(f"{path}, {place}: pos is {quote(row['pos'])}: must be three numbers")
        listed.setdefault(_key(row["ProxID"], row["fid"], position), []).append(series)
    return listed


def _slices(dimensions: str) -> int | None:
    """Return the third number of a text such as ``84x128x19x1``; None if it has none."""
    match = re.match(r"[0-9]+x[0-9]+x([0-9]{1,6})(x|$)", dimensions)
    return int(match[1]) if match else None


def _rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield place and columns of each row, without surrounding blanks."""
    try:
        content = read_whole(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table: {reason(error)}") from None
    table = read_table(path, content, lambda header: set(columns) <= set(header))
    for column in columns:
        if column not in table.header:
            raise DataError(f"{path}: no column {column!r}: use the official {path.name}")
    present = (*columns, *(name for name in optional if name in table.header))
    at = {name: table.header.index(name) for name in present}
    for place, cells in table.rows():
        yield place, {name: cells[index].strip() for name, index in at.items()}


def find_table(files: Iterable[Path], name: str, root: Path) -> Path:
    """Return the official table among files, in any folder, in upper or lower case.

    Raises:
        DataError: There is no such table, or there are several that differ.
    """
    listed = list(files)
    tables = [path for path in listed if path.name.casefold() == name.casefold()]
    if not tables:
        raise DataError(
            f"{root}: no {name} below it: put the two tables of the lesion information there, "
            f"unpacked ({PAGE}){unpack_hint(listed)}"
        )
    try:
        differs = next((p for p in tables[1:] if p.read_bytes() != tables[0].read_bytes()), None)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if differs:
        raise DataError(f"{differs}: differs from {tables[0]}: keep one {name} below {root}")
    return tables[0]
