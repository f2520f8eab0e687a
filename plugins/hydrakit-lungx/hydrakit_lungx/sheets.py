"""The LUNGx nodule sheets, in the spellings in which they are found.

The official sheets are one .xlsx for the calibration set and one for the test set. They differ in
the names of their columns and in the words of their labels, put the position into one cell, and
have footnotes. Exports and hand-edited copies bring more forms: the position in two cells, or read
as one number because of its comma; ``;`` or ``,`` between the cells of a .csv.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydrakit.data.safe_paths import quote
from hydrakit.errors import DataError
from hydrakit_lungx.tables import Row, is_table, read_tables

_log = logging.getLogger(__name__)

SUSPICIOUS = "suspicious"
UNLABELLED = "unlabelled"
_LABELS = {
    "benign": "benign",
    "benign nodule": "benign",
    "malignant": "malignant",
    "primary lung cancer": "malignant",
    "suspicious malignant nodule": SUSPICIOUS,
}
# Letters of the header, lower case, without anything else -> what the column holds.
_COLUMNS = {
    "scannumber": "scan",
    "nodulenumber": "nodule",
    "nodulecenterxyposition": "position",
    "nodulecenterposition": "position",
    "nodulecenterxposition": "x",
    "nodulecenteryposition": "y",
    "nodulecenterimage": "image",
    "diagnosis": "diagnosis",
    "finaldiagnosis": "diagnosis",
}
# How scans are named: the part before the number tells the set, in any case.
SETS = {"calibration": "CT-Training-", "test": "LUNGx-CT"}
_SETS = {spelt.lower(): spelt for spelt in SETS.values()}
_HEADER_WITHIN = 20  # rows


@dataclass(frozen=True, slots=True)
class Nodule:
    """A row of a nodule sheet.

    Attributes:
        scan: The scan's name as DICOM spells it: ``CT-Training-LC001``, ``LUNGx-CT001``.
        number: Of the nodule in its scan, from 1.
        column: Of its centre in pixels; the left column is 1.
        row: Of its centre in pixels; the upper row is 1.
        image: "Nodule Center Image".
        label: ``benign``, ``malignant``, ``suspicious``, or ``unlabelled`` of a sheet without
            diagnoses.
    """

    scan: str
    number: int
    column: int
    row: int
    image: int
    label: str

    @property
    def key(self) -> str:
        """The scan and the number."""
        return f"{self.scan}/{self.number}"

    @property
    def place(self) -> str:
        """Where its centre is, as the sheet counts."""
        return f"{self.column}, {self.row} in image {self.image}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """One file's nodules.

    Attributes:
        path: The file.
        kind: The set: ``CT-Training-`` (calibration) or ``LUNGx-CT`` (test).
        one_cell: Whether the position is one cell, as in the official sheets.
        labelled: Whether it has diagnoses.
        nodules: By key, in the order of the rows.
    """

    path: Path
    kind: str
    one_cell: bool
    labelled: bool
    nodules: dict[str, Nodule]


def find_sheets(
    files: Iterable[Path], names: str, root: Path, *, kind: str | None = None
) -> list[Sheet]:
    """One sheet for each set, the calibration set's first.

    A sheet is told by its header. Of several of one set, one with diagnoses is taken; then the one
    with the position in one cell (the official form: splitting it is work by hand); then the one
    with more nodules; then a .csv before an .xlsx; then the first by path. Where they disagree
    about a nodule's place or presence, it is said in a warning that names the nodules.

    Args:
        files: All files below ``root``.
        names: File names of the sheets to read, with commas between; empty for all.
        root: The dataset's folder, for messages.
        kind: Of the set that is wanted; None for both.

    Raises:
        DataError: There is no sheet of a wanted set, one cannot be read, or two of one set
            disagree on a label.
    """
    tables = [path for path in files if is_table(path)]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if all(path.name != name for path in tables):
            raise DataError(f"{root}: option sheet: no file {name!r} (.csv or .xlsx) below it")
    read = [path for path in tables if not wanted or path.name in wanted]
    sheets = [sheet for path in read if (sheet := read_sheet(path))]
    if not sheets:
        raise DataError(
            f"{root}: no LUNGx nodule sheet below it: put CalibrationSet_NoduleData.xlsx, "
            "TestSet_NoduleData_PublicRelease_wTruth.xlsx, or their .csv exports there"
        )
    by_kind = {each: [s for s in sheets if s.kind == each] for each in SETS.values()}
    if kind is not None and not by_kind[kind]:
        raise DataError(f"{root}: option set: no sheet with scans named {kind}... below it")
    return [_choose(found) for each, found in by_kind.items() if found and kind in (None, each)]


def _choose(sheets: list[Sheet]) -> Sheet:
    ranked = sorted(
        sheets,
        key=lambda s: (
            *(not s.labelled, not s.one_cell),
            *(-len(s.nodules), s.path.suffix.lower() != ".csv", s.path),
        ),
    )
    chosen = ranked[0]
    if not chosen.labelled:
        _say(f"lung: {chosen.path} has no diagnoses: its nodules are for prediction only")
    for other in ranked[1:]:
        for key in chosen.nodules.keys() & other.nodules.keys():
            labels = [sheet.nodules[key].label for sheet in (chosen, other)]
            if labels[0] != labels[1] and other.labelled:
                raise DataError(
                    f"{chosen.path} and {other.path} disagree: nodule {key} is {labels[0]} in one "
                    f"and {labels[1]} in the other: name the right file with the option 'sheet', "
                    "or remove the wrong one"
                )
        differences = _differences(chosen, other)
        if differences:
            _say(
                f"lung: {chosen.path} is read and not {other.path}, which differs: "
                + "; ".join(differences)
            )
    return chosen


def _differences(chosen: Sheet, other: Sheet) -> list[str]:
    """What another sheet says of nodules' places and presence, where it says otherwise."""
    told = []
    for key, nodule in chosen.nodules.items():
        if key in other.nodules and nodule.place != other.nodules[key].place:
            told.append(f"{key} is at {other.nodules[key].place} there and not at {nodule.place}")
    for has, has_not, where in (
        (chosen, other, "there"),
        (other, chosen, "in the one that is read"),
    ):
        missing = [key for key in has.nodules if key not in has_not.nodules]
        if missing:
            told.append(f"not {where}: {', '.join(missing)}")
    return told


