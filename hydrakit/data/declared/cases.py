"""Cases of a declared dataset, from a table or a pattern, checked before pixels."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hydrakit.data.archives import unpack_hint
from hydrakit.data.declared.answers import ANSWER, answer_of, label_of_answers
from hydrakit.data.declared.arrays import MAX_COLUMN_BYTES, ImageError, member_names, open_array
from hydrakit.data.declared.by_name import FolderImages, match_names
from hydrakit.data.declared.coco import SUFFIX as COCO
from hydrakit.data.declared.coco import coco_table
from hydrakit.data.declared.columns import SUBGROUP, find_columns, has_columns, remarks_on_columns
from hydrakit.data.declared.files import companions, describe_files, list_files, remarks_on_files
from hydrakit.data.declared.masks import Lesion, MaskFinder
from hydrakit.data.declared.patterns import match_files
from hydrakit.data.declared.schema import (
    FILE,
    NO_SPLIT,
    NONE,
    SPLIT,
    UNKNOWN,
    Columns,
    Declaration,
    SplitName,
    number,
)
from hydrakit.data.declared.tables import TableFile
from hydrakit.data.identity import names_nobody, normal_name
from hydrakit.data.safe_paths import join_names, path_fault, quote, resolve_inside
from hydrakit.data.volumes.names import is_volume_name
from hydrakit.errors import DataError
from hydrakit.hooks import Remark
from hydrakit.stats.label_cells import UNSURE, label_cell
from hydrakit.storage.tables import Table, label_form, read_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hydrakit.data.volumes.volume import Point
    from hydrakit.hooks import Label

# How else a declared dataset can name a class; images that are given without one cannot.
MAP_LABELS = f', or map it to a class under [labels] in {FILE} ("" if it is unknown)'
# The same for the axes of positions in the patient.
SAY_AXES = (
    'write axes = "LPS" (as in DICOM) or "RAS" (as in NIfTI) under [images] in '
    f"{FILE}, to say where they rise to"
)
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
        point: Position in the patient, in millimetres (LPS), that chooses the slice of a volume,
            and the position in it.
        choice: Names and texts of the columns that choose the slice of a volume.
        extent: Height and width of its lesion in pixels, if a box gives them.
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
    point: Point | None = None
    choice: tuple[tuple[str, str], ...] = ()
    extent: tuple[float, float] | None = None
    masks: tuple[str, ...] | None = None


Fields = dict[str, str]
BOX = ("box_left", "box_top", "box_width", "box_height")
_NAMES = ("patient", "group", "finding")
_POINT = ("x_mm", "y_mm", "z_mm")
_TEXTS = (*_NAMES, "key", "path", "mask", "split", "label")  # all other fields are numbers


@dataclass(frozen=True, slots=True)
class Listing:
    """The declared cases of a dataset, and what users must know about how they were listed."""

    cases: tuple[DeclaredCase, ...]
    remarks: tuple[Remark, ...]


def list_cases(declaration: Declaration, root: Path, *, tables: Sequence[TableFile]) -> Listing:
    """List every case of a dataset, in the order of its table or paths.

    Args:
        declaration: Declaration of the dataset.
        root: Folder of the dataset's files.
        tables: Tables of cases; none if the cases come from an NPZ file or a pattern.

    Raises:
        DataError: A case is invalid; the message names the file, the line or row, and the value.
    """
    cases: list[DeclaredCase] = []
    remarks: list[Remark] = []
    named: list[tuple[str, str]] = []
    respelt: list[tuple[str, str]] = []
    first: dict[str, tuple[str, int]] = {}
    unnamed: list[str] = []
    above = ""
    rows: list[tuple[str, Fields]] = []
    for row in _rows(declaration, root, tables):
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
        if case.key in first:
            other, at = first[case.key]
            cases[at] = _in_one(declaration, cases[at], case, where, other)
            continue
        first[case.key] = where.rpartition(": ")[2], len(cases)
        if "patient" in fields and case.patient is None:
            unnamed.append(where)
        cases.append(case)
        rows.append((where, fields))
        respelt += respelt_labels(declaration, fields.get("label", "").strip())
        if tables:
            named += [(where, file) for file in files_of(case)]
    if not cases:
        source = f"pattern {declaration.pattern!r}" if declaration.pattern else declaration.cases
        files = [name for name in list_files(root, tolerant=True) if name != FILE]
        raise DataError(
            f"{root}: {source} yields no case: compare it with the files in the folder (there are "
            f"{describe_files(files)}){unpack_hint(root / name for name in files)}"
        )
    if 0 < len(unnamed) < len(cases) and declaration.empty_patient is None:
        raise DataError(
            f"{unnamed[0]}: the patient is empty, NA, unknown or alike (in {len(unnamed)} of "
            f"{len(cases)} cases; the others name theirs): "
            f'name all, or write into {FILE} empty_patient = "own" (each of these cases has a '
            'patient of its own) or "above" (that of the row above, as in merged cells of a '
            "spreadsheet)"
        )
    if declaration.match == "folder":
        images = FolderImages(root, follow=declaration.follow_links)
        cases = [
            _in_folders(case, images, where) for case, (where, _) in zip(cases, rows, strict=True)
        ]
        named = []
    matched, more = match_names(root, named, follow=declaration.follow_links)
    cases = [
        with_slice(declaration, at_matched(case, matched), where)
        for case, (where, _) in zip(cases, rows, strict=True)
    ]
    if declaration.mask:
        finder = MaskFinder(root, declaration.mask)
        cases = [
            replace(case, masks=_masks(finder, case, fields, where))
            for case, (where, fields) in zip(cases, rows, strict=True)
        ]
    remarks += [*more, *_remarks_on_labels(respelt), *_remarks_on_slices(declaration, cases)]
    return Listing(tuple(cases), tuple(remarks))


def files_of(case: DeclaredCase) -> list[str]:
    """The files of a case, as they are declared."""
    return [*(location.file for location in case.channels), *(case.masks or ())]


def at_matched(case: DeclaredCase, matched: Mapping[str, str]) -> DeclaredCase:
    """A case with the files of the names in its table (`match_names`)."""
    if not any(file in matched for file in files_of(case)):
        return case
    channels = (replace(each, file=matched.get(each.file, each.file)) for each in case.channels)
    masks = None if case.masks is None else tuple(matched.get(each, each) for each in case.masks)
    return replace(case, channels=tuple(channels), masks=masks)


def _remarks_on_slices(declaration: Declaration, cases: Sequence[DeclaredCase]) -> Iterator[Remark]:
    """Yield that columns for slices of volumes are not used, if no image is a volume."""
    names = {name for case in cases for name, _ in case.choice}
    unused = sorted(name for name in names if getattr(declaration.columns, name) is None)
    if unused and not any(is_volume_name(each.file) for case in cases for each in case.channels):
        yield Remark(
            text=f"columns that are not used, because no image is a volume: {join_names(unused)}"
        )


def with_slice(declaration: Declaration, case: DeclaredCase, where: str) -> DeclaredCase:
    """A case with the slice that the columns of its table choose, once its files are known.

    Raises:
        DataError: They are invalid, or choose a slice twice.
    """
    try:
        return _with_slice(declaration, case)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _in_folders(case: DeclaredCase, images: FolderImages, where: str) -> DeclaredCase:
    """A case with the images in the folders that its paths name."""
    try:
        channels = tuple(replace(each, file=images.only(each.file)) for each in case.channels)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    masks = None
    if case.masks is not None:
        masks = tuple(mask for path in case.masks for mask in images.find(path) or [path])
    return replace(case, channels=channels, masks=masks)


def _remarks_on_labels(respelt: Sequence[tuple[str, str]]) -> Iterator[Remark]:
    if respelt:
        pairs = [
            f"{quote(text)} is {quote(label)} ({count})"
            for (text, label), count in Counter(respelt).most_common()
        ]
        yield Remark(
            text="labels that differ from a class, or from a key under [labels], only in case, "
            f"blanks or decimals: {join_names(pairs)}"
        )


def _masks(finder: MaskFinder, case: DeclaredCase, fields: Fields, where: str) -> tuple[str, ...]:
    """The masks of a case, which the key ``mask`` of the declaration names."""
    if case.masks is not None:
        raise DataError(f"{where}: a column and the key mask in {FILE} name masks: remove one")
    if case.position is not None or case.point is not None:
        raise DataError(f"{where}: a mask and columns of a position are given: remove one")
    return finder.find(case.channels[0].file, fields)


def _is_blank(text: str) -> bool:
    return not normal_name(text)


def _rows(
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
    yield from remarks_on_columns(name.name, read.header, columns)
    _refuse_dates(read, columns)
    at = {field: read.header.index(column) for field, column in columns.items()}
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
    if declaration.has_table:
        _refuse_converted(filled)
        # Other sources give one file per case.
        paths = [part.strip() for part in fields["path"].split(SEPARATOR)]
    position, millimetres = _position(filled)
    box = _box(filled)
    if box is not None and position is not None:
        raise ValueError("a box and a position are given: remove one")
    masks = _mask_column(fields, position or box)
    return DeclaredCase(
        channels=tuple(_location(path) for path in paths),
        key=filled.get("key") or filled["path"],
        label=_label(declaration, fields, filled),
        patient=filled.get("patient"),
        group=filled.get("group"),
        finding=filled.get("finding"),
        subgroups={
            field.removeprefix(SUBGROUP): text
            for field, text in filled.items()
            if field.startswith(SUBGROUP)
        },
        split=_split(declaration, filled.get("split")),
        position=position if box is None else box.centre,
        extent=None if box is None else box.extent,
        millimetres=millimetres,
        choice=tuple((name, filled[name]) for name in ("slice", *_POINT) if name in filled),
        masks=masks,
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


def _box(filled: Fields) -> Lesion | None:
    """The lesion in the box of a row; None if the cells are blank.

    Raises:
        ValueError: A number is missing or wrong.
    """
    texts = {name: filled[name] for name in BOX if name in filled}
    if not texts:
        return None
    if absent := [name for name in BOX if name not in texts]:
        raise ValueError(f"{absent[0]} is blank: give all of {', '.join(BOX)}, or none")
    left, top, width, height = (number(text, name) for name, text in texts.items())
    if min(width, height) <= 0:
        raise ValueError(f"the box is {width:g} pixels wide and {height:g} high: correct it")
    return Lesion(((2 * top + height - 1) / 2, (2 * left + width - 1) / 2), (height, width))


def _in_one(
    declaration: Declaration, before: DeclaredCase, case: DeclaredCase, where: str, other: str
) -> DeclaredCase:
    """One case of two rows with the same key.

    Raises:
        DataError: They are not to be merged, or disagree.
    """
    also = f"{where}: the key {quote(case.key)} also belongs to {other}"
    if not declaration.merge_rows:
        merge = f", or write merge_rows = true into {FILE} if they are one case"
        raise DataError(
            f"{also}: remove one, or give each a key of its own"
            f"{merge if declaration.has_table else ''}"
        )
    try:
        return _merged(before, case)
    except ValueError as error:
        raise DataError(f"{also}, but {error}") from None


def _merged(before: DeclaredCase, case: DeclaredCase) -> DeclaredCase:
    """One case of two rows with the same key.

    Raises:
        ValueError: They disagree.
    """
    if before.choice != case.choice and is_volume_name(case.channels[0].file):
        raise ValueError("its slice is another one: give them keys")
    for name in ("channels", "label", "patient", "group", "finding", "subgroups", "split"):
        if getattr(before, name) != getattr(case, name):
            raise ValueError(f"its {name} is another one: correct one, or give them keys")
    boxes = [
        Lesion(each.position, each.extent)
        for each in (before, case)
        if each.position is not None and each.extent is not None
    ]
    if not boxes and before.position != case.position:
        raise ValueError("its position is another one: correct one, or give them keys")
    masks = None
    if before.masks is not None and case.masks is not None:
        masks = tuple(dict.fromkeys((*before.masks, *case.masks)))
    box = Lesion.around(boxes) if boxes else None
    return replace(
        before,
        position=box.centre if box else before.position,
        extent=box.extent if box else None,
        masks=masks,
    )


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


def split_location(text: str) -> ImageLocation:
    """Split a path such as ``file.npz#member[12]`` or ``scan.nii.gz#[12]``."""
    match = _MEMBER.fullmatch(text)
    if match is None:
        return ImageLocation(text)
    row = match["row"] or match["image"]
    return ImageLocation(
        match["array"] or match["file"], match["member"] or None, int(row) if row else None
    )


