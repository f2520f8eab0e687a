"""Headers of DICOM images, and their summary for each series."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hydrakit.data.dicom.frames import FrameError, choose_frame, frame_count, frame_elements
from hydrakit.data.safe_paths import open_file
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Tags that every image has (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1, C.7.6.3, C.12.1): if one is missing,
# the header is truncated.
_REQUIRED = (
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Rows",
    "Columns",
    "PixelRepresentation",
)
_OPTIONAL = (
    "SOPClassUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "FrameOfReferenceUID",
    "SliceThickness",
    "SequenceName",
    "DiffusionBValue",
    "ManufacturerModelName",
    "MagneticFieldStrength",
    "KVP",
    "BitsStored",
    "PhotometricInterpretation",
    "PresentationLUTShape",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
MAX_INFLATED = 2**27  # bytes: more than the largest image takes with 16 bits per pixel
MAX_READS = 2**20  # of a header, with two or three for each element
_META_START, _MAX_META = 144, 2**16
_PART = 2**20  # bytes that are inflated at a time
_DEFLATED, _PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
# Private b-values: group, creator of the block, number in it, and binary type if it is no text.
_PRIVATE_B_VALUES = (
    (0x2001, "Philips Imaging DD 001", 0x03, "<f"),
    (0x0043, "GEMS_PARM_01", 0x39, None),
    (0x0065, "Image Private Header", 0x09, "<d"),  # United Imaging
)
_BLOCKS = range(0x10, 0x20)  # of private elements: the standard allows up to 0xFF, nobody needs it
_GE_MARK = 1e9  # added to a b-value by newer GE scanners
_SIEMENS = (_SIEMENS_CREATOR, _SIEMENS_B_VALUE) = (0x00190010, 0x0019100C)
_SEQUENCE_B_VALUE = re.compile(r"_b(\d+)(?!\d|_\d)")  # `*ep_b800t`, but not the range `*ep_b50_800`


LONG_STRING = 64  # characters that a value of VR LO may have (PS3.5, section 6.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Metadata of one DICOM image, without its pixels.

    Attributes:
        path: Path of the file.
        sop_class: SOPClassUID, the type of object (PS3.4 B.5).
        sop_uid: SOPInstanceUID, unique to the image.
        patient_id: PatientID, a pseudonym.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        series_number: SeriesNumber; unique only within a study.
        series_description: SeriesDescription without leading and trailing blanks; may be empty.
        modality: ``MR``, ``CT``, ...
        image_type: Values of ImageType.
        instance_number: InstanceNumber; may rise in either direction through the body.
        position: ImagePositionPatient: centre of the upper left pixel, in millimetres.
        orientation: ImageOrientationPatient: unit vector along a row (towards higher columns),
            then along a column (towards higher rows).
        spacing: PixelSpacing: ``(row, column)`` distance between pixels in millimetres.
        thickness: SliceThickness in millimetres.
        rows: Image height in pixels.
        columns: Image width in pixels.
        b_value: Diffusion weighting in s/mm2, from the standard element, a private one of Siemens,
            Philips, GE or United Imaging, or Siemens' sequence name; None if none states it.
        model: ManufacturerModelName of the scanner; may be empty.
        field_strength: MagneticFieldStrength in tesla.
        tube_voltage: KVP, in kilovolts.
        bits_stored: BitsStored: number of bits used per pixel.
        photometric: PhotometricInterpretation: ``MONOCHROME1`` if low values are white; may be
            empty.
        lut_shape: PresentationLUTShape: ``IDENTITY``, or ``INVERSE`` if low values are white; empty
            if absent.
        frame_uid: FrameOfReferenceUID: positions are comparable between images with an equal one;
            may be empty.
        frames: Number of frames. The fields above are those of one frame; where none was chosen
            of several, they are what the image states for all frames.
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
    photometric: str = ""
    lut_shape: str = ""
    frame_uid: str = ""
    frames: int = 1

    def facts(self) -> dict[str, str | float]:
        """Return facts about the scanner and the file, which should not predict a label.

        They are for ``Sample.facts`` and contain nothing about the patient. Facts that the header
        does not state are absent.
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
            "photometric interpretation": self.photometric or None,
            "presentation LUT shape": self.lut_shape or None,
            "frames": self.frames if self.frames > 1 else None,
        }
        return {name: value for name, value in facts.items() if value is not None}

    def subgroups(self) -> dict[str, str]:
        """Return the scanner's model for ``Sample.subgroups``; empty if the header lacks it."""
        return {"scanner": self.model[:LONG_STRING]} if self.model else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """Summary of a series, by which a dataset's rules choose it.

    Attributes:
        patient_id: PatientID, a pseudonym.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        number: SeriesNumber.
        description: SeriesDescription.
        modality: ``MR``, ``CT``, ...
        image_types: Values of ImageType that occur in at least one image.
        b_values: Distinct b-values of the images, in ascending order.
        images: Number of images.
        plane: ``transverse``, ``sagittal`` or ``coronal``, whichever is nearest; None if the
            headers do not state it, or if it differs between images.
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
    """An open file that never returns more bytes per read than the file's size.

    pydicom requests as many bytes as a length field in the file states, and that field is wrong in
    a damaged file. It reads the whole rest of a file only to inflate it, to an unknown size; such
    reads are refused (`open_dicom` inflates instead).
    """

    def __init__(self, path: Path) -> None:
        super().__init__(open_file(path).detach())
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, at most the file's size; a size is required."""
        if size is None or size < 0:
            raise ValueError("where its deflated data begins is not clear")
        return super().read(min(size, self._size))


