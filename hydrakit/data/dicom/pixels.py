"""Reading of a DICOM image's pixels, stored or rescaled, compressed or not."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.data.dicom.decode import decode
from hydrakit.data.dicom.header import DicomFile, first_line, lenient_pydicom, numbers, text
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

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
    """An image with its stored values and display tags.

    Attributes:
        pixels: Stored integer values, ``(height, width)``.
        slope: RescaleSlope; None if absent.
        intercept: RescaleIntercept; None if absent.
        window: First WindowCenter and WindowWidth (PS3.3 C.11.2); None if absent.
    """

    pixels: NDArray[Any]
    slope: float | None
    intercept: float | None
    window: tuple[float, float] | None


def read_pixels(path: Path, *, rescale: bool = False) -> NDArray[np.float32]:
    """Read the pixels of a single-frame greyscale image as float32, ``(height, width)``.

    Args:
        path: Path of the DICOM file.
        rescale: Apply RescaleSlope and RescaleIntercept (PS3.3 C.11.1), which gives Hounsfield
            units for CT; otherwise return the stored values.

    Raises:
        MissingCodecError: The pixels are compressed, and no installed package decodes them.
        DataError: The pixels are truncated, damaged or not greyscale, or the file lacks usable
            rescale tags.
    """
    image = read_stored(path)
    if not rescale:
        return image.pixels.astype(np.float32)
    if image.slope is None or image.intercept is None:
        raise DataError(
            f"{path}: no usable RescaleSlope and RescaleIntercept for Hounsfield units: use CT "
            "images with these tags"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = (image.pixels * image.slope + image.intercept).astype(np.float32)
    if not np.isfinite(rescaled).all():
        raise DataError(
            f"{path}: RescaleSlope {image.slope:g} and RescaleIntercept {image.intercept:g} give "
            "values that are not finite: fetch the file again"
        )
    return rescaled


def read_stored(path: Path) -> StoredImage:
    """Read a single-frame greyscale image without rescaling.

    Raises:
        MissingCodecError: The pixels are compressed, and no installed package decodes them.
        DataError: The pixels are truncated, damaged, or not greyscale.
    """
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    try:
        with DicomFile(path) as file, lenient_pydicom():
            dataset = dcmread(file)
            _check_codec(path, dataset)
            _check_size(dataset)
            syntax = dataset.file_meta.TransferSyntaxUID
            in_c = syntax.is_compressed and syntax != RLELossless  # pydicom decodes RLE in Python
            pixels = decode(path) if in_c else np.asarray(dataset.pixel_array)
            kind = text(dataset, "PhotometricInterpretation")
            slope, intercept, centre, width = (
                next(iter(numbers(dataset.get(keyword))), None)
                for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
            )
    except DataError:
        raise
    except Exception as error:
        # A damaged file can raise almost any exception, as in read_header.
        raise DataError(
            f"{path}: the pixels cannot be read ({first_line(error)}): fetch the file again, or "
            "store it uncompressed"
        ) from error
    if pixels.ndim != 2 or not kind.startswith("MONOCHROME"):
        raise DataError(
            f"{path}: {kind} pixels of shape {pixels.shape}: one greyscale frame is required"
        )
    window = None if centre is None or width is None else (centre, width)
    return StoredImage(pixels=pixels, slope=slope, intercept=intercept, window=window)


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