def _location(text: str) -> ImageLocation:
    location = split_location(text)
    fault = path_fault(location.file)
    if fault:
        raise ValueError(f"path {quote(location.file)} {fault}")
    return location


def _label(declaration: Declaration, fields: Fields, filled: Fields) -> Label | None:
    """The label of a case, from one field or from a field for each class."""
    answers = [field for field in fields if field.startswith(ANSWER)]
    if not answers:
        return label_of(declaration, filled.get("label", ""))
    texts = {field.removeprefix(ANSWER): filled.get(field, "") for field in answers}
    return label_of_answers(declaration, texts)


def label_of(declaration: Declaration, text: str) -> Label | None:
    """Convert the text of a label; None if it is unknown.

    Raises:
        ValueError: It is no label of the dataset.
    """
    mapped = _target(declaration, text)
    if mapped == UNKNOWN:
        return None
    if declaration.task == "regression":
        return number(mapped, "label")
    if declaration.task == "classification":
        return _class(declaration, mapped)
    if mapped == NONE:
        return (0,) * len(declaration.classes)
    names = [_target(declaration, part.strip()) for part in mapped.split(SEPARATOR)]
    unsure = {name for name in names if name.endswith(UNSURE) and name not in declaration.classes}
    unknown = {_class(declaration, name.removesuffix(UNSURE)) for name in unsure}
    present = {_class(declaration, name) for name in names if name not in {NONE, *unsure}}
    answers = [
        None if index in unknown - present else int(index in present)
        for index in range(len(declaration.classes))
    ]
    return tuple(answers) if any(answer is not None for answer in answers) else None


