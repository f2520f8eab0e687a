"""DICOM files found by their headers: an index, facts of a series, and pixels.

Three parts that do not know each other's insides. `index_headers` reads the headers of a tree,
`series_facts` sums them up per series (what a dataset's rules choose a series by), and
`read_pixels` reads one image. Names of folders and files are never looked at: they differ between
downloads of one and the same dataset. Where an image lies in the patient: `dicom_geometry`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

# What every image has (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1, C.7.6.3, C.12.1): without one of these
# the header is cut off.
_NEEDED = (
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Rows",
    "Columns",
    "PixelRepresentation",
)
_WANTED = (
    "SOPClassUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SequenceName",
    "DiffusionBValue",
)
_SIEMENS = (_SIEMENS_CREATOR, _SIEMENS_B_VALUE) = (0x00190010, 0x0019100C)
_SEQUENCE_B_VALUE = re.compile(r"_b(\d+)(?!\d|_\d)")  # `*ep_b800t`, but not the range `*ep_b50_800`


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of one image without its pixels.

    Attributes:
        path: The file.
        sop_class: UID of the kind of object (PS3.4 B.5).
        sop_uid: The image's own UID.
        patient_id: Pseudonymous identifier.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        series_number: SeriesNumber; repeats from study to study.
        series_description: SeriesDescription without outer blanks; may be empty.
        modality: ``MR``, ``CT``, ...
        image_type: ImageType, value by value.
        instance_number: InstanceNumber; its direction through the body is not fixed.
        position: ImagePositionPatient: the middle of the upper left pixel, in millimetres.
        orientation: ImageOrientationPatient: direction of a row (towards higher columns), then of
            a column (towards higher rows), both of length 1.
        spacing: PixelSpacing, ``(row, column)`` distance between pixels in millimetres.
        thickness: SliceThickness in millimetres.
        rows: Height in pixels.
        columns: Width in pixels.
        b_value: Diffusion weighting in s/mm2; None where none is told.
    """

    path: Path
    sop_class: str
    sop_uid: str
    patient_id: str
    study_uid: str
    series_uid: str
    series_number: int | None
    series_description: str
    modality: str
    image_type: tuple[str, ...]
    instance_number: int | None
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    rows: int
    columns: int
    b_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """What a series is chosen by.

    Attributes:
        patient_id: As in `Header`.
        study_uid: As in `Header`.
        series_uid: As in `Header`.
        number: SeriesNumber.
        description: SeriesDescription.
        modality: ``MR``, ``CT``, ...
        image_types: Every value of ImageType that one of its images has.
        b_values: The distinct b-values of its images, rising.
        images: How many images it has.
    """

    patient_id: str
    study_uid: str
    series_uid: str
    number: int | None
    description: str
    modality: str
    image_types: frozenset[str]
    b_values: tuple[float, ...]
    images: int


# Index