@cache
def _say(message: str) -> None:
    """Warn of something, once however often a dataset is read."""
    _log.warning("%s", message)


def read_sheet(path: Path) -> Sheet | None:
    """The nodules of one file; None where it is no nodule sheet.

    Raises:
        DataError: The file cannot be read, or a row is wrong.
    """
    for table in read_tables(path):
        for at, row in enumerate(table[:_HEADER_WITHIN]):
            columns = _columns(row)
            if "scan" in columns and "image" in columns:
                if "position" not in columns and not {"x", "y"} <= columns.keys():
                    raise DataError(
                        f"{path}: no column for the position of a nodule in the header "
                        f"{quote('; '.join(filter(None, row)))}: take the official sheet"
                    )
                return _sheet(path, columns, table, first=at + 1)
    return None


def _columns(header: Row) -> dict[str, int]:
    spelt = [re.sub(r"[^a-z]", "", cell.lower()).replace("centre", "center") for cell in header]
    return {_COLUMNS[name]: at for at, name in enumerate(spelt) if name in _COLUMNS}


def _sheet(path: Path, columns: dict[str, int], table: list[Row], *, first: int) -> Sheet:
    nodules: dict[str, Nodule] = {}
    for at, row in enumerate(table[first:], first + 1):
        if _is_note([cell for cell in row if cell]):
            continue
        cells = {name: row[i] if i < len(row) else "" for name, i in columns.items()}
        try:
            nodule = _nodule(cells)
            if nodule.key in nodules:
                raise ValueError(f"nodule {nodule.key} is listed twice")
        except ValueError as error:
            raise DataError(f"{path}, row {at}: {error}") from None
        nodules[nodule.key] = nodule
    kinds = {_set_of(nodule.scan) for nodule in nodules.values()}
    if len(kinds) != 1:
        what = "holds both sets" if kinds else "holds no nodule"
        raise DataError(f"{path}: {what}: one sheet for each set is expected")
    return Sheet(path, kinds.pop(), "position" in columns, "diagnosis" in columns, nodules)


def _is_note(filled: list[str]) -> bool:
    """Whether a row is blank or a footnote: one cell of text, or an asterisk first."""
    if not filled or filled[0].startswith("*"):
        return True
    return len(filled) == 1 and not filled[0].lower().startswith(tuple(_SETS))


def _nodule(cells: dict[str, str]) -> Nodule:
    """One nodule.

    Raises:
        ValueError: A cell is wrong; the message names it.
    """
    label: str | None = UNLABELLED
    if "diagnosis" in cells:
        label = _LABELS.get(" ".join(cells["diagnosis"].lower().split()))
    if label is None:
        told = quote(cells["diagnosis"])
        raise ValueError(f"diagnosis is {told}: known are {', '.join(_LABELS)}")
    if "position" in cells:
        column, row = _position(cells["position"])
    else:
        column, row = _count("x position", cells["x"]), _count("y position", cells["y"])
    return Nodule(
        scan=_scan(cells["scan"]),
        number=_count("nodule number", cells.get("nodule") or "1"),
        column=column,
        row=row,
        image=_count("center image", cells["image"]),
        label=label,
    )


def _set_of(scan: str) -> str:
    return next(kind for kind in _SETS.values() if scan.startswith(kind))


def _scan(text: str) -> str:
    for prefix, spelt in _SETS.items():
        if text.lower().startswith(prefix) and re.fullmatch(r"[\w-]{1,40}", text[len(prefix) :]):
            return spelt + text[len(prefix) :].upper()
    raise ValueError(f"scan is {quote(text)}: must begin with {' or '.join(_SETS.values())}")


def _count(what: str, text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}(\.0+)?", text) and (number := int(float(text))) > 0:
        return number
    raise ValueError(f"{what} is {quote(text)}: must be a whole number from 1 on")


def _position(text: str) -> tuple[int, int]:
    """Column and row from one cell.

    ``120,325`` may have been taken for a number with a thousands separator and come as 120325:
    the row is then its last three digits.
    """
    number = re.fullmatch(r"([0-9]{1,3})([0-9]{3})(\.0+)?", text)
    pair = number or re.fullmatch(r"\(?([0-9]{1,9})[\s.,;/]+([0-9]{1,9})\)?", text)
    if pair and int(pair[1]) > 0 and int(pair[2]) > 0:
        return int(pair[1]), int(pair[2])
    raise ValueError(f"position is {quote(text)}: must be 'column, row' in pixels, from 1 on")