class _Inflated(io.BytesIO):
    """Inflated data, which cannot keep pydicom busy for long with millions of empty elements."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes."""
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError("its deflated data has too many elements")
        return super().read(size)


def open_dicom(path: Path) -> BinaryIO:
    """Open a file for pydicom; a deflated one (PS3.5 A.5) is inflated in memory, within a limit.

    Raises:
        OSError: The file cannot be opened.
        ValueError: A deflated file is damaged or inflates to more than `MAX_INFLATED` bytes.
    """
    file = DicomFile(path)
    start = file.read(_META_START)
    if start[128:140] == b"DICM\2\0\0\0UL\4\0":  # the group length of the file meta information
        meta = file.read(min(int.from_bytes(start[140:], "little"), _MAX_META))
        if _DEFLATED in meta:
            inflated = _Inflated()
            inflated.write(start + meta.replace(_DEFLATED, _PLAIN))
            with file:
                _inflate(file, inflated)
            return inflated
    file.seek(0)
    return file


def _inflate(file: DicomFile, into: io.BytesIO) -> None:
    """Inflate the rest of a file, part by part, so that it is in memory only once."""
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(_PART)
        try:
            data = unpacker.decompress(packed, _PART)
        except zlib.error:
            raise ValueError("its deflated data is damaged") from None
        if not packed and not data:
            raise ValueError("its deflated data is cut off")
        into.write(data)
        if into.tell() > MAX_INFLATED:
            raise ValueError(f"it inflates to over {MAX_INFLATED >> 20} MiB")
    into.seek(0)


@contextmanager
def lenient_pydicom() -> Iterator[None]:
    """Make pydicom accept invalid values in other tags, without warnings.

    Its warnings would quote values, which may identify the patient.
    """
    from pydicom import config

    logging.getLogger("pydicom").addFilter(_is_not_quiet)
    token = _quiet.set(True)
    try:
        with config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _quiet.reset(token)


def _is_not_quiet(_: logging.LogRecord) -> bool:
    return not _quiet.get()


def read_header(path: Path) -> Header | None:
    """Read the header of one file; return None if it is not a DICOM image.

    Raises:
        DataError: The file cannot be opened, or it is a DICOM image with a broken header.
    """
    from pydicom import dcmread
    from pydicom.tag import Tag

    with header_errors(path), open_dicom(path) as file:
        if file.read(132)[128:] != b"DICM":
            return None
        file.seek(0)
        with lenient_pydicom():
            names = (*_REQUIRED, *_OPTIONAL)
            tags = [*map(Tag, names), *map(Tag, (*_SIEMENS, *_private_tags()))]
            return header_of(path, dcmread(file, stop_before_pixels=True, specific_tags=tags))


