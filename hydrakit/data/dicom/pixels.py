"""Reading of a DICOM image's pixels: stored or grey values, compressed or not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from hydrakit.data.dicom.colour import is_colour, to_rgb
from hydrakit.data.dicom.decode import decode, decode_here
from hydrakit.data.dicom.frames import FrameError, choose_frame, frame_count, frame_elements
from hydrakit.data.dicom.grey import (
    WHITE,
    ElementError,
    RescaleTags,
    display_values,
    find_padding,
    first_window,
    is_inverse,
    modality_values,
)
from hydrakit.data.dicom.header import (
    Header,
    first_line,
    header_errors,
    header_of,
    lenient_pydicom,
    open_dicom,
    text,
)
from hydrakit.data.padding import fill_padding
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset, FileDataset

# Mammograms are the largest single images, with about 30 million pixels. If a broken header states
# far more, the decoder would allocate gigabytes before it fails.
MAX_PIXELS = 48_000_000
_UNDEFINED = 0xFFFFFFFF  # length of an element
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xF7})


class MissingCodecError(DataError):
    """The pixels are compressed, and no installed package decodes them.

    This is not a fault of the file, so a dataset's reader lets the error through: the other files
    of the dataset are probably compressed in the same way.
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImage:
    """An image as it is stored, and the elements that say what its values mean.

    Attributes:
        pixels: Stored integer values, ``(height, width)``.
        window: First WindowCenter and WindowWidth (PS3.3 C.11.2); None if absent.
        padding: Where the image is padding, ``(height, width)``; None if nowhere.
        elements: The elements of the file.
    """

    pixels: NDArray[Any]
    window: tuple[float, float] | None
    padding: NDArray[np.bool_] | None
    elements: Dataset


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreyImage:
    """An image with its grey values; higher values are brighter.

    Attributes:
        pixels: Finite float32 values, ``(height, width)``, with padding masked as `read_pixels`
            says.
        tags: Whether the file has a modality transform, and whether it changed the stored values;
            ``none`` also if it was not to be applied.
    """

    pixels: NDArray[np.float32]
    tags: RescaleTags