def _target(declaration: Declaration, text: str) -> str:
    """What a label means: by [labels], or itself; if neither knows it, in another spelling."""
    exact = declaration.labels.get(text, text)
    if exact != text or exact in declaration.classes:
        return exact
    targets = declaration.label_forms.get(label_form(text), ())
    return next(iter(targets)) if len(targets) == 1 else text


def respelt_labels(declaration: Declaration, text: str) -> list[tuple[str, str]]:
    """Labels of a cell that are matched in another spelling, each with what it means."""
    parts = text.split(SEPARATOR) if declaration.task == "multilabel" else [text]
    return [
        (part, target)
        for part in map(str.strip, parts)
        if part not in declaration.labels and (target := _target(declaration, part)) != part
    ]


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
    meant = declaration.splits.get(text, text)
    if meant == NO_SPLIT:
        return None
    names: tuple[SplitName, ...] = get_args(SplitName)
    for split in names:
        if meant == split:
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


def _with_slice(declaration: Declaration, case: DeclaredCase) -> DeclaredCase:
    """As `with_slice`.

    Tables of other images have columns of these names, too: unless the declaration names them, they
    are used for volumes only.

    Raises:
        ValueError: They are invalid, or choose a slice twice.
    """
    volumes = all(is_volume_name(each.file) for each in case.channels)
    used = {
        name: text
        for name, text in case.choice
        if volumes or getattr(declaration.columns, name) is not None
    }
    if not used:
        return case
    if "slice" in used:
        index = number(used["slice"], "slice")
        if index < 0 or not index.is_integer():
            raise ValueError(f"slice {quote(used['slice'])} is not the index of a slice, from 0")
    if any(each.row is not None for each in case.channels) or ("slice" in used and len(used) > 1):
        raise ValueError("the slice is given twice: give it in one way")
    if "slice" in used:
        channels = tuple(replace(each, row=int(index)) for each in case.channels)
        return replace(case, channels=channels)
    missing = next((name for name in _POINT if name not in used), None)
    if missing is not None:
        raise ValueError(f"{missing} is empty or missing: give {', '.join(_POINT)}, or none")
    if case.position is not None:
        raise ValueError("the position is given in the patient and in the image: give one")
    if case.masks:
        raise ValueError("a mask and a position are given: remove one")
    axes = declaration.images.axes
    if axes is None:
        raise ValueError(f"{used['x_mm']}, {used['y_mm']}, {used['z_mm']} mm: {SAY_AXES}")
    x, y, z = (number(used[name], name) for name in _POINT)
    return replace(case, point=(x, y, z) if axes == "LPS" else (-x, -y, z))