@contextmanager
def header_errors(path: Path) -> Iterator[None]:
    """Convert the errors of reading a header to a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except FrameError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # pydicom raises almost any kind of exception for a truncated or damaged file.
        raise DataError(
            f"{path}: broken DICOM header ({first_line(error)}): fetch the file again, or remove it"
        ) from error


def _private_tags() -> Iterator[int]:
    """Yield the tags of private b-values, and of the blocks in which they are."""
    for group, _, number, _ in _PRIVATE_B_VALUES:
        for block in _BLOCKS:
            yield from (group << 16 | block, group << 16 | block << 8 | number)


BARE = (
    'looks like DICOM, but does not begin with a preamble and "DICM" (PS3.10): export it again '
    "as a DICOM file"
)


def is_bare(head: bytes) -> bool:
    """Whether a file begins with a DICOM element of the first groups, without a preamble."""
    if head[:2] not in (b"\2\0", b"\x08\0") or head[128:132] == b"DICM":
        return False
    is_explicit = head[4:6] in (b"UL", b"UI", b"CS", b"LO", b"SH", b"DA", b"TM", b"OB")
    return is_explicit or 0 < int.from_bytes(head[4:8], "little") <= 256


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type's name if it has none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def header_of(path: Path, dataset: Dataset, frame: int | None = None) -> Header | None:
    """Return the header of an image from its elements; None if they are not those of an image.

    Args:
        path: Path of the file.
        dataset: Elements of the file.
        frame: Index of the frame, from 0; None for an image of one frame, or for what all frames
            have in common.

    Raises:
        ValueError: An element that every image has is missing or wrong.
        FrameError: There is no such frame.
    """
    from pydicom.uid import UID

    meta = dataset.file_meta
    sop_class = UID(str(meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or ""))
    # The transfer syntax comes after the class: without it, the class may itself be cut off.
    if not sop_class or "TransferSyntaxUID" not in meta:
        raise ValueError("it is truncated before its SOP class and transfer syntax")
    if "Image Storage" not in sop_class.name:
        return None
    missing = [keyword for keyword in _REQUIRED if keyword not in dataset]
    if missing:
        raise ValueError(f"no {missing[0]}")
    frames = frame_count(dataset)
    if frame is not None or frames == 1:
        dataset = frame_elements(dataset, choose_frame(frames, frame))
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
        photometric=text(dataset, "PhotometricInterpretation"),
        lut_shape=lut_shape(dataset),
        frame_uid=text(dataset, "FrameOfReferenceUID"),
        frames=frames,
    )


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text without leading and trailing blanks; empty if it is absent."""
    return " ".join(_texts(dataset, keyword))


def lut_shape(dataset: Dataset) -> str:
    """Return PresentationLUTShape; empty if it is absent or has no value that DICOM defines."""
    shape = text(dataset, "PresentationLUTShape").upper()
    return shape if shape in ("IDENTITY", "INVERSE") else ""


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
    """Return the numbers of an element in any encoding; () unless all are finite numbers."""
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    if isinstance(value, str):
        value = value.strip(" \0").split("\\")
    parts = value if isinstance(value, Iterable) else [value]
    try:
        values = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return ()
    return values if np.isfinite(values).all() else ()


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
    """Return the b-value: from the standard tag, a private tag, or the sequence name."""
    candidates = [numbers(dataset.get("DiffusionBValue"))]
    creator = dataset.get(_SIEMENS_CREATOR)
    private = dataset.get(_SIEMENS_B_VALUE)
    if private is not None and (creator is None or "SIEMENS" in str(creator.value).upper()):
        candidates.append(numbers(private.value))
    candidates += [_private_b_value(dataset, *place) for place in _PRIVATE_B_VALUES]
    match = _SEQUENCE_B_VALUE.search(text(dataset, "SequenceName"))
    if match:
        candidates.append((float(match[1]),))
    for candidate in candidates:
        if len(candidate) == 1 and candidate[0] >= 0:
            return candidate[0]
    return None


def _private_b_value(
    dataset: Dataset, group: int, creator: str, number: int, binary: str | None
) -> tuple[float, ...]:
    try:
        value = dataset.private_block(group, creator)[number].value
    except KeyError:  # neither block nor element
        return ()
    if binary is not None:
        if isinstance(value, bytes) and len(value) == struct.calcsize(binary):  # type unknown
            value = struct.unpack(binary, value)
        return numbers(value)
    # GE: several values, of which the first is the b-value.
    return tuple(number % _GE_MARK for number in numbers(value)[:1])


def series_facts(headers: Iterable[Header]) -> list[SeriesFacts]:
    """Summarise each series, in the order of their first images."""
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
    """Return the plane of a series: the patient axis nearest to its normal decides."""
    planes = set()
    for header in headers:
        if header.orientation is None:
            return None
        row, column = np.reshape(np.asarray(header.orientation), (2, 3))
        axis = int(np.argmax(np.abs(np.cross(row, column))))
        planes.add(("sagittal", "coronal", "transverse")[axis])
    return planes.pop() if len(planes) == 1 else None
