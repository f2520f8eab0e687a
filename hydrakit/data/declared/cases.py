"""Cases of a declared dataset, from a table (CSV, NPZ) or a pattern, checked before pixels."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hydrakit.data.declared.arrays import MAX_COLUMN_BYTES, ImageError, member_names, open_array
from hydrakit.data.declared.columns import (
    SUBGROUP,
    find_columns,
    remarks_on_columns,
    wrong_separator,
)
from hydrakit.data.declared.files import companions, describe_files, list_files, remarks_on_files
from hydrakit.data.declared.masks import MaskFinder
from hydrakit.data.declared.patterns import match_files
from hydrakit.data.declared.schema import (
    FILE,
    NONE,
    UNKNOWN,
    Declaration,
    SplitName,
    number,
)
from hydrakit.data.identity import names_nobody, normal_name
from hydrakit.data.safe_paths import join_names, path_fault, quote, resolve_inside
from hydrakit.errors import DataError
from hydrakit.hooks import Remark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hydrakit.hooks import Label

MAX_TABLE_BYTES = 2**25
# How else a declared dataset can name a class; images that are given without one cannot.
MAP_LABELS = f', or map it to a class under [labels] in {FILE} ("" if it is unknown)'
MAX_CELL = 1000  # characters: keys and patients appear in messages and reports
SEPARATOR = ";"

_MONTH = "(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Mrz|Mai|Okt|Dez)"
_CONVERTED = re.compile(
    rf"[0-9]([.,][0-9]+)?E\+[0-9]{{2,3}}|[0-9]{{1,2}}(-|\. ?){_MONTH}|{_MONTH}[- ][0-9]{{2}}", re.I
)

_MEMBER = re.compile(
    r"(?P<array>.+\.np[yz])#(?P<member>[^\[\]]*)(?:\[(?P<row>\d{1,12})\])?"
    r"|(?P<file>.+)#\[(?P<image>\d{1,12})\]",
    re.I | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """Location of one image.

    Attributes:
        file: Path of the file below the root.
        member: Name of the array in an NPZ file; None if the file has only one.
        row: Index of the image in a file of several, from 0: a row of an array, a page, a frame or
            a slice; None for the whole file.
    """

    file: str
    member: str | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredCase:
    """One declared case, before its image is read.

    Attributes:
        key: Identity of the case, unique in its dataset.
        channels: Locations of the images, each with one or more channels.
        label: Label as in `hydrakit.hooks.Sample`; None if it is unknown.
        patient: Patient identifier; None to take it from the file, or else from the key.
        group: Name of the group of cases that must stay together, if any.
        finding: Name of the finding within the patient, if any.
        subgroups: Subgroups of the case and their values.
        split: Split that the dataset declares for the case, if any.
        position: Position of the lesion, ``(row, column)`` from the centre of the upper left pixel.
        millimetres: Whether ``position`` is in millimetres; otherwise it is in pixels.
        masks: Paths of the masks of its lesion below the root; None if the dataset declares none.
    """

    key: str
    channels: tuple[ImageLocation, ...]
    label: Label | None
    patient: str | None
    group: str | None
    finding: str | None
    subgroups: dict[str, str]
    split: SplitName | None
    position: tuple[float, float] | None
    millimetres: bool
    masks: tuple[str, ...] | None = None


Fields = dict[str, str]
_NAMES = ("patient", "group", "finding")


@dataclass(frozen=True, slots=True)
class CsvTable:
    """Content of a CSV file, and its path for messages."""

    path: Path
    content: bytes


@dataclass(frozen=True, slots=True)
class Listing:
    """The declared cases of a dataset, and what users must know about how they were listed."""

    cases: tuple[DeclaredCase, ...]
    remarks: tuple[Remark, ...]


def list_cases(declaration: Declaration, root: Path, *, table: CsvTable | None) -> Listing:
    """List every case of a dataset, in the order of its table or paths.

    Args:
        declaration: Declaration of the dataset.
        root: Folder of the dataset's files.
        table: CSV table of cases; None if the cases come from an NPZ file or a pattern.

    Raises:
        DataError: A case is invalid; the message names the file, the line or row, and the value.
    """
    cases: list[DeclaredCase] = []
    remarks: list[Remark] = []
    first: dict[str, str] = {}
    unnamed: list[str] = []
    above = ""
    finder = MaskFinder(root, declaration.mask) if declaration.mask else None
    for row in _rows(declaration, root, table):
        if isinstance(row, Remark):
            remarks.append(row)
            continue
        where, fields = row
        if declaration.empty_patient is not None and "patient" not in fields:
            raise DataError(
                f"{where}: empty_patient in {FILE}: there is no column of patients: remove it"
            )
        if declaration.empty_patient == "above":
            above = above if _is_blank(fields["patient"]) else fields["patient"]
            fields = {**fields, "patient": above}
        try:
            case = case_of(declaration, fields)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if finder is not None:
            case = replace(case, masks=_masks(finder, case, fields, where))
        if case.key in first:
            raise DataError(
                f"{where}: the key {quote(case.key)} also belongs to {first[case.key]}: remove "
                "one, or give each a key of its own"
            )
        first[case.key] = where.rpartition(": ")[2]
        if "patient" in fields and case.patient is None:
            unnamed.append(where)
        cases.append(case)
    if not cases:
        source = f"pattern {declaration.pattern!r}" if declaration.pattern else declaration.cases
        raise DataError(
            f"{root}: {source} yields no case: compare it with the files in the folder (there are "
            f"{describe_files(name for name in list_files(root, tolerant=True) if name != FILE)})"
        )
    if 0 < len(unnamed) < len(cases) and declaration.empty_patient is None:
        raise DataError(
            f"{unnamed[0]}: the patient is empty, NA, unknown or alike (in {len(unnamed)} of "
            f"{len(cases)} cases; the others name theirs): "
            f'name all, or write into {FILE} empty_patient = "own" (each of these cases has a '
            'patient of its own) or "above" (that of the row above, as in merged cells of a '
            "spreadsheet)"
        )
    return Listing(tuple(cases), tuple(remarks))


def _masks(finder: MaskFinder, case: DeclaredCase, fields: Fields, where: str) -> tuple[str, ...]:
    """The masks of a case, which the key ``mask`` of the declaration names."""
    if case.masks is not None:
        raise DataError(f"{where}: a column and the key mask in {FILE} name masks: remove one")
    if case.position is not None:
        raise DataError(f"{where}: a mask and columns of a position are given: remove one")
    return finder.find(case.channels[0].file, fields)


def _is_blank(text: str) -> bool:
    return not normal_name(text)


def _rows(
    declaration: Declaration, root: Path, table: CsvTable | None
) -> Iterator[tuple[str, Fields] | Remark]:
    """Yield where each case is declared, and its fields as text, named as in `Columns`."""
    if declaration.pattern is not None:
        yield from _pattern_rows(declaration, declaration.pattern, root)
    elif table is not None:
        yield from csv_rows(declaration, table)
    else:
        yield from _npz_rows(declaration, root)


def _pattern_rows(
    declaration: Declaration, pattern: str, root: Path
) -> Iterator[tuple[str, Fields] | Remark]:
    matched = dict(match_files(root, pattern, follow=declaration.follow_links))
    masks = {} if declaration.masks == "cases" else companions(matched)
    used: set[str] = set()
    if declaration.mask is not None:
        finder = MaskFinder(root, declaration.mask)
        used = {mask for path, parts in matched.items() for mask in finder.find(path, parts)}
    for path, parts in matched.items():
        if path not in masks and path not in used:
            yield f"{root}: {quote(path)}", {"path": path, **parts}
    masks = {mask: image for mask, image in masks.items() if mask not in used}
    yield from remarks_on_files(
        root, pattern, {*matched, *used}, masks, follow=declaration.follow_links
    )


def csv_rows(
    declaration: Declaration, table: CsvTable, *, more: Sequence[str] | None = None
) -> Iterator[tuple[str, Fields] | Remark]:
    """Yield where each row of a table is, and its fields as text; remarks on columns come first.

    Args:
        declaration: Declaration of the dataset.
        table: The table.
        more: For a table that no file declares: fields besides those of `Columns`; it needs no
            labels.

    Raises:
        DataError: The table is no CSV, or lacks a column.
    """
    name = table.path
    try:
        text = table.content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name}: is not UTF-8 text: save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if marks := wrong_separator(header):
            raise DataError(
                f"{name}: line 1: its cells are separated by {marks}: save it with commas"
            )
        columns = find_columns(declaration, header, f"{name}: line 1", more=more)
        yield from remarks_on_columns(name.name, header, columns)
        for row in reader:
            where = f"{name}: line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{where}: has {len(row)} cells where the header has {len(header)}: write "
                    'cells with a comma in "quotes"'
                )
            cells = dict(zip(header, row, strict=True))
            yield where, {field: cells[column] for field, column in columns.items()}
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num}: {error}: correct the line") from None


def _npz_rows(declaration: Declaration, root: Path) -> Iterator[tuple[str, Fields] | Remark]:
    name = str(declaration.cases)
    try:
        path = resolve_inside(root, name, follow=declaration.follow_links)
        members = member_names(path)
        columns = find_columns(declaration, members, str(path))
        yield from remarks_on_columns(name, members, columns)
        image = columns.pop("image")
        arrays = {field: _texts(declaration, path, column) for field, column in columns.items()}
        stored = open_array(path, image)
    except OSError as error:
        raise DataError(f"{root / name}: cannot be read: {error.strerror or error}") from None
    stored.close()
    rows = stored.shape[0] if stored.shape else 0
    for field, texts in arrays.items():
        if len(texts) != rows:
            raise DataError(
                f"{path}: {columns[field]!r} has {len(texts)} rows where {image!r} has {rows}: "
                "every array needs one row per case"
            )
    for row in range(rows):
        fields = {field: texts[row] for field, texts in arrays.items()}
        yield f"{path}: row {row}", {"path": f"{name}#{image}[{row}]", **fields}


def _texts(declaration: Declaration, path: Path, member: str) -> list[str]:
    """Read one column of an NPZ table as text."""
    stored = open_array(path, member)
    try:
        values = stored.read(limit=MAX_COLUMN_BYTES)
    finally:
        stored.close()
    if values.dtype.kind == "U" and values.nbytes:
        points = values.reshape(-1).view(values.dtype.byteorder + "u4")
        if points.max() > sys.maxunicode:  # NumPy would create invalid Python strings from it
            raise ImageError(path, f"{member!r} holds invalid text: save it again")
    if values.ndim == 2 and declaration.task == "multilabel":
        return _label_sets(declaration, path, member, values)
    if values.ndim == 2 and values.shape[1] == 1:  # a column of one value per case, as in MedMNIST
        values = values[:, 0]
    if values.ndim != 1:
        raise ImageError(path, f"{member!r} has shape {values.shape}: one value per case is needed")
    if values.dtype.kind == "S":
        try:
            return [bytes(value).decode("utf-8") for value in values]
        except UnicodeDecodeError:  # replaced characters would make one patient of several
            raise ImageError(path, f"{member!r} is not UTF-8 text: save it as UTF-8") from None
    return [str(value) for value in values.tolist()]


def _label_sets(
    declaration: Declaration, path: Path, member: str, values: NDArray[np.generic]
) -> list[str]:
    """Convert rows of 0 and 1, one column per label, to the text that a CSV would have."""
    classes = declaration.classes
    if values.shape[1] != len(classes) or not set(values.ravel().tolist()) <= {0, 1}:
        raise ImageError(
            path, f"{member!r}: must hold 0 and 1 in {len(classes)} columns, one per class"
        )
    return [
        SEPARATOR.join(name for name, present in zip(classes, row, strict=True) if present) or NONE
        for row in values.tolist()
    ]


def case_of(declaration: Declaration, fields: Fields) -> DeclaredCase:
    """Convert the fields of a case.

    Raises:
        ValueError: A field is invalid.
    """
    filled = {
        field: text.strip()
        for field, text in fields.items()
        if text.strip() and (field not in _NAMES or _is_name(declaration, text))
    }
    for field, text in filled.items():
        if len(text) > MAX_CELL:
            raise ValueError(f"{field} has over {MAX_CELL} characters: shorten it")
    paths = [fields["path"]]
    if str(declaration.cases).lower().endswith(".csv"):
        _refuse_converted(filled)
        # Other sources give one file per case.
        paths = [part.strip() for part in fields["path"].split(SEPARATOR)]
    position, millimetres = _position(filled)
    return DeclaredCase(
        channels=tuple(_location(path) for path in paths),
        key=filled.get("key") or filled["path"],
        label=label_of(declaration, filled.get("label", "")),
        patient=filled.get("patient"),
        group=filled.get("group"),
        finding=filled.get("finding"),
        subgroups={
            field.removeprefix(SUBGROUP): text
            for field, text in filled.items()
            if field.startswith(SUBGROUP)
        },
        split=_split(declaration, filled.get("split")),
        position=position,
        millimetres=millimetres,
        masks=_mask_column(fields, position),
    )


def _mask_column(fields: Fields, position: object) -> tuple[str, ...] | None:
    """The paths in the column ``mask``; None without this column.

    Raises:
        ValueError: One is wrong, or the case has a position as well.
    """
    if "mask" not in fields:
        return None
    paths = tuple(part.strip() for part in fields["mask"].split(SEPARATOR) if part.strip())
    for path in paths:
        if fault := path_fault(path):
            raise ValueError(f"mask {quote(path)} {fault}")
    if paths and position is not None:
        raise ValueError("a mask and a position are given: remove one")
    return paths


def _is_name(declaration: Declaration, text: str) -> bool:
    """Whether a text names a patient, a group or a finding; with exact names, any text does."""
    return not (_is_blank(text) if declaration.exact_names else names_nobody(text))


def _refuse_converted(filled: Fields) -> None:
    """Refuse a name that a spreadsheet made a date of ("1-2") or shortened (1.23457E+15).

    Raises:
        ValueError: There is one: other names may have become equal to it.
    """
    for field in ("patient", "group", "finding", "key"):
        if _CONVERTED.fullmatch(filled.get(field, "")):
            raise ValueError(
                f"{field} {quote(filled[field])} looks like a name that a spreadsheet turned into "
                "a date or shortened: export the original names, with this column as text"
            )


def _location(text: str) -> ImageLocation:
    match = _MEMBER.fullmatch(text)
    location = ImageLocation(text)
    if match:
        row = match["row"] or match["image"]
        location = ImageLocation(
            match["array"] or match["file"], match["member"] or None, int(row) if row else None
        )
    fault = path_fault(location.file)
    if fault:
        raise ValueError(f"path {quote(location.file)} {fault}")
    return location


def label_of(declaration: Declaration, text: str) -> Label | None:
    """Convert the text of a label; None if it is unknown.

    Raises:
        ValueError: It is no label of the dataset.
    """
    mapped = declaration.labels.get(text, text)
    if mapped == UNKNOWN:
        return None
    if declaration.task == "regression":
        return number(mapped, "label")
    if declaration.task == "classification":
        return _class(declaration, mapped)
    if mapped == NONE:
        return (0,) * len(declaration.classes)
    names = [declaration.labels.get(part.strip(), part.strip()) for part in mapped.split(SEPARATOR)]
    present = {_class(declaration, name) for name in names if name != NONE}
    return tuple(int(index in present) for index in range(len(declaration.classes)))


def _class(declaration: Declaration, name: str) -> int:
    if name not in declaration.classes:
        raise ValueError(
            f"label {quote(name)} is none of the classes {join_names(declaration.classes)}: "
            f"correct it{MAP_LABELS}"
        )
    return declaration.classes.index(name)


def _split(declaration: Declaration, text: str | None) -> SplitName | None:
    if text is None:
        return None
    names: tuple[SplitName, ...] = get_args(SplitName)
    for split in names:
        if declaration.splits.get(text, text) == split:
            return split
    raise ValueError(
        f"split {quote(text)} is none of {', '.join(names)}: correct it, or map it under [splits] "
        f"in {FILE}"
    )


def _position(filled: Fields) -> tuple[tuple[float, float] | None, bool]:
    """Return the position, and whether it is in millimetres."""
    positions = []
    for names, millimetres in ((("row", "column"), False), (("row_mm", "column_mm"), True)):
        texts = [filled.get(name) for name in names]
        if None in texts and texts != [None, None]:
            raise ValueError(f"only one of {names[0]} and {names[1]} is given: give both or none")
        row, column = texts
        if row is not None and column is not None:
            positions.append(((number(row, names[0]), number(column, names[1])), millimetres))
    if len(positions) > 1:
        raise ValueError("the position is given both in pixels and in millimetres: give one")
    return positions[0] if positions else (None, False)
