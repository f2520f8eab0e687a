"""Rows of a declared dataset, of a table, an NPZ file or a pattern, as fields of text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.data.declared.arrays import MAX_COLUMN_BYTES, ImageError, member_names, open_array
from hydrakit.data.declared.coco import SUFFIX as COCO
from hydrakit.data.declared.coco import coco_table, size_columns
from hydrakit.data.declared.columns import SUBGROUP, find_columns, has_columns, remarks_on_columns
from hydrakit.data.declared.files import companions, remarks_on_files
from hydrakit.data.declared.labels import answer_of
from hydrakit.data.declared.masks import MaskFinder
from hydrakit.data.declared.patterns import match_files
from hydrakit.data.declared.schema import FILE, NONE, SPLIT, UNKNOWN, Columns, Declaration
from hydrakit.data.declared.tables import TableFile
from hydrakit.data.safe_paths import join_names, quote, resolve_inside, same_form
from hydrakit.errors import DataError
from hydrakit.hooks import Remark
from hydrakit.stats.label_cells import label_cell
from hydrakit.storage.tables import Table, read_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Fields = dict[str, str]
_TEXTS = ("patient", "group", "finding", "key", "path", "mask", "split", "label")  # not numbers


def rows_of(
    declaration: Declaration, root: Path, tables: Sequence[TableFile]
) -> Iterator[tuple[str, Fields] | Remark]:
    """Yield where each case is declared, and its fields as text, named as in `Columns`."""
    if declaration.pattern is not None:
        yield from _pattern_rows(declaration, declaration.pattern, root)
    elif tables:
        for table in tables:
            for row in table_rows(declaration, table):
                if table.split is None or isinstance(row, Remark):
                    yield row
                else:
                    yield row[0], {"split": table.split, **row[1]}
    else:
        yield from _npz_rows(declaration, root)


def _pattern_rows(
    declaration: Declaration, pattern: str, root: Path
) -> Iterator[tuple[str, Fields] | Remark]:
    matched = dict(match_files(root, pattern, follow=declaration.follow_links))
    masks = {} if declaration.masks == "cases" else companions(matched)
    used: set[str] = set()
    found: set[str] = set()
    if declaration.mask is not None:
        finder = MaskFinder(root, declaration.mask)
        own = {path: finder.find(path, parts) for path, parts in matched.items()}
        found = {mask for each in own.values() for mask in each}
        images = {same_form(mask): path for path, each in own.items() for mask in each}
        used = {path for path in matched if same_form(path) in images}
        both = [path for path in matched if path in used and own[path]]
        if both:
            yield Remark(
                text=f"{len(both)} files are masks of other images by the key mask in {FILE}, and "
                f"have masks themselves (first {quote(both[0])}, of "
                f"{quote(images[same_form(both[0])])}): if they are cases, make the key match less",
                warning=True,
            )
    for path, parts in matched.items():
        if path not in masks and path not in used:
            yield f"{root}: {quote(path)}", {"path": path, **parts}
    masks = {mask: image for mask, image in masks.items() if mask not in used}
    yield from remarks_on_files(
        root, pattern, {*matched, *found}, masks, follow=declaration.follow_links
    )


def table_rows(
    declaration: Declaration, table: TableFile, *, more: Sequence[str] | None = None
) -> Iterator[tuple[str, Fields] | Remark]:
    """Yield where each row of a table is, and its fields as text; remarks on columns come first.

    Args:
        declaration: Declaration of the dataset.
        table: The table.
        more: For a table that no file declares: fields besides those of `Columns`; it needs no
            labels.

    Raises:
        DataError: The file is no table, or lacks a column.
    """
    name = table.path
    if name.suffix.lower() == COCO:
        read = coco_table(name, table.content, multilabel=declaration.task == "multilabel")
    else:
        read = read_table(
            name, table.content, lambda header: has_columns(declaration, header, more=more)
        )
    columns = find_columns(declaration, read.header, f"{name}: {read.place}", more=more)
    yield from read.remarks
    sizes = size_columns(read.header) if name.suffix.lower() == COCO else {}
    others = [column for column in read.header if column not in sizes.values()]
    yield from remarks_on_columns(name.name, others, columns)
    _refuse_dates(read, columns)
    at = {field: read.header.index(column) for field, column in (columns | sizes).items()}
    texts = _TEXTS[:-1] if declaration.task == "regression" else _TEXTS
    with_points = {
        field: read.with_points(column)
        for field, column in columns.items()
        if field not in texts and not field.startswith(SUBGROUP)
    }
    for place, cells in read.rows():
        yield (
            f"{name}: {place}",
            {field: with_points.get(field, str)(cells[column]) for field, column in at.items()},
        )


def _refuse_dates(table: Table, columns: Mapping[str, str]) -> None:
    """Refuse dates among the names of patients and findings: a spreadsheet makes one of ``1-2``."""
    for field in ("patient", "finding", "key"):
        if field in columns and (
            place := table.sheet.dates.get(table.header.index(columns[field]))
        ):
            raise DataError(
                f"{table.path}: {place}: {field} is a date, which a spreadsheet may have made of a "
                "name: format the column as text, and write the names again"
            )


def _npz_rows(declaration: Declaration, root: Path) -> Iterator[tuple[str, Fields] | Remark]:
    name = str(declaration.cases)
    try:
        path = resolve_inside(root, name, follow=declaration.follow_links)
        members = member_names(path)
        used: set[str] = set()
        columns: dict[str, str] = {}
        for part, split in _parts(declaration, path, members):
            columns = find_columns(part, members, str(path))
            yield from _array_rows(part, path, columns, split)
            used |= set(columns.values())
        left = [member for member in members if member not in used or member in columns.values()]
        yield from remarks_on_columns(name, left, columns)
    except OSError as error:
        raise DataError(f"{root / name}: cannot be read: {error.strerror or error}") from None


def _parts(
    declaration: Declaration, path: Path, members: Sequence[str]
) -> Iterator[tuple[Declaration, str | None]]:
    """Yield the declaration for each split whose name is in those of the arrays; or just itself."""
    template = declaration.columns.image or ""
    if SPLIT not in template:
        yield declaration, None
        return
    expression = re.escape(template).replace(re.escape(SPLIT), "(.+)", 1)
    splits = [m[1] for member in members if (m := re.fullmatch(expression, member, re.DOTALL))]
    if not splits:
        raise DataError(
            f"{path}: has no array {quote(template)} for any split (there are "
            f"{join_names(members)}): correct columns.image in {FILE}"
        )
    for split in splits:
        named = declaration.columns.model_dump(exclude_none=True)
        columns = Columns(**{field: text.replace(SPLIT, split) for field, text in named.items()})
        yield declaration.model_copy(update={"columns": columns}), split


def _array_rows(
    declaration: Declaration, path: Path, columns: Mapping[str, str], split: str | None
) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of an NPZ file, as `table_rows` does."""
    name = str(declaration.cases)
    columns = dict(columns)
    image = columns.pop("image")
    arrays = {field: _texts(declaration, path, column) for field, column in columns.items()}
    stored = open_array(path, image)
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
        fields = fields if split is None else {"split": split, **fields}
        place = f"row {row}" if split is None else f"row {row} of {quote(image)}"
        yield f"{path}: {place}", {"path": f"{name}#{image}[{row}]", **fields}


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
    if values.ndim == 2 and values.shape[1] == 1:  # a column of one value per case, as in MedMNIST
        values = values[:, 0]
    if values.ndim == 2 and declaration.task == "multilabel":
        return _label_sets(declaration, path, member, values)
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
    """Convert rows of answers, one column per class, to the text that a CSV would have."""
    classes = declaration.classes
    if values.shape[1] != len(classes):
        raise ImageError(
            path,
            f"{member!r}: must have {len(classes)} columns, one per class, not {values.shape[1]}",
        )
    try:
        rows = [[str(value).strip() for value in row] for row in values.tolist()]
        meaning = {text: answer_of(declaration, text) for text in sorted({*chain(*rows)})}
    except ValueError as error:
        raise ImageError(path, f"{member!r}: {error}") from None
    labels = [[meaning[text] for text in row] for row in rows]
    return [
        (label_cell(row, classes) or NONE) if any(each is not None for each in row) else UNKNOWN
        for row in labels
    ]