class DicomImage:
    """An open DICOM image: its elements are read once, and of its pixels one frame at a time.

    Raises:
        DataError: The file cannot be opened, or its header is broken.
    """

    def __init__(self, path: Path) -> None:
        from pydicom import dcmread

        self.path = path
        with header_errors(path):
            self._file = open_dicom(path)
            try:
                with lenient_pydicom():
                    self._dataset = dcmread(self._file, stop_before_pixels=True)
                self._start = self._file.tell()
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Self:
        """Return the image."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def header(self, frame: int | None = None) -> Header | None:
        """Return the header of a frame; None if the file is not an image.

        Args:
            frame: Index of the frame, from 0; None for the only one.

        Raises:
            DataError: The header is broken, there is no such frame, or one must be chosen.
        """
        with header_errors(self.path), lenient_pydicom():
            header = header_of(self.path, self._dataset, frame)
            if header is not None:
                choose_frame(header.frames, frame)
            return header

    @property
    def kind(self) -> str:
        """What kind of object the file holds, by the name of its SOP class."""
        from pydicom.uid import UID

        with lenient_pydicom():
            uid = UID(str(self._dataset.file_meta.get("MediaStorageSOPClassUID", "")))
        return uid.name if uid.name != uid else "of an unknown kind"  # UIDs are their own names

    @property
    def is_colour(self) -> bool:
        """Whether the pixels are colours."""
        with _as_data_errors(self.path), lenient_pydicom():
            return is_colour(self._dataset)

    def stored(self, frame: int | None = None) -> StoredImage:
        """Return the stored values of a greyscale frame; see `read_stored`."""
        with _as_data_errors(self.path), lenient_pydicom():
            dataset, number = self._frame(frame)
            pixels = self._pixels(number)
            kind = text(dataset, "PhotometricInterpretation")
            if pixels.ndim != 2 or is_colour(dataset):
                raise ElementError(
                    f"{kind} pixels of shape {pixels.shape}: a greyscale image is required"
                )
            words = pixels
            if not self._dataset.file_meta.TransferSyntaxUID.is_compressed:
                _check_high_bit(dataset)
                if "PixelPaddingValue" in dataset:
                    words = self._pixels(number, correct_unused_bits=False)
            padding = find_padding(pixels, words, dataset)
            window = first_window(dataset)
        return StoredImage(pixels=pixels, window=window, padding=padding, elements=dataset)

    def grey(
        self, frame: int | None = None, *, rescale: bool | None, own_window: bool = False
    ) -> GreyImage:
        """Return the grey values of a frame, and whether they were rescaled; see `read_pixels`.

        Args:
            frame: Index of the frame, from 0; None for the only one.
            rescale: As for `read_pixels`.
            own_window: Apply the file's own window or VOI table: values are 0 to 255.

        Raises:
            MissingCodecError: As for `read_pixels`.
            DataError: As for `read_pixels`, or the file has no usable window.
        """
        image = self.stored(frame)
        with lenient_pydicom(), _as_data_errors(self.path):
            modality = modality_values(image.pixels, image.elements, rescale=rescale)
            values, low, high = modality.values, modality.low, modality.high
            if own_window:
                values, low, high = display_values(modality, image.elements), 0.0, WHITE
            if is_inverse(image.elements):
                values = low + high - values
        pixels = values.astype(np.float32)
        if image.padding is not None:
            masked = np.ma.MaskedArray(pixels, mask=image.padding)
            try:
                pixels = np.ma.MaskedArray(fill_padding(masked), mask=image.padding)
            except DataError as error:
                raise DataError(f"{self.path}: {error} (PixelPaddingValue): leave it out") from None
        return GreyImage(pixels=pixels, tags=modality.tags)

    def rgb(self, frame: int | None = None) -> NDArray[np.uint8]:
        """Return red, green and blue of a frame in colour, ``(height, width, 3)``, 0 to 255.

        Raises:
            MissingCodecError: The pixels are compressed, and no installed package decodes them.
            DataError: The pixels are truncated, damaged, or not in colour, or there is no such
                frame.
        """
        with _as_data_errors(self.path), lenient_pydicom():
            dataset, number = self._frame(frame)
            return to_rgb(self._pixels(number), dataset)

    def _frame(self, frame: int | None) -> tuple[Dataset, int]:
        """Return the elements of a frame, and its index."""
        number = choose_frame(frame_count(self._dataset), frame)
        return frame_elements(self._dataset, number), number

    def _pixels(self, frame: int, **options: bool) -> NDArray[Any]:
        """Decode one frame as pydicom's ``pixel_array`` does; nothing else of the pixels is read.

        Raises:
            ValueError: They are damaged.
        """
        from pydicom.encaps import get_frame
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.utils import as_pixel_options
        from pydicom.uid import RLELossless

        dataset = self._dataset
        _check_codec(self.path, dataset)
        _check_size(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
        self._file.seek(self._start)
        given = {**as_pixel_options(dataset), **_pixel_element(self._file, dataset), **options}
        if not syntax.is_compressed:
            decoder = get_decoder(syntax)
            return np.asarray(decoder.as_array(self._file, index=frame, **given)[0])
        offsets = given.pop("extended_offsets", None)
        data = get_frame(
            self._file,
            frame,
            extended_offsets=offsets,
            number_of_frames=frame_count(dataset),
        )
        _check_codestream(data, dataset)
        in_c = syntax != RLELossless  # pydicom decodes RLE in Python
        return (decode if in_c else decode_here)(data, str(syntax), given)


def read_pixels(path: Path, *, rescale: bool | None = False) -> NDArray[np.float32]:
    """Read the grey values of a single-frame image as float32, ``(height, width)``.

    Higher values are brighter: an image whose low values are white is inverted within the range of
    its bits. Padding is masked (`numpy.ma`), and has the values of the nearest other pixels.

    Args:
        path: Path of the DICOM file.
        rescale: True: apply the modality transform (PS3.3 C.11.1: RescaleSlope and
            RescaleIntercept, or a table), which gives Hounsfield units for CT, and refuse an image
            without it. None: apply it if the image has it. False: keep the stored values.

    Raises:
        MissingCodecError: The pixels are compressed, and no installed package decodes them.
        DataError: The pixels are truncated, damaged or not greyscale, or the file lacks usable
            rescale tags.
    """
    with DicomImage(path) as image:
        return image.grey(rescale=rescale).pixels


def read_stored(path: Path) -> StoredImage:
    """Read the stored values of a single-frame greyscale image.

    Raises:
        MissingCodecError: The pixels are compressed, and no installed package decodes them.
        DataError: The pixels are truncated, damaged, or not greyscale.
    """
    with DicomImage(path) as image:
        return image.stored()


@contextmanager
def _as_data_errors(path: Path) -> Iterator[None]:
    """Convert the errors of a damaged file to a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except (ElementError, FrameError) as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:
        # A damaged file can raise almost any exception, as in read_header.
        raise DataError(
            f"{path}: the pixels cannot be read ({first_line(error)}): fetch the file again, or "
            "store it uncompressed"
        ) from error


