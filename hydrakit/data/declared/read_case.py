"""Reading of the sample of one declared case: its images, its lesion, its patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.declared.arrays import MAX_VALUES, ImageError
from hydrakit.data.declared.masks import Lesion, read_masks
from hydrakit.data.declared.schema import FILE, Declaration
from hydrakit.data.dicom.geometry import alignment_fault
from hydrakit.data.identity import names_nobody
from hydrakit.data.padding import concatenate
from hydrakit.data.safe_paths import resolve_inside
from hydrakit.data.volumes.names import is_volume_name
from hydrakit.data.volumes.volume import MAX_TILT
from hydrakit.errors import DataError
from hydrakit.hooks import Remark, Sample, Unusable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit.data.declared.cases import DeclaredCase
    from hydrakit.data.declared.images import ImageReader
    from hydrakit.data.declared.picture import Picture


@dataclass(frozen=True)
class Noticed:
    """Keys of the cases, read so far, that remarks are due about.

    Attributes:
        by_study: Cases whose study is their patient.
        by_file: Cases whose file, which has several of them, is their patient.
        no_mask: Cases without a mask, or with an empty one.
        tilted: Cases whose volume is tilted.
        animated: Animated GIFs of which the first frame is used.
        beyond: Cases whose box reaches beyond the image.
        covered: Cases whose mask covers the whole image.
    """

    by_study: list[str] = field(default_factory=list)
    by_file: list[str] = field(default_factory=list)
    no_mask: list[str] = field(default_factory=list)
    tilted: list[str] = field(default_factory=list)
    animated: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)

    def remarks(self, declaration: Declaration) -> Iterator[Remark]:
        """Yield the remarks, once all cases are read."""
        if self.tilted:
            yield Remark(
                text=f"the volumes of {len(self.tilted)} images are tilted by over {MAX_TILT:g} "
                f"degrees (first {self.tilted[0]}): their slices are not in the plane that "
                "[images] names, but in the nearest one of the file",
                warning=True,
            )
        if self.no_mask:
            what = f'are not used: add them, or no_mask = "whole" to {FILE}'
            if declaration.no_mask is not None:
                what = (
                    "are used whole: if one class has them more often, the network may tell it by "
                    "the size or the place of what it sees"
                )
            yield Remark(
                text=f"{len(self.no_mask)} cases have no mask or box, or an empty mask (first "
                f"{self.no_mask[0]}), and {what}",
                warning=True,
            )
        if self.beyond:
            yield Remark(
                text=f"the boxes of {len(self.beyond)} cases reach beyond their images (first "
                f"{self.beyond[0]}): if the images were scaled or cut after the boxes were drawn, "
                "correct the boxes",
                warning=True,
            )
        if self.covered:
            yield Remark(
                text=f"the masks of {len(self.covered)} cases cover their whole images (first "
                f"{self.covered[0]}): a mask must be zero (black) outside of the lesion",
                warning=True,
            )
        if self.animated:
            yield Remark(
                text=f"{len(self.animated)} animated GIFs are used by their first frame (first "
                f"{self.animated[0]}): FILE#[N] names another one, counted from 0",
                warning=True,
            )
        if self.by_file:
            yield Remark(
                text=f"{len(self.by_file)} slices, frames or pages name no patient (first "
                f"{self.by_file[0]}): those of one file count as one patient; name the patients if "
                "they have several files",
                warning=True,
            )
        if self.by_study:
            yield Remark(
                text=f"the PatientID of {len(self.by_study)} DICOM files is empty, ANONYMOUS or "
                f"alike (first {self.by_study[0]}): the images of one study (StudyInstanceUID) "
                "count as one patient; name the patients if they have several studies",
                warning=True,
            )


class MissingSpacingError(DataError):
    """A file does not state the pixel spacing that millimetres need."""


def read_case(
    declaration: Declaration,
    case: DeclaredCase,
    *,
    where: object,
    root: Path,
    reader: ImageReader,
    noticed: Noticed,
) -> Sample | Unusable:
    """Read the sample of a case.

    Args:
        declaration: Declaration of the dataset.
        case: The case.
        where: What declares the dataset, for messages.
        root: Resolved folder of its files.
        reader: Reader of its images.
        noticed: Gets the key of the case where a remark is due.

    Raises:
        MissingSpacingError: The case lacks a pixel spacing that it needs.
        DataError: The case leads out of the root.
    """
    try:
        case, mask = _slice_of_mask(declaration, case, root, reader)
        pictures, paths = _read_pictures(case, root, reader, follow=declaration.follow_links)
    except ImageError as error:
        return Unusable(key=case.key, reason=error.reason)
    spacing = next((p.spacing for p in pictures if p.spacing), declaration.spacing)
    if spacing is None and (case.millimetres or declaration.field_of_view.millimetres):
        raise MissingSpacingError(
            f"{where}: spacing: is missing, and {paths[0]} does not state its pixel spacing, which "
            "millimetres need: add spacing = [row, column] in millimetres"
        )
    image = concatenate([picture.pixels for picture in pictures])
    if mask is not None:  # which slice is read depends on it
        paths += _mask_paths(declaration, case, root)
    named = [location.row is not None for location in case.channels]
    if any(p.facts.get("frames") and not name for p, name in zip(pictures, named, strict=True)):
        noticed.animated.append(case.key)
    if case.extent is not None and case.size not in (None, image.shape[1:]):
        height, width = image.shape[1:]
        reason = (
            f"has {height} x {width} pixels, and its box was drawn in an image of {case.size[0]} x "
            f"{case.size[1]}: scale the boxes, or use the images that they were drawn in"
        )
        return Unusable(key=case.key, reason=reason)
    try:
        lesion = _find_lesion(declaration, case, root, image.shape[1:], noticed, mask=mask)
    except ImageError as error:
        return Unusable(key=case.key, reason=error.reason)
    centre = lesion.centre if lesion else pictures[0].centre or case.position
    if centre is not None and case.millimetres and spacing is not None:
        centre = (centre[0] / spacing[0], centre[1] / spacing[1])
    if centre is not None and not all(
        -0.5 <= at <= size - 0.5 for at, size in zip(centre, image.shape[1:], strict=True)
    ):
        return Unusable(key=case.key, reason="its position lies outside its image")
    if lesion is not None and case.extent is not None:
        ends = zip(lesion.centre, lesion.extent, image.shape[1:], strict=True)
        # Annotation tools round: a pixel beyond the edge is none.
        if any(abs(2 * at + 1 - side) + extent > side + 2 for at, extent, side in ends):
            noticed.beyond.append(case.key)
    patient = _patient(declaration, case, pictures, noticed)
    return Sample(
        image=image,
        label=case.label,
        patient=patient or case.key,
        named=patient is not None,
        key=case.key,
        group=case.group,
        finding=case.finding,
        centre=centre,
        spacing=spacing,
        extent=lesion.extent if lesion else None,
        split=case.split,
        facts=pictures[0].facts,
        subgroups=case.subgroups,
        source=tuple(paths),
    )


def _patient(
    declaration: Declaration, case: DeclaredCase, pictures: Sequence[Picture], noticed: Noticed
) -> str | None:
    """The patient of a case: of its row, its files, their study, or its finding; None if none.

    Slices, frames or pages of one file without a patient are of the patient that the file names.
    """
    named = filter(None, (_patient_id(declaration, picture) for picture in pictures))
    patient = case.patient or next(named, None)
    study = next((picture.study for picture in pictures if picture.study), None)
    if patient is None and study is not None:
        patient = study
        noticed.by_study.append(case.key)
    if patient is None and case.is_part:
        patient = case.channels[0].file
        noticed.by_file.append(case.key)
    return patient or case.finding


def _read_pictures(
    case: DeclaredCase, root: Path, reader: ImageReader, *, follow: bool
) -> tuple[list[Picture], list[Path]]:
    """Read the files of a case, which become its channels, and return their paths as well.

    Raises:
        ImageError: A file is missing or cannot be read, or the files do not fit together.
        DataError: A file lies outside of the root.
    """
    pictures: list[Picture] = []
    paths: list[Path] = []
    for location in case.channels:
        path = root / location.file
        try:
            path = resolve_inside(root, location.file, follow=follow)
        except FileNotFoundError:
            raise ImageError(path, "its file is missing") from None
        except OSError as error:
            raise ImageError(path, f"cannot be opened ({error.strerror or 'a loop'})") from None
        if not path.is_file():
            raise ImageError(path, "its path is not a file")
        pictures.append(reader.read(path, location.member, location.row, point=case.point))
        paths += [path, *pictures[-1].files]
        if pictures[-1].pixels.shape[1:] != pictures[0].pixels.shape[1:]:
            raise ImageError(path, "its files differ in height or width")
        if sum(picture.pixels.size for picture in pictures) > MAX_VALUES:
            raise ImageError(path, f"has more than {MAX_VALUES} pixels")
    fault = alignment_fault([picture.plane for picture in pictures if picture.plane])
    if fault is not None:
        raise ImageError(paths[0], fault)
    return pictures, paths


def _mask_paths(declaration: Declaration, case: DeclaredCase, root: Path) -> list[Path]:
    """The files of the masks of a case.

    Raises:
        ImageError: One cannot be opened.
        DataError: One leads out of the root.
    """
    follow = declaration.follow_links
    try:
        return [resolve_inside(root, mask, follow=follow) for mask in case.masks or ()]
    except OSError as error:
        reason = error.strerror or "a loop of links"
        image = root / case.channels[0].file
        raise ImageError(image, f"its mask cannot be opened ({reason})") from None


def _slice_of_mask(
    declaration: Declaration, case: DeclaredCase, root: Path, reader: ImageReader
) -> tuple[DeclaredCase, NDArray[np.bool_] | None]:
    """Choose the slice of a volume in which its masks are largest, unless the case chooses one.

    Returns:
        The case with this slice, and the mask in it; the case alone if it has no masks of a volume.

    Raises:
        ImageError: A file cannot be read, or a mask is empty or does not fit its volume.
        DataError: A file leads out of the root.
    """
    first = case.channels[0]
    if not case.masks or not is_volume_name(first.file):
        return case, None
    try:
        path = resolve_inside(root, first.file, follow=declaration.follow_links)
    except OSError:  # `_read_pictures` says that it is missing
        return case, None
    masks = [reader.volume(each) for each in _mask_paths(declaration, case, root)]
    found = reader.volume(path).mask_slice(masks, plane=declaration.images.plane, index=first.row)
    if found is None and first.row is None:
        raise ImageError(path, "its mask is empty, so that it chooses no slice")
    if found is None:
        return case, np.zeros((1, 1), np.bool_)
    index, mask = found
    channels = (
        replace(each, row=index) if each.row is None and is_volume_name(each.file) else each
        for each in case.channels
    )
    return replace(case, channels=tuple(channels)), mask


def _find_lesion(
    declaration: Declaration,
    case: DeclaredCase,
    root: Path,
    size: tuple[int, int],
    noticed: Noticed,
    *,
    mask: NDArray[np.bool_] | None,
) -> Lesion | None:
    """Find the lesion of a case in its masks; None if it is used without one.

    Args:
        declaration: Declaration of the dataset.
        case: The case.
        root: Resolved folder of its files.
        size: Height and width of its image.
        noticed: Gets the key of a case without a mask.
        mask: Its mask, if it is that of a slice of a volume.

    Raises:
        ImageError: The case has no mask, or an empty one, or one that cannot be read.
        DataError: A mask leads out of the root.
    """
    image = root / case.channels[0].file
    if case.extent is not None and case.position is not None:
        return Lesion(case.position, case.extent)
    if case.masks is None and declaration.field_of_view.mask is None:
        return None
    paths = _mask_paths(declaration, case, root)
    if mask is None and paths:
        mask = read_masks(paths, size, fitting=declaration.match == "folder")
    if mask is not None and mask.all():
        noticed.covered.append(case.key)
    lesion = None if mask is None else Lesion.of(mask)
    if lesion is None:
        noticed.no_mask.append(case.key)
        if declaration.no_mask is None:
            raise ImageError(image, "its mask is empty" if paths else "has no mask or box")
        factor = declaration.field_of_view.mask
        if factor is not None:
            height, width = size
            centre = ((height - 1) / 2, (width - 1) / 2)
            lesion = Lesion(centre=centre, extent=(height / factor, width / factor))
    return lesion


def _patient_id(declaration: Declaration, picture: Picture) -> str | None:
    """Return the PatientID of a DICOM file, unless it is empty, ANONYMOUS or alike."""
    text = picture.patient
    if text is None or (names_nobody(text) and not declaration.exact_names):
        return None
    return text
