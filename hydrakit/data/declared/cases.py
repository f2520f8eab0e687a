"""The cases that a declaration lists: a table (CSV, NPZ) or a pattern, checked before any pixel."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hydrakit.data.declared.arrays import MAX_COLUMN_BYTES, ImageError, member_names, open_array
from hydrakit.data.declared.patterns import find
from hydrakit.data.declared.schema import (
    FILE,
    NONE,
    UNKNOWN,
    Columns,
    Declaration,
    SplitName,
    number,
)
from hydrakit.data.safe_paths import inside, listed, path_fault, shown
from hydrakit.errors import DataError, unknown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hydrakit.hooks import Label

MAX_TABLE_BYTES = 2**25
MAX_CELL = 1000  # characters: keys and patients are shown
SEPARATOR = ";"

_SUBGROUP = "subgroups."  # before a subgroup's name, among the fields of a case

_MEMBER = re.compile(r"(?P<file>.+\.np[yz])#(?P<member>[^\[\]]*)(?:\[(?P<row>\d{1,12})\])?", re.I)


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """Where one image is: a file below the root, and for arrays the member and the row."""

    file: str
    member: str | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredCase:
    """One case as it is declared, before its image is read.

    Attributes:
        key: Its identity.
        channels: Its images, each of one or more channels.
        label: As in `hydrakit.hooks.Sample`.
        patient: None where it is left to the file, or to the key.
        group: As in `Sample`.
        finding: As in `Sample`.
        subgroups: As in `Sample`.
        split: As in `Sample`.
        position: Of the lesion, ``(row, column)`` from the middle of the upper left pixel.
        millimetres: Whether ``position`` is in millimetres; otherwise in pixels.
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


Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A CSV file's path, for messages, and its content."""

    path: Path
    content: bytes


def list_cases(
    declaration: Declaration, root: Path, *, table: CsvTable | None
) -> list[DeclaredCase]:
    """Every case of a dataset, in the order of its table or of its paths.

    Args:
        declaration: Of the dataset.
        root: The folder of its files.
        table: The CSV, where the cases are in one.

    Raises:
        DataError: A case is wrong; the message names the file, the place in it, and the value.
    """
    cases: list[DeclaredCase] = []
    first: dict[str, str] = {}
    for where, fields in _rows(declaration, root, table):
        try:
            case = _case(declaration, fields)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if case.key in first:
            raise DataError(
                f"{where}: the key {shown(case.key)} is also that of {first[case.key]}: remove "
                "one, or give each a key of its own"
            )
        first[case.key] = where.rpartition(": ")[2]
        cases.append(case)
    if not cases:
        what = f"pattern {declaration.pattern!r}" if declaration.pattern else declaration.cases
        raise DataError(f"{root}: {what} gives no case: compare it with the files that are there")
    return cases


def _rows(
    declaration: Declaration, root: Path, table: CsvTable | None
) -> Iterator[tuple[str, Fields]]:
    """Where each case is declared, and its fields as text, by their names in `Columns`."""
    if declaration.pattern is not None:
        for path, parts in find(root, declaration.pattern):
            yield f"{root}: {shown(path)}", {"path": path, **parts}
    elif table is not None:
        yield from _csv_rows(declaration, table)
    else:
        yield from _npz_rows(declaration, root)


def _csv_rows(declaration: Declaration, table: CsvTable) -> Iterator[tuple[str, Fields]]:
    name = table.path
    try:
        text = table.content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name}: is not UTF-8 text: save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        columns = _columns(declaration, header, f"{name}: line 1")
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


def _columns(declaration: Declaration, there: list[str], where: str) -> dict[str, str]:
    """The column of each field that the table has.

    A column that is another field by the declaration is not looked for by its own name.
    """
    for column in there:
        if column and there.count(column) > 1:
            raise DataError(f"{where}: the column {shown(column)} is there twice: rename one")
    known = [column for column in there if column.isprintable() and len(column) <= 60][:20]
    given = declaration.columns.model_dump(exclude_none=True)
    asked = {f"columns.{field}": (field, column) for field, column in given.items()}
    for name, column in declaration.subgroups.items():
        asked[f"{_SUBGROUP}{name}"] = f"{_SUBGROUP}{name}", column
    for key, (_, column) in asked.items():
        if column not in there:
            raise DataError(f"{where}: {unknown('column', column, known)} ({key} in {FILE})")
    own = {field: field for field in Columns.model_fields if field in there}
    taken = set(given.values())
    found = {field: column for field, column in own.items() if column not in taken}
    found |= dict(asked.values())
    images, other = (
        ("path", "image") if str(declaration.cases).lower().endswith(".csv") else ("image", "path")
    )
    found.pop(other, None)
    for field in (images, "label"):
        if field not in found:
            raise DataError(
                f"{where}: no column {field!r}: add it, or name it under [columns] in {FILE} "
                f"(there are {', '.join(known) or 'none'})"
            )
    return found