def _check_high_bit(dataset: Dataset) -> None:
    """Refuse values that are not in the lowest bits of their words, which pydicom misreads."""
    high_bit, bits = dataset.get("HighBit"), int(dataset.BitsStored)
    if high_bit is not None and int(high_bit) != bits - 1:
        raise ElementError(
            f"HighBit is {int(high_bit)} where BitsStored is {bits}: only values in the "
            f"lowest bits (HighBit {bits - 1}) are read: convert the file"
        )


def _check_codec(path: Path, dataset: FileDataset) -> None:
    """Raise MissingCodecError if no installed package decodes the pixels."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise MissingCodecError(
            f"{path}: the pixels are compressed as {syntax.name}, which is not supported: store "
            "the images uncompressed"
        ) from None
    if not decoder.is_available:
        raise MissingCodecError(
            f"{path}: the pixels are compressed as {syntax.name}: to read them, install "
            "'hydrakit-imaging[codecs]', or store the images uncompressed"
        )


def _check_size(dataset: FileDataset) -> None:
    """Refuse an image whose frames would decompress to too many pixels.

    Raises:
        ValueError: The header states too many pixels, or none.
    """
    height, width = int(dataset.Rows), int(dataset.Columns)
    if not 0 < height * width * int(dataset.SamplesPerPixel) <= MAX_PIXELS:
        raise ValueError(f"{height} x {width} pixels: too many, or none")


def _check_codestream(frame: bytes, dataset: FileDataset) -> None:
    """Refuse a compressed frame of another size than the header states.

    Raises:
        ValueError: Its size is another one.
    """
    size = (int(dataset.Rows), int(dataset.Columns))
    frame_size = _codestream_size(frame)
    if frame_size not in (None, size):
        raise ValueError(f"a compressed frame of {frame_size} pixels in an image of {size}")


def _pixel_element(file: BinaryIO, dataset: FileDataset) -> dict[str, str]:
    """Read the beginning of the element that holds the pixels, up to its value (PS3.5 7.1).

    Returns:
        What pydicom's decoders need to know about it.

    Raises:
        ValueError: There is no such element, or it is shorter than the header states.
    """
    from pydicom.pixels.utils import get_expected_length

    order = "<" if dataset.original_encoding[1] else ">"
    if file.read(4) != struct.pack(f"{order}2H", 0x7FE0, 0x0010):
        raise ValueError("no PixelData")
    options = {"pixel_keyword": "PixelData"}
    field = file.read(4)  # an element may have another kind of encoding than the others
    if field[:2] in (b"OB", b"OW", b"UN"):
        options["pixel_vr"] = field[:2].decode("ascii")
        field = file.read(4)
    (length,) = struct.unpack(f"{order}L", field)
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        expected = get_expected_length(dataset)
        if length == _UNDEFINED or length < expected:
            raise ValueError(f"{length} bytes of pixels, not {expected}")
        is_shared = text(dataset, "PhotometricInterpretation") == "YBR_FULL_422"
        if is_shared and length >= expected // 2 * 3:
            raise ValueError("pixels that are not YBR_FULL_422 as stated")
    return options


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Return height and width of a JPEG, JPEG-LS or JPEG 2000 frame; None for other formats."""
    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000 (ISO 15444-1 A.5.1): SIZ comes first
        width, height, left, top = struct.unpack(">4I", frame[8:24])
        return height - top, width - left
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame):  # JPEG (ISO 10918-1 B.2): segments up to the frame header
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if frame[at] != 0xFF or length < 2:
            break
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">2H", frame[at + 5 : at + 9])
            return height, width
        at += 2 + length
    raise ValueError("a JPEG frame without a frame header")
