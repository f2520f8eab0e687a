"""The header of a DICOM image, and what the headers of a series say together."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.errors import DataError

if TYPE_CHECKING:
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
    "ManufacturerModelName",
    "MagneticFieldStrength",
    "KVP",
    "BitsStored",
)
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_SIEMENS = (_SIEMENS_CREATOR, _SIEMENS_B_VALUE) = (0x00190010, 0x0019100C)
_SEQUENCE_B_VALUE = re.compile(r"_b(\d+)(?!\d|_\d)")  # `*ep_b800t`, but not the range `*ep_b50_800`


LONG_STRING = 64  # characters that a value of VR LO may have (PS3.5, section 6.2)


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
        model: ManufacturerModelName of the scanner; may be empty.
        field_strength: MagneticFieldStrength in tesla.
        tube_voltage: KVP, in kilovolts.
        bits_stored: BitsStored: how many bits of a pixel count.
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
    model: str
    field_strength: float | None
    tube_voltage: float | None
    bits_stored: int | None

    def facts(self) -> dict[str, str | float]:
        """What is known of the scanner and of the file, and should not tell a label.

        For ``Sample.facts``; holds nothing of the patient. What is not told is absent.
        """
        row, column = self.spacing or (None, None)
        facts = {
            "scanner": self.model or None,
            "field strength (T)": self.field_strength,
            "tube voltage (kV)": self.tube_voltage,
            "rows": self.rows,
            "columns": self.columns,
            "row spacing (mm)": row,
            "column spacing (mm)": column,
            "bits stored": self.bits_stored,
        }
        return {name: value for name, value in facts.items() if value is not None}

    def subgroups(self) -> dict[str, str]:
        """The scanner's model, for ``Sample.subgroups``; nothing where it is not told."""
        return {"scanner": self.model[:LONG_STRING]} if self.model else {}


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
        plane: ``transverse``, ``sagittal`` or ``coronal``, by the nearest of the patient's axes;
            None where it is not told, or differs between images.
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
    plane: str | None = None


class DicomFile(io.BufferedReader):
    """A file whose reader cannot be made to take more memory than the file is large.

    pydicom asks for as many bytes as a length in the file says, which a damaged one says wrongly;
    and for all the rest of the file at once only to inflate it, whatever that comes to (Deflated
    Explicit VR, which no image dataset that we know of uses).
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """As the base class, up to the file's own size; never without a size."""
        if size is None or size < 0:
            raise ValueError("its transfer syntax is a deflated one, which is not read here")
        return super().read(min(size, self._size))


@contextmanager
def lenient() -> Iterator[None]:
    """Let pydicom pass over wrong values in tags that nobody asks for, without a word.

    Its words would quote values, which may be the patient's.
    """
    from pydicom import config

    logging.getLogger("pydicom").addFilter(_is_loud)
    token = _quiet.set(True)
    try:
        with config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _quiet.reset(token)


def _is_loud(_: logging.LogRecord) -> bool:
    return not _quiet.get()


def read_header(path: Path) -> Header | None:
    """The header of one file; None where it is not a DICOM image.

    Raises:
        DataError: The file cannot be opened, or begins as a DICOM image but its header is broken.
    """
    from pydicom import dcmread
    from pydicom.tag import Tag

    try:
        with DicomFile(path) as file:
            if file.read(132)[128:] != b"DICM":
                return None
            file.seek(0)
            with lenient():
                tags = [Tag(tag) for tag in (*_NEEDED, *_WANTED, *_SIEMENS)]
                dataset = dcmread(file, stop_before_pixels=True, specific_tags=tags)
                return _header(path, dataset)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # pydicom meets a cut off or damaged file with almost any kind of exception.
        raise DataError(
            f"{path}: broken DICOM header ({first_line(error)}): fetch the file again, or remove it"
        ) from error


def first_line(error: Exception) -> str:
    """What an exception says, on one line; its kind where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


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
        patient_id=text(dataset, "PatientID"),
        study_uid=str(dataset.StudyInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        series_number=_whole(dataset, "SeriesNumber"),
        series_description=text(dataset, "SeriesDescription"),
        modality=text(dataset, "Modality"),
        image_type=_texts(dataset, "ImageType"),
        instance_number=_whole(dataset, "InstanceNumber"),
        position=_position(dataset),
        orientation=_orientation(dataset),
        spacing=_spacing(dataset),
        thickness=_positive(dataset, "SliceThickness"),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        b_value=_b_value(dataset),
        model=text(dataset, "ManufacturerModelName"),
        field_strength=_positive(dataset, "MagneticFieldStrength"),
        tube_voltage=_positive(dataset, "KVP"),
        bits_stored=_whole(dataset, "BitsStored"),
    )


def text(dataset: Dataset, keyword: str) -> str:
    """An element as text without outer blanks; empty where it is absent."""
    return " ".join(_texts(dataset, keyword))


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = dataset.get(keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) else value
    return tuple(str(part).strip(" \0") for part in values)


def _whole(dataset: Dataset, keyword: str) -> int | None:
    match numbers(dataset.get(keyword)):
        case (number,) if number.is_integer():
            return int(number)
    return None


def numbers(value: Any) -> tuple[float, ...]:
    """The numbers of an element, however it holds them; () where one is no finite number."""
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    if isinstance(value, str):
        value = value.strip(" \0").split("\\")
    parts = value if isinstance(value, Iterable) else [value]
    try:
        found = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return ()
    return found if np.isfinite(found).all() else ()


def _position(dataset: Dataset) -> tuple[float, float, float] | None:
    match numbers(dataset.get("ImagePositionPatient")):
        case (x, y, z):
            return (x, y, z)
    return None


def _orientation(dataset: Dataset) -> tuple[float, float, float, float, float, float] | None:
    match numbers(dataset.get("ImageOrientationPatient")):
        case (a, b, c, d, e, f):
            gram = np.array([[a, b, c], [d, e, f]]) @ np.array([[a, d], [b, e], [c, f]])
            if np.allclose(gram, np.eye(2), atol=1e-3):
                return (a, b, c, d, e, f)
    return None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    match numbers(dataset.get("PixelSpacing")):
        case (row, column) if row > 0 and column > 0:
            return (row, column)
    return None


def _positive(dataset: Dataset, keyword: str) -> float | None:
    match numbers(dataset.get(keyword)):
        case (number,) if number > 0:
            return number
    return None


def _b_value(dataset: Dataset) -> float | None:
    """The b-value: standard tag, Siemens' private one (padded bytes), or the sequence's name."""
    candidates = [numbers(dataset.get("DiffusionBValue"))]
    creator = dataset.get(_SIEMENS_CREATOR)
    private = dataset.get(_SIEMENS_B_VALUE)
    if private is not None and (creator is None or "SIEMENS" in str(creator.value).upper()):
        candidates.append(numbers(private.value))
    told = _SEQUENCE_B_VALUE.search(text(dataset, "SequenceName"))
    if told:
        candidates.append((float(told[1]),))
    for candidate in candidates:
        if len(candidate) == 1 and candidate[0] >= 0:
            return candidate[0]
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
            plane=_plane(group),
        )
        for uid, group in groups.items()
    ]


def _plane(headers: Iterable[Header]) -> str | None:
    """The plane of a series, by the axis of the patient that is nearest to the normal."""
    planes = set()
    for header in headers:
        if header.orientation is None:
            return None
        row, column = np.reshape(np.asarray(header.orientation), (2, 3))
        axis = int(np.argmax(np.abs(np.cross(row, column))))
        planes.add(("sagittal", "coronal", "transverse")[axis])
    return planes.pop() if len(planes) == 1 else None