def walk(root: Path) -> Iterator[Path]:
    """Every file below a folder in the order of its path, through links, each folder once.

    Raises:
        DataError: ``root`` is no folder, or one below it cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be listed: {error.strerror}")

    seen = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        fresh = []
        for name in sorted(folders):
            real = os.path.realpath(Path(folder, name))
            if real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        yield from (Path(folder, name) for name in sorted(files))


def index_headers(root: Path) -> list[Header]:
    """The headers of all DICOM images below a folder, in the order of their paths.

    What is no image is passed over: text and other files, DICOMDIR, segmentations (SEG), reports
    (SR), contours (RTSTRUCT). Of several files with one SOPInstanceUID the first is kept.

    Raises:
        DataError: ``root`` cannot be listed, or the header of an image is broken.
    """
    headers: dict[str, Header] = {}
    broken: list[str] = []
    for path in walk(root):
        try:
            header = read_header(path)
        except DataError as error:
            broken.append(str(error))
            continue
        if header is not None:
            headers.setdefault(header.sop_uid, header)
    if broken:
        more = f" (and {len(broken) - 1} more such files)" if len(broken) > 1 else ""
        raise DataError(broken[0] + more)
    return list(headers.values())


def read_header(path: Path) -> Header | None:
    """The header of one file; None where it is not a DICOM image.

    Raises:
        DataError: The file cannot be opened, or begins as a DICOM image but its header is broken.
    """
    from pydicom import config, dcmread
    from pydicom.tag import Tag

    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            file.seek(0)
            # A wrong value in a tag that nobody asks for is no reason to complain.
            with config.disable_value_validation():
                tags = [Tag(tag) for tag in (*_NEEDED, *_WANTED, *_SIEMENS)]
                dataset = dcmread(file, stop_before_pixels=True, specific_tags=tags)
                return _header(path, dataset)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # pydicom meets a cut off or damaged file with almost any kind of exception.
        raise _broken_header(path, str(error)) from error


def _broken_header(path: Path, why: str) -> DataError:
    first_line = (why.splitlines() or [""])[0]
    return DataError(
        f"{path}: broken DICOM header ({first_line}): fetch the file again, or remove it"
    )


def _header(path: Path, dataset: Dataset) -> Header | None:
    from pydicom.uid import UID

    meta = dataset.file_meta
    sop_class = UID(str(meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or ""))
    # The transfer syntax comes after the class: without it, the class may itself be cut off.
    if not sop_class or "TransferSyntaxUID" not in meta:
        raise ValueError("it ends before it tells what it is")
    if "Image Storage" not in sop_class.name:
        return None
    missing = [keyword for keyword in _NEEDED if keyword not in dataset]
    if missing:
        raise ValueError(f"no {missing[0]}")
    return Header(
        path=path,
        sop_class=str(sop_class),
        sop_uid=str(dataset.SOPInstanceUID),
        patient_id=_text(dataset, "PatientID"),
        study_uid=str(dataset.StudyInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        series_number=_whole(dataset, "SeriesNumber"),
        series_description=_text(dataset, "SeriesDescription"),
        modality=_text(dataset, "Modality"),
        image_type=_texts(dataset, "ImageType"),
        instance_number=_whole(dataset, "InstanceNumber"),
        position=_position(dataset),
        orientation=_orientation(dataset),
        spacing=_spacing(dataset),
        thickness=_thickness(dataset),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        b_value=_b_value(dataset),
    )


def _text(dataset: Dataset, keyword: str) -> str:
    return " ".join(_texts(dataset, keyword))


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = dataset.get(keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) else value
    return tuple(str(part).strip(" \0") for part in values)


def _whole(dataset: Dataset, keyword: str) -> int | None:
    numbers = _numbers(dataset.get(keyword))
    return int(numbers[0]) if len(numbers) == 1 and numbers[0].is_integer() else None


def _numbers(value: Any) -> tuple[float, ...]:
    """The numbers of an element, however it holds them; () where one is no finite number."""
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    if isinstance(value, str):
        value = value.strip(" \0").split("\\")
    parts = value if isinstance(value, Iterable) else [value]
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return ()
    return numbers if np.isfinite(numbers).all() else ()


def _position(dataset: Dataset) -> tuple[float, float, float] | None:
    match _numbers(dataset.get("ImagePositionPatient")):
        case (x, y, z):
            return (x, y, z)
    return None


def _orientation(dataset: Dataset) -> tuple[float, float, float, float, float, float] | None:
    match _numbers(dataset.get("ImageOrientationPatient")):
        case (a, b, c, d, e, f):
            gram = np.array([[a, b, c], [d, e, f]]) @ np.array([[a, d], [b, e], [c, f]])
            if np.allclose(gram, np.eye(2), atol=1e-3):
                return (a, b, c, d, e, f)
    return None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    match _numbers(dataset.get("PixelSpacing")):
        case (row, column) if row > 0 and column > 0:
            return (row, column)
    return None


def _thickness(dataset: Dataset) -> float | None:
    match _numbers(dataset.get("SliceThickness")):
        case (thickness,) if thickness > 0:
            return thickness
    return None


def _b_value(dataset: Dataset) -> float | None:
    """The b-value: standard tag, Siemens' private one (padded bytes), or the sequence's name."""
    candidates = [_numbers(dataset.get("DiffusionBValue"))]
    creator = dataset.get(_SIEMENS_CREATOR)
    private = dataset.get(_SIEMENS_B_VALUE)
    if private is not None and (creator is None or "SIEMENS" in str(creator.value).upper()):
        candidates.append(_numbers(private.value))
    told = _SEQUENCE_B_VALUE.search(_text(dataset, "SequenceName"))
    if told:
        candidates.append((float(told[1]),))
    for numbers in candidates:
        if len(numbers) == 1 and numbers[0] >= 0:
            return numbers[0]
    return None


def series_facts(headers: Iterable[Header]) -> list[SeriesFacts]:
    """One summary for each series, in the order of their first images."""
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.series_uid, []).append(header)
    return [
        SeriesFacts(
            patient_id=group[0].patient_id,
            study_uid=group[0].study_uid,
            series_uid=uid,
            number=group[0].series_number,
            description=group[0].series_description,
            modality=group[0].modality,
            image_types=frozenset(value for header in group for value in header.image_type),
            b_values=tuple(sorted({h.b_value for h in group if h.b_value is not None})),
            images=len(group),
        )
        for uid, group in groups.items()
    ]


# Pixels


def read_pixels(path: Path, *, rescale: bool = False) -> NDArray[np.float32]:
    """The pixels of a greyscale image with one frame, ``(height, width)``, as float32.

    Args:
        path: A DICOM file.
        rescale: Apply RescaleSlope and RescaleIntercept (PS3.3 C.11.1): of CT, this gives
            Hounsfield units. Without it the stored values are given.

    Raises:
        DataError: The pixels are cut off, in an encoding that cannot be read here, not greyscale,
            or lack the tags for rescaling.
    """
    from pydicom import config, dcmread

    try:
        with config.disable_value_validation():
            dataset = dcmread(path)
            pixels = np.asarray(dataset.pixel_array)
            kind = _text(dataset, "PhotometricInterpretation")
            factors = [_numbers(dataset.get(k)) for k in ("RescaleSlope", "RescaleIntercept")]
    except Exception as error:
        # As in read_header: a damaged file can raise almost anything.
        raise DataError(
            f"{path}: the pixels cannot be read ({(str(error).splitlines() or [''])[0]}): fetch "
            "the file again; if it is compressed, install pylibjpeg or store it uncompressed"
        ) from error
    if pixels.ndim != 2 or not kind.startswith("MONOCHROME"):
        raise DataError(
            f"{path}: {kind} pixels of shape {pixels.shape}: needed is one greyscale frame"
        )
    if not rescale:
        return pixels.astype(np.float32)
    match factors:
        case [(slope,), (intercept,)]:
            return (pixels * slope + intercept).astype(np.float32)
    raise DataError(
        f"{path}: no usable RescaleSlope and RescaleIntercept, so no Hounsfield units: use CT "
        "images that have them"
    )
