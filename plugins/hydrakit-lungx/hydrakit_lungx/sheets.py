"""Reading of the LUNGx nodule sheets in all their variants.

The official sheets are one .xlsx for the calibration set and one for the test set. They differ in
their column names and label texts, have the position in one cell, and have footnotes. Exported and
edited copies have more variants: the position in two cells, or as one number because of its comma;
``;`` or ``,`` between the cells of a .csv.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydrakit.data.archives import unpack_hint
from hydrakit.data.safe_paths import quote
from hydrakit.errors import DataError
from hydrakit.storage.tables import Table
from hydrakit_lungx.tables import is_table, read_if

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
# Lower-case letters of a header cell -> content of the column.
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
# Prefix of the scan names in each set, in upper or lower case.
SETS = {"calibration": "CT-Training-", "test": "LUNGx-CT"}
_SETS = {spelt.lower(): spelt for spelt in SETS.values()}


@dataclass(frozen=True, slots=True)
class Nodule:
    """A row of a nodule sheet.

    Attributes:
        scan: The scan's name as DICOM spells it: ``CT-Training-LC001``, ``LUNGx-CT001``.
        number: Number of the nodule in its scan, from 1.
        column: Column of the centre in pixels; the left column is 1.
        row: Row of the centre in pixels; the top row is 1.
        image: "Nodule Center Image" of the sheet.
        label: ``benign``, ``malignant``, ``suspicious``, or ``unlabelled`` for a sheet without
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
        """Key of the nodule: scan and number."""
        return f"{self.scan}/{self.number}"

    @property
    def place(self) -> str:
        """Position of the centre as text, in the sheet's coordinates."""
        return f"{self.column}, {self.row} in image {self.image}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The nodules of one sheet.

    Attributes:
        path: Path of the file.
        kind: Scan prefix of the set: ``CT-Training-`` (calibration) or ``LUNGx-CT`` (test).
        one_cell: Whether the position is in one cell, as in the official sheets.
        labelled: Whether the sheet has diagnoses.
        nodules: Nodules by key, in the order of the rows.
    """

    path: Path
    kind: str
    one_cell: bool
    labelled: bool
    nodules: dict[str, Nodule]


def find_sheets(
    files: Iterable[Path], names: str, root: Path, *, kind: str | None = None
) -> list[Sheet]:
    """Return one sheet for each set, the calibration set's first.

    A sheet is recognised by its header. Of several sheets of one set, the order of preference is:
    with diagnoses; with the position in one cell (the official form; splitting it is manual work);
    with more nodules; .csv before .xlsx; first by path. If another sheet differs in a nodule's
    position or presence, a warning names the nodules.

    Args:
        files: All files below ``root``.
        names: File names of the sheets to read, separated by commas; empty for all.
        root: Folder of the dataset, for messages.
        kind: Scan prefix of the requested set; None for both sets.

    Raises:
        DataError: A requested set has no sheet, a sheet cannot be read, or two sheets of one set
            disagree on a label.
    """
    listed = list(files)
    tables = [path for path in listed if is_table(path)]
    requested = [name.strip() for name in names.split(",") if name.strip()]
    for name in requested:
        if all(path.name != name for path in tables):
            raise DataError(f"{root}: option sheet: no file {name!r} (.csv or .xlsx) below it")
    paths = [path for path in tables if not requested or path.name in requested]
    sheets = [sheet for path in paths if (sheet := read_sheet(path))]
    if not sheets:
        raise DataError(
            f"{root}: no LUNGx nodule sheet below it: put CalibrationSet_NoduleData.xlsx, "
            "TestSet_NoduleData_PublicRelease_wTruth.xlsx, or their .csv exports there "
            f"(https://doi.org/10.7937/K9/TCIA.2015.UZLSU3FL){unpack_hint(listed)}"
        )
    by_kind = {each: [s for s in sheets if s.kind == each] for each in SETS.values()}
    if kind is not None and not by_kind[kind]:
        raise DataError(f"{root}: option set: no sheet with scans named {kind}... below it")
    return [_choose(group) for each, group in by_kind.items() if group and kind in (None, each)]


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
        _warn_once(
            f"lung: {chosen.path} has no diagnoses: its nodules are only for `hydrakit predict`"
        )
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
            _warn_once(
                f"lung: {chosen.path} is used instead of {other.path}, which differs: "
                + "; ".join(differences)
            )
    return chosen


def _differences(chosen: Sheet, other: Sheet) -> list[str]:
    """List where another sheet differs in the position or presence of nodules."""
    differences = []
    for key, nodule in chosen.nodules.items():
        if key in other.nodules and nodule.place != other.nodules[key].place:
            differences.append(
                f"{key} is at {other.nodules[key].place} there and not at {nodule.place}"
            )
    for has, has_not, where in (
        (chosen, other, "there"),
        (other, chosen, "in the sheet that is used"),
    ):
        missing = [key for key in has.nodules if key not in has_not.nodules]
        if missing:
            differences.append(f"not {where}: {', '.join(missing)}")
    return differences


@cache
def _warn_once(message: str) -> None:
    """Log a warning once, even if a dataset is read several times."""
    _log.warning("%s", message)


def read_sheet(path: Path) -> Sheet | None:
    """Read the nodules of one file; return None if it is not a nodule sheet.

    Raises:
        DataError: The file cannot be read, or a row is invalid.
    """
    table = read_if(path, lambda header: {"scan", "image"} <= _columns(header).keys())
    if table is None:
        return None
    columns = _columns(table.header)
    if "position" not in columns and not {"x", "y"} <= columns.keys():
        raise DataError(
            f"{path}: no column for the position of a nodule in the header "
            f"{quote('; '.join(filter(None, table.header)))}: use the official sheet"
        )
    return _sheet(path, columns, table)


def _columns(header: tuple[str, ...]) -> dict[str, int]:
    spelt = [re.sub(r"[^a-z]", "", cell.lower()).replace("centre", "center") for cell in header]
    return {_COLUMNS[name]: at for at, name in enumerate(spelt) if name in _COLUMNS}


def _sheet(path: Path, columns: dict[str, int], table: Table) -> Sheet:
    nodules: dict[str, Nodule] = {}
    doubtful: list[str] = []
    for place, texts in table.rows_as_they_are():
        row = [cell.strip() for cell in texts]
        if _is_note([cell for cell in row if cell]):
            continue
        cells = {name: row[i] if i < len(row) else "" for name, i in columns.items()}
        try:
            nodule = _nodule(cells)
            if nodule.key in nodules:
                raise ValueError(f"nodule {nodule.key} is listed twice")
        except ValueError as error:
            raise DataError(f"{path}, {place}: {error}") from None
        nodules[nodule.key] = nodule
        if re.fullmatch(r"[0-9]{1,3},[0-9]{1,2}", cells.get("position", "")):
            doubtful.append(cells["position"])
    if doubtful and path.suffix.lower() == ".csv":  # in an .xlsx, a cell with a comma is text
        _warn_once(
            f"lung: {path}: {len(doubtful)} positions, the first {quote(doubtful[0])}, may be "
            "numbers with decimal commas that lost zeros (197,29 for 197,290): compare them with "
            "the official sheet"
        )
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
    """Convert the cells of one nodule.

    Raises:
        ValueError: A cell is invalid; the message names it.
    """
    label: str | None = UNLABELLED
    if "diagnosis" in cells:
        label = _LABELS.get(" ".join(cells["diagnosis"].lower().split()))
    if label is None:
        diagnosis = quote(cells["diagnosis"])
        raise ValueError(f"diagnosis is {diagnosis}: must be one of {', '.join(_LABELS)}")
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
    # Not 1.000: in some countries that is a thousand.
    if re.fullmatch(r"[0-9]{1,9}(\.00?)?", text) and (number := int(float(text))) > 0:
        return number
    raise ValueError(f"{what} is {quote(text)}: must be a whole number from 1 on")


def _position(text: str) -> tuple[int, int]:
    """Parse column and row from one cell.

    A spreadsheet may have read ``120,325`` as a number with a thousands separator, 120325: the row
    is then its last three digits. Or it has read ``197,290`` as a number with decimals, 197.29,
    which may also be ``197,29``: a number is not read if its row has fewer than three digits.

    Raises:
        ValueError: The cell holds no position, or it may be a number with lost zeros.
    """
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2}|0[0-9]{2})", text):
        raise ValueError(
            f"position is {quote(text)}: a spreadsheet may have made this number of a column and a "
            "row and lost zeros: write them with a blank, as in '197, 290', in a cell of text"
        )
    number = re.fullmatch(r"([0-9]{1,3})([0-9]{3})(\.0+)?", text)
    pair = number or re.fullmatch(r"\(?([0-9]{1,9})[\s.,;/]+([0-9]{1,9})\)?", text)
    if pair and int(pair[1]) > 0 and int(pair[2]) > 0:
        return int(pair[1]), int(pair[2])
    raise ValueError(f"position is {quote(text)}: must be 'column, row' in pixels, from 1 on")