def _npz_rows(declaration: Declaration, root: Path) -> Iterator[tuple[str, Fields]]:
    name = str(declaration.cases)
    try:
        path = inside(root, name)
        columns = _columns(declaration, member_names(path), str(path))
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
    """One column of an NPZ table, as text."""
    stored = open_array(path, member)
    try:
        values = stored.read(limit=MAX_COLUMN_BYTES)
    finally:
        stored.close()
    if values.dtype.kind == "U" and values.nbytes:
        points = values.reshape(-1).view(values.dtype.byteorder + "u4")
        if points.max() > sys.maxunicode:  # NumPy would make strings of it that break Python
            raise ImageError(path, f"{member!r} holds what is no text: save it anew")
    if values.ndim == 2 and declaration.task == "multilabel":
        return _label_sets(declaration, path, member, values)
    if values.ndim != 1:
        raise ImageError(path, f"{member!r} has shape {values.shape}: one value per case is needed")
    if values.dtype.kind == "S":
        return [bytes(value).decode("utf-8", errors="replace") for value in values]
    return [str(value) for value in values.tolist()]


def _label_sets(
    declaration: Declaration, path: Path, member: str, values: NDArray[np.generic]
) -> list[str]:
    """Rows of 0 and 1, one per label, as the text that a CSV would have."""
    classes = declaration.classes
    if values.shape[1] != len(classes) or not set(values.ravel().tolist()) <= {0, 1}:
        raise ImageError(
            path, f"{member!r}: needed are 0 and 1 in {len(classes)} columns, one per class"
        )
    return [
        SEPARATOR.join(name for name, is_so in zip(classes, row, strict=True) if is_so) or NONE
        for row in values.tolist()
    ]


def _case(declaration: Declaration, fields: Fields) -> DeclaredCase:
    """One case.

    Raises:
        ValueError: One of its fields is wrong.
    """
    given = {field: text.strip() for field, text in fields.items() if text.strip()}
    for field, text in given.items():
        if len(text) > MAX_CELL:
            raise ValueError(f"{field} has over {MAX_CELL} characters: shorten it")
    paths = [fields["path"]]
    if str(declaration.cases).lower().endswith(".csv"):  # other names are those of real files
        paths = [part.strip() for part in fields["path"].split(SEPARATOR)]
    position, millimetres = _position(given)
    return DeclaredCase(
        channels=tuple(_place(path) for path in paths),
        key=given.get("key") or given["path"],
        label=_label(declaration, given.get("label", "")),
        patient=given.get("patient"),
        group=given.get("group"),
        finding=given.get("finding"),
        subgroups={
            field.removeprefix(_SUBGROUP): text
            for field, text in given.items()
            if field.startswith(_SUBGROUP)
        },
        split=_split(declaration, given.get("split")),
        position=position,
        millimetres=millimetres,
    )


def _place(text: str) -> ImageLocation:
    match = _MEMBER.fullmatch(text)
    place = ImageLocation(text)
    if match:
        row = None if match["row"] is None else int(match["row"])
        place = ImageLocation(match["file"], match["member"] or None, row)
    fault = path_fault(place.file)
    if fault:
        raise ValueError(f"path {shown(place.file)} {fault}")
    return place


def _label(declaration: Declaration, text: str) -> Label | None:
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
    chosen = {_class(declaration, name) for name in names if name != NONE}
    return tuple(int(index in chosen) for index in range(len(declaration.classes)))


def _class(declaration: Declaration, name: str) -> int:
    if name not in declaration.classes:
        raise ValueError(
            f"label {shown(name)} is none of the classes {listed(declaration.classes)}: correct "
            f'it, or say under [labels] in {FILE} which it is ("" where it is unknown)'
        )
    return declaration.classes.index(name)


def _split(declaration: Declaration, text: str | None) -> SplitName | None:
    if text is None:
        return None
    known: tuple[SplitName, ...] = get_args(SplitName)
    for split in known:
        if declaration.splits.get(text, text) == split:
            return split
    raise ValueError(
        f"split {shown(text)} is none of {', '.join(known)}: correct it, or say under [splits] in "
        f"{FILE} which it is"
    )


def _position(given: Fields) -> tuple[tuple[float, float] | None, bool]:
    """The position, and whether it is in millimetres."""
    found = []
    for names, millimetres in ((("row", "column"), False), (("row_mm", "column_mm"), True)):
        texts = [given.get(name) for name in names]
        if None in texts and texts != [None, None]:
            raise ValueError(f"only one of {names[0]} and {names[1]}: give both or none")
        row, column = texts
        if row is not None and column is not None:
            found.append(((number(row, names[0]), number(column, names[1])), millimetres))
    if len(found) > 1:
        raise ValueError("a position both in pixels and in millimetres: give one")
    return found[0] if found else (None, False)
