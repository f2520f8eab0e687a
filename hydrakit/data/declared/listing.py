"""List of the cases of a declared dataset: its rows as cases, their files found, and remarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydrakit.data.archives import unpack_hint
from hydrakit.data.declared.by_name import FolderImages, match_names
from hydrakit.data.declared.cases import DeclaredCase, ImageLocation, case_of, choose_slice
from hydrakit.data.declared.files import describe_files, list_files
from hydrakit.data.declared.labels import remarks_on_labels
from hydrakit.data.declared.masks import Lesion, MaskFinder
from hydrakit.data.declared.rows import Fields, rows_of
from hydrakit.data.declared.schema import FILE, Declaration
from hydrakit.data.declared.tables import TableFile
from hydrakit.data.identity import normal_name
from hydrakit.data.safe_paths import join_names, quote
from hydrakit.data.volumes.names import is_volume_name
from hydrakit.errors import DataError
from hydrakit.hooks import Remark


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
    remarks: list[Remark] = []
    rows: list[tuple[str, Fields]] = []
    cases: list[DeclaredCase] = []
    first: dict[str, tuple[str, int]] = {}
    for row in _with_patients(declaration, rows_of(declaration, root, tables)):
        if isinstance(row, Remark):
            remarks.append(row)
            continue
        where, fields = row
        try:
            case = case_of(declaration, fields)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if case.key in first:
            other, at = first[case.key]
            cases[at] = _in_one(declaration, cases[at], case, where, other)
            continue
        first[case.key] = where.rpartition(": ")[2], len(cases)
        rows.append(row)
        cases.append(case)
    _check(declaration, root, rows, cases)
    places = [where for where, _ in rows]
    named: list[tuple[str, str]] = []
    if declaration.match == "folder":
        images = FolderImages(root, follow=declaration.follow_links)
        cases = [
            _in_folders(case, images, where) for case, where in zip(cases, places, strict=True)
        ]
    elif tables:
        named = [
            (where, file)
            for case, where in zip(cases, places, strict=True)
            for file in files_of(case)
        ]
    matched, more = match_names(root, named, follow=declaration.follow_links)
    cases = [
        with_slice(declaration, at_matched(case, matched), where)
        for case, where in zip(cases, places, strict=True)
    ]
    if declaration.mask:
        finder = MaskFinder(root, declaration.mask)
        cases = [
            replace(case, masks=_masks(finder, case, fields, where))
            for case, (where, fields) in zip(cases, rows, strict=True)
        ]
    labels = [fields.get("label", "").strip() for _, fields in rows]
    remarks += [
        *more,
        *remarks_on_labels(declaration, labels),
        *_remarks_on_slices(declaration, cases),
    ]
    return Listing(tuple(with_parts(cases)), tuple(remarks))


def _with_patients(
    declaration: Declaration, rows: Iterable[tuple[str, Fields] | Remark]
) -> Iterator[tuple[str, Fields] | Remark]:
    """Yield rows, with the patient of the row above where the declaration says so."""
    above = ""
    for row in rows:
        if isinstance(row, Remark) or declaration.empty_patient is None:
            yield row
            continue
        where, fields = row
        if "patient" not in fields:
            raise DataError(
                f"{where}: empty_patient in {FILE}: there is no column of patients: remove it"
            )
        if declaration.empty_patient == "above":
            above = fields["patient"] if normal_name(fields["patient"]) else above
            fields = {**fields, "patient": above}
        yield where, fields


def _check(
    declaration: Declaration,
    root: Path,
    rows: Sequence[tuple[str, Fields]],
    cases: Sequence[DeclaredCase],
) -> None:
    """Refuse a dataset without a case, or one in which only some cases name their patient."""
    if not cases:
        source = f"pattern {declaration.pattern!r}" if declaration.pattern else declaration.cases
        files = [name for name in list_files(root, tolerant=True) if name != FILE]
        raise DataError(
            f"{root}: {source} yields no case: compare it with the files in the folder (there are "
            f"{describe_files(files)}){unpack_hint(root / name for name in files)}"
        )
    unnamed = [
        where
        for case, (where, fields) in zip(cases, rows, strict=True)
        if "patient" in fields and case.patient is None
    ]
    if 0 < len(unnamed) < len(cases) and declaration.empty_patient is None:
        raise DataError(
            f"{unnamed[0]}: the patient is empty, NA, unknown or alike (in {len(unnamed)} of "
            f"{len(cases)} cases; the others name theirs): "
            f'name all, or write into {FILE} empty_patient = "own" (each of these cases has a '
            'patient of its own) or "above" (that of the row above, as in merged cells of a '
            "spreadsheet)"
        )


def with_parts(cases: Sequence[DeclaredCase]) -> list[DeclaredCase]:
    """Cases that know whether they are slices, frames or pages of a file with several of them."""
    files = Counter(case.channels[0].file for case in cases)
    return [
        replace(case, is_part=True)
        if files[case.channels[0].file] > 1 and _may_be_part(case.channels[0])
        else case
        for case in cases
    ]


def _may_be_part(location: ImageLocation) -> bool:
    if is_volume_name(location.file):
        return True
    is_array = location.file.lower().endswith((".npy", ".npz"))  # its rows are cases of their own
    return location.row is not None and not is_array


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
        return choose_slice(declaration, case)
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


def _masks(finder: MaskFinder, case: DeclaredCase, fields: Fields, where: str) -> tuple[str, ...]:
    """The masks of a case, which the key ``mask`` of the declaration names."""
    if case.masks is not None:
        raise DataError(f"{where}: a column and the key mask in {FILE} name masks: remove one")
    if case.position is not None or case.point is not None:
        raise DataError(f"{where}: a mask and columns of a position are given: remove one")
    return finder.find(case.channels[0].file, fields)


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
