"""Reading of a DICOM image's pixels: stored or grey values, compressed or not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.data.dicom.decode import decode
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
from hydrakit.data.dicom.header import DicomFile, first_line, lenient_pydicom, text
from hydrakit.data.padding import fill_padding
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset, FileDataset

# Mammograms are the largest single images, with about 30 million pixels. If a broken header states
# far more, the decoder would allocate gigabytes before it fails.
MAX_PIXELS = 48_000_000
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
    return read_grey(path, rescale=rescale).pixels


def read_grey(path: Path, *, rescale: bool | None, own_window: bool = False) -> GreyImage:
    """Read the grey values of an image, and whether they were rescaled; see `read_pixels`.

    Args:
        path: Path of the DICOM file.
        rescale: As for `read_pixels`.
        own_window: Apply the file's own window or VOI table: values are 0 to 255.

    Raises:
        MissingCodecError: As for `read_pixels`.
        DataError: As for `read_pixels`, or the file has no usable window.
    """
    image = read_stored(path)
    with lenient_pydicom(), _as_data_errors(path):
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
            raise DataError(f"{path}: {error} (PixelPaddingValue): leave it out") from None
    return GreyImage(pixels=pixels, tags=modality.tags)


def read_stored(path: Path) -> StoredImage:
    """Read the stored values of a single-frame greyscale image.

    Raises:
        MissingCodecError: The pixels are compressed, and no installed package decodes them.
        DataError: The pixels are truncated, damaged, or not greyscale.
    """
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    with _as_data_errors(path), DicomFile(path) as file, lenient_pydicom():
        dataset = dcmread(file)
        _check_codec(path, dataset)
        _check_size(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
        in_c = syntax.is_compressed and syntax != RLELossless  # pydicom decodes RLE in Python
        pixels = decode(path) if in_c else np.asarray(dataset.pixel_array)
        kind = text(dataset, "PhotometricInterpretation")
        if pixels.ndim != 2 or not kind.startswith("MONOCHROME"):
            raise DataError(
                f"{path}: {kind} pixels of shape {pixels.shape}: one greyscale frame is required"
            )
        words = pixels
        if not syntax.is_compressed:
            _check_high_bit(path, dataset)
            if "PixelPaddingValue" in dataset:
                dataset.pixel_array_options(correct_unused_bits=False)
                words = np.asarray(dataset.pixel_array)
        padding = find_padding(pixels, words, dataset)
        window = first_window(dataset)
    return StoredImage(pixels=pixels, window=window, padding=padding, elements=dataset)


@contextmanager
def _as_data_errors(path: Path) -> Iterator[None]:
    """Convert the errors of a damaged file to a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except ElementError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:
        # A damaged file can raise almost any exception, as in read_header.
        raise DataError(
            f"{path}: the pixels cannot be read ({first_line(error)}): fetch the file again, or "
            "store it uncompressed"
        ) from error


def _check_high_bit(path: Path, dataset: FileDataset) -> None:
    """Refuse values that are not in the lowest bits of their words, which pydicom misreads."""
    high_bit, bits = dataset.get("HighBit"), int(dataset.BitsStored)
    if high_bit is not None and int(high_bit) != bits - 1:
        raise DataError(
            f"{path}: HighBit is {int(high_bit)} where BitsStored is {bits}: only values in the "
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
    """Refuse an image that would decompress to too many pixels, before it is decompressed.

    Raises:
        ValueError: The header states too many pixels, or a compressed frame has another size.
    """
    size = (int(dataset.Rows), int(dataset.Columns))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not 0 < size[0] * size[1] * frames * int(dataset.SamplesPerPixel) <= MAX_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} pixels in {frames} frames: too many, or none")
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        from pydicom.encaps import generate_frames

        frame = next(generate_frames(dataset.PixelData, number_of_frames=frames))
        frame_size = _codestream_size(frame)
        if frame_size not in (None, size):
            raise ValueError(f"a compressed frame of {frame_size} pixels in an image of {size}")


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
