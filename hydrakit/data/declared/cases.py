"""One declared case: from the fields of a row, checked before pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from hydrakit.data.declared.coco import stated_size
from hydrakit.data.declared.columns import POINT, SUBGROUP
from hydrakit.data.declared.labels import case_label
from hydrakit.data.declared.masks import Lesion
from hydrakit.data.declared.rows import Fields
from hydrakit.data.declared.schema import FILE, NO_SPLIT, Declaration, SplitName, number
from hydrakit.data.identity import names_nobody, normal_name
from hydrakit.data.safe_paths import path_fault, quote
from hydrakit.data.volumes.names import is_volume_name
from hydrakit.stats.label_cells import SEPARATOR

if TYPE_CHECKING:
    from hydrakit.data.dicom.geometry import PatientPoint
    from hydrakit.hooks import Label

SAY_AXES = (  # how a declared dataset says it; images that are given without one cannot
    'write axes = "LPS" (as in DICOM) or "RAS" (as in NIfTI) under [images] in '
    f"{FILE}, to say in which direction they rise"
)
MAX_CELL = 1000  # characters: keys and patients appear in messages and reports
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
        size: Height and width of the image that the box was drawn in, if they are stated.
        masks: Paths of the masks of its lesion below the root; None if the dataset declares none.
        is_part: Whether it is one of several slices, frames or pages of a file, which are of one
            patient.
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
    point: PatientPoint | None = None
    choice: tuple[tuple[str, str], ...] = ()
    extent: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    masks: tuple[str, ...] | None = None
    is_part: bool = False


BOX = ("box_left", "box_top", "box_width", "box_height")
_NAMES = ("patient", "group", "finding")


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
        label=case_label(declaration, fields, filled),
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
        size=stated_size(fields),
        millimetres=millimetres,
        choice=tuple((name, filled[name]) for name in ("slice", *POINT) if name in filled),
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


def _is_name(declaration: Declaration, text: str) -> bool:
    """Whether a text names a patient, a group or a finding; with exact names, any text does."""
    return not (not normal_name(text) if declaration.exact_names else names_nobody(text))


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


def choose_slice(declaration: Declaration, case: DeclaredCase) -> DeclaredCase:
    """A case with the slice that its columns choose, once its files are known.

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
    missing = next((name for name in POINT if name not in used), None)
    if missing is not None:
        raise ValueError(f"{missing} is empty or missing: give {', '.join(POINT)}, or none")
    if case.position is not None:
        raise ValueError("the position is given in the patient and in the image: give one")
    if case.masks:
        raise ValueError("a mask and a position are given: remove one")
    axes = declaration.images.axes
    if axes is None:
        raise ValueError(f"{used['x_mm']}, {used['y_mm']}, {used['z_mm']} mm: {SAY_AXES}")
    x, y, z = (number(used[name], name) for name in POINT)
    return replace(case, point=(x, y, z) if axes == "LPS" else (-x, -y, z))
