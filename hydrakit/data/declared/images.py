"""Reading of one image as float32 channels: formats of Pillow and NumPy, DICOM, slices of volumes.

The content decides the format, not the file name. Stored values are not scaled: 8 bits give 0 to
255, 16 bits give 0 to 65535.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.declared.arrays import (
    MAX_VALUES,
    ImageError,
    StoredArray,
    channel_axis,
    open_array,
)
from hydrakit.data.declared.schema import ImageRules
from hydrakit.data.dicom.grey import RESCALE_TAGS
from hydrakit.data.dicom.header import BARE, is_bare
from hydrakit.data.padding import concatenate, padding_mask
from hydrakit.data.safe_paths import open_file
from hydrakit.data.volumes.formats import HEAD, find_format, open_volume
from hydrakit.data.volumes.volume import MAX_UNPACKED, Volume
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from hydrakit.data.dicom import Header
    from hydrakit.data.dicom.geometry import ImagePlane
    from hydrakit.data.dicom.pixels import DicomImage
    from hydrakit.data.volumes.volume import Point, SlicePlane

_NULL_HANDLER = logging.NullHandler()  # Pillow's log about a damaged file is in the reason already

MAX_OPEN = 16  # volumes: one patient's sequences, and their masks

Facts = dict[str, str | float]

_BITS = re.compile(r";(\d+)")
# A decoder's message differs from file to file and may quote the file; a reason must do neither.
# The name of a missing DICOM attribute, as in `(no StudyInstanceUID)`, stays.
_DECODER_MESSAGE = re.compile(
    r"^(the pixels cannot be read|broken DICOM header) \((?!no [A-Z]\w+\)).*\)"
)
_DAMAGED = "is not a whole {}: fetch it again"
_SAVE = "save it as grey of 8 or 16 bits, or of 32-bit floating point, with zero for black"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0, section 8
_GREY_SENSE = {0: "white is zero", 1: "black is zero"}
UNCLEAR_AXIS = (
    "has an array of shape {}, which does not show its channels: if it is one image, add "
    'channels = "first" or "last" under [images]; if it is a volume, use its slices as images'
)
_NO_VOLUME = "is no volume: it has neither neighbouring slices nor a position in the patient"
PILLOW_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "PPM", "GIF", "WEBP", "JPEG2000")
_TOO_LARGE = f"has more than {MAX_VALUES} pixels: scale it down"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pixels and metadata of one image file.

    Attributes:
        pixels: Finite float32 values, ``(channels, height, width)``; DICOM padding is masked.
        facts: Format, mode, width, height and bits; for DICOM, mode is the modality, and the
            scanner's facts are added.
        header: Header of a DICOM file.
        slice_plane: Where a slice of a volume lies in the patient.
        centre: ``(row, column)`` in pixels of the position in the patient that was asked for.
        files: Further files that determine the pixels.
    """

    pixels: NDArray[np.float32]
    facts: Facts
    header: Header | None = None
    slice_plane: SlicePlane | None = None
    centre: tuple[float, float] | None = None
    files: tuple[Path, ...] = ()

    @property
    def plane(self) -> ImagePlane | None:
        """Where the image lies in the patient, if its format can state it (DICOM, volumes)."""
        return self.header or self.slice_plane

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Pixel spacing ``(row, column)`` in millimetres, if the file states it."""
        return self.plane.spacing if self.plane else None

    @property
    def patient(self) -> str | None:
        """Pseudonymous patient identifier, if the file states it (DICOM)."""
        return (self.header.patient_id or None) if self.header else None

    @property
    def study(self) -> str | None:
        """StudyInstanceUID of a DICOM file, if the file states it."""
        return (self.header.study_uid or None) if self.header else None


class ImageReader:
    """Reads the images of one dataset by its image rules; higher grey values are brighter.

    The last array or DICOM file stays open, so that reading its rows or frames in order takes one
    pass over it. The last volumes stay in memory, so that each is unpacked once for all its slices.
    """

    def __init__(self, rules: ImageRules) -> None:
        self._rules = rules
        self._array: tuple[Path, str | None, StoredArray] | None = None
        self._dicom: DicomImage | None = None
        self._volumes: dict[Path, Volume] = {}  # the last one used comes last

    def close(self) -> None:
        """Close the open files, and forget the volumes."""
        self._volumes.clear()
        for file in (self._array and self._array[2], self._dicom):
            if file is not None:
                file.close()
        self._array = self._dicom = None

    def read(
        self,
        path: Path,
        member: str | None = None,
        row: int | None = None,
        *,
        point: Point | None = None,
    ) -> Picture:
        """Read one image.

        Args:
            path: Path of the file.
            member: Name of the array in an NPZ file; None if the file has only one.
            row: Index of the image in a file of several, from 0: along the first axis of an NPY or
                NPZ array, a page, a frame of a DICOM image, or a slice of a volume; None for the
                whole file.
            point: Position in the patient in millimetres (LPS) that chooses the slice of a volume.

        Raises:
            ImageError: The file holds no usable image.
            MissingCodecError: The DICOM file is compressed, and no installed package decodes it.
        """
        picture = self._read(path, member, row, point)
        window = self._rules.window
        if window == "file" and picture.facts["format"] != "DICOM":
            raise ImageError(path, 'has no window, which window = "file" needs: only DICOM has one')
        if isinstance(window, tuple):
            return replace(picture, pixels=_windowed(picture.pixels, *window))
        return picture

    def _read(
        self, path: Path, member: str | None, row: int | None, point: Point | None
    ) -> Picture:
        try:
            with open_file(path) as file:
                head = file.read(HEAD)
            if member is None and find_format(head) is not None:
                return self._slice(path, row, point)
            if self._rules.slices > 1 or point is not None:
                raise ImageError(path, _NO_VOLUME)
            if head.startswith((b"PK", b"\x93NUMPY")):
                return self._read_array(path, member, row)
        except OSError as error:
            raise ImageError(path, f"cannot be opened ({error.strerror or error})") from None
        if member is not None:
            raise ImageError(path, "has no members: only NPZ files have them")
        if head[128:132] == b"DICM":
            return _dicom(self._dicom_image(path), self._rules, row)
        if is_bare(head):
            raise ImageError(path, BARE)
        return _pillow(path, self._rules, head, page=row)

    def volume(self, path: Path) -> Volume:
        """Open a volume, or return the open one.

        Raises:
            ImageError: It is no usable volume.
            OSError: It cannot be opened.
        """
        volume = self._volumes.pop(path, None) or open_volume(path)
        self._volumes[path] = volume
        while len(self._volumes) > 1 and (
            len(self._volumes) > MAX_OPEN
            or sum(each.memory for each in self._volumes.values()) > MAX_UNPACKED
        ):
            del self._volumes[next(iter(self._volumes))]
        return volume

    def _slice(self, path: Path, row: int | None, point: Point | None) -> Picture:
        rules = self._rules
        volume = self.volume(path)
        part = volume.read(
            plane=rules.plane, index=row, point=point, slices=rules.slices, rescale=rules.rescale
        )
        if not np.isfinite(part.pixels).all():
            raise ImageError(path, "has pixels that are not finite")
        return Picture(
            pixels=part.pixels,
            facts=part.facts,
            slice_plane=part.plane,
            centre=part.centre,
            files=volume.files,
        )

    def _dicom_image(self, path: Path) -> DicomImage:
        if self._dicom is None or self._dicom.path != path:
            from hydrakit.data.dicom.pixels import DicomImage

            self.close()
            with _dicom_errors(path), _quiet():
                self._dicom = DicomImage(path)
        return self._dicom

    def _read_array(self, path: Path, member: str | None, row: int | None) -> Picture:
        if self._array is None or self._array[:2] != (path, member):
            self.close()
            self._array = (path, member, open_array(path, member))
        stored = self._array[2]
        if stored.dtype.kind not in "biuf":
            raise ImageError(path, "holds text: an image is an array of numbers")
        values = stored.read(row)
        if values.ndim == 2:
            values = values[np.newaxis]
        elif values.ndim == 3 and 0 not in values.shape:
            axis = self._rules.channels or channel_axis(values.shape)
            if axis is None:
                raise ImageError(path, UNCLEAR_AXIS.format(values.shape))
            if axis == "last":
                values = np.moveaxis(values, -1, 0)
        if values.ndim != 3 or 0 in values.shape:
            raise ImageError(
                path, f"has an image of shape {values.shape}: two or three dimensions are required"
            )
        if values.size > MAX_VALUES:
            raise ImageError(path, _TOO_LARGE)
        with np.errstate(over="ignore"):  # values too large for float32 are refused below
            pixels = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(pixels).all():
            raise ImageError(path, "has pixels that are not finite")
        file_format = "NPY" if path.suffix.lower() == ".npy" else "NPZ"
        bits = stored.dtype.itemsize * 8
        return Picture(pixels=pixels, facts=_facts(file_format, stored.dtype.name, pixels, bits))


def _windowed(pixels: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    from hydrakit.data.dicom.grey import apply_window

    values = apply_window(np.asarray(pixels), centre, width).astype(np.float32)
    padding = padding_mask(pixels)
    return values if padding is None else np.ma.MaskedArray(values, mask=padding)


def _facts(file_format: str, mode: str, pixels: NDArray[np.float32], bits: float) -> Facts:
    height, width = pixels.shape[-2:]
    return {
        "format": file_format,
        "mode": mode,
        "width": float(width),
        "height": float(height),
        "bits": float(bits),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress decoder warnings: relevant problems raise errors or are in a sample's facts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _dicom(image: DicomImage, rules: ImageRules, frame: int | None) -> Picture:
    path = image.path
    with _dicom_errors(path), _quiet():
        header = image.header(frame)
        if header is None:
            raise ImageError(path, f"is DICOM without an image ({image.kind}): leave it out")
        if header.rows * header.columns > MAX_VALUES:
            raise ImageError(path, _TOO_LARGE)
        if image.is_colour:
            if rules.window == "file" or rules.rescale:
                key = "rescale = true" if rules.rescale else 'window = "file"'
                raise ImageError(path, f"is in colour, which {key} does not apply to")
            pixels, tags = _channels(image.rgb(frame), rules), "none"
        else:
            own_window = rules.window == "file"
            grey = image.grey(frame, rescale=rules.rescale, own_window=own_window)
            pixels, tags = grey.pixels[np.newaxis], grey.tags
            if rules.colour == "channels":
                pixels = concatenate([pixels] * 3)
    if pixels.size == 0 or not np.isfinite(pixels).all():
        raise ImageError(path, "has no pixels, or pixels that are not finite")
    scanner = header.facts()
    for name in ("rows", "columns", "bits stored"):  # `_facts` has these
        scanner.pop(name, None)
    if rules.rescale is None:
        scanner[RESCALE_TAGS] = tags
    return Picture(
        pixels=pixels,
        facts=_facts("DICOM", header.modality, pixels, header.bits_stored or 0) | scanner,
        header=header,
    )


@contextmanager
def _dicom_errors(path: Path) -> Iterator[None]:
    """Convert errors about a DICOM file to an ImageError; a missing codec is not its fault."""
    from hydrakit.data.dicom import MissingCodecError

    try:
        yield
    except (ImageError, MissingCodecError):
        raise
    except DataError as error:
        reason = _DECODER_MESSAGE.sub(r"\1", str(error).removeprefix(f"{path}: "))
        raise ImageError(path, reason) from error


def _channels(rgb: NDArray[np.uint8], rules: ImageRules) -> NDArray[np.float32]:
    """Return colours ``(height, width, 3)`` as three channels or, by Pillow, their luminance."""
    from PIL import Image

    if rules.colour == "channels":
        return np.moveaxis(rgb, -1, 0).astype(np.float32)
    return np.asarray(Image.fromarray(rgb).convert("L"))[np.newaxis].astype(np.float32)


def _pillow(path: Path, rules: ImageRules, head: bytes, *, page: int | None) -> Picture:
    from PIL import Image, UnidentifiedImageError

    logging.getLogger("PIL").addHandler(_NULL_HANDLER)
    try:
        with _quiet():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Given a path, Pillow 13 maps the file into memory, and then scrambles a TIFF whose
            # orientation exchanges rows and columns.
            with (
                path.open("rb") as file,
                Image.open(file, formats=PILLOW_FORMATS) as image,
            ):
                _go_to_page(path, image, page)
                return _decoded(path, image, rules)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(path, _TOO_LARGE) from None
    except UnidentifiedImageError:
        if head.startswith(_TIFF):
            raise ImageError(path, "is a kind of TIFF that Pillow cannot read: " + _SAVE) from None
        raise ImageError(path, "is no image in a format that hydrakit reads") from None
    except Exception as error:
        # Pillow's decoders raise almost any kind of exception for a damaged file.
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(path, f"cannot be opened ({error.strerror})") from None
        raise ImageError(path, _DAMAGED.format("image")) from error


def _go_to_page(path: Path, image: Image.Image, page: int | None) -> None:
    """Choose a page of a TIFF, or a frame of an animation; without a number, there must be one.

    The first frame of an animated GIF is an exception: viewers without animation show it.
    """
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a JPEG with previews
    if page is None:
        if pages > 1 and image.format != "GIF":
            raise ImageError(path, f"has {pages} pages: name one as FILE#[0] to FILE#[{pages - 1}]")
    elif page >= pages:
        raise ImageError(path, f"has no page {page}: it has {pages}, counted from 0")
    elif page:
        image.seek(page)


def _decoded(path: Path, image: Image.Image, rules: ImageRules) -> Picture:
    file_format = image.format or "?"
    channels = 3 if rules.colour == "channels" else 1
    if image.width * image.height * channels > MAX_VALUES:
        raise ImageError(path, _TOO_LARGE)
    bits, mode = _bits(image), image.mode  # before loading, which discards the raw mode
    scale = _scale(image, bits)
    photometric = _photometric(image)
    fault = _fault(image, photometric)
    if fault is not None:
        raise ImageError(path, fault)
    image.load()
    image.info.pop("transparency", None)
    image = _upright(image)
    if mode.startswith(("I", "F")):  # grey of 16 or 32 bits
        grey = np.asarray(image).astype(np.float32)
        if photometric == _WHITE_IS_ZERO:  # Pillow inverts 1 to 8 bits, but not 16
            grey = 2**bits - 1 - grey
        pixels = np.repeat(grey[np.newaxis], channels, axis=0)
    elif channels == 3:
        pixels = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0).astype(np.float32)
    else:
        # Convert through RGB, so that palettes and transparency are treated like all other modes;
        # grey values stay unchanged.
        pixels = np.asarray(image.convert("RGB").convert("L"))[np.newaxis].astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ImageError(path, "has pixels that are not finite")
    if scale != 1:
        pixels = np.rint(pixels * scale).astype(np.float32)
    facts = _facts(file_format, mode, pixels, bits)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and file_format == "GIF":
        facts["frames"] = float(frames)
    if photometric in _GREY_SENSE:
        facts["photometric interpretation"] = _GREY_SENSE[photometric]
    return Picture(pixels=np.ascontiguousarray(pixels), facts=facts)


def _photometric(image: Image.Image) -> int | None:
    """Return a TIFF's PhotometricInterpretation; None if it is missing, or for other formats."""
    from PIL.TiffImagePlugin import TiffImageFile

    return image.tag_v2.get(_PHOTOMETRIC) if isinstance(image, TiffImageFile) else None


def _fault(image: Image.Image, photometric: int | None) -> str | None:
    """Return why Pillow would read other values than the file means, or None."""
    if image.mode == "LAB":
        return "has LAB colours, which Pillow cannot convert: save it as RGB"
    if _raw_mode(image).startswith("LA;16"):
        return "is grey of 16 bits with transparency: save it without transparency"
    if image.format == "TIFF" and photometric is None:
        return "is a TIFF that does not say whether zero is white: " + _SAVE
    if image.mode == "F" and photometric == _WHITE_IS_ZERO:
        return "is a floating-point TIFF whose zero is white: " + _SAVE
    return None


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as a viewer shows it: rotated as its EXIF data says."""
    from PIL import ExifTags, ImageOps

    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # viewers, too, show an image with damaged EXIF data as it is stored
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _bits(image: Image.Image) -> int:
    """Return the stored bits per channel."""
    if image.format == "PPM" and (levels := _levels(image)) is not None:
        return levels.bit_length()
    if image.format == "JPEG2000" and image.mode == "I;16":
        return _precision(image)
    match = _BITS.search(_raw_mode(image))
    if match:
        return int(match[1])
    if image.mode == "1":
        return 1
    return 32 if image.mode in ("I", "F") else 8


def _levels(image: Image.Image) -> int | None:
    """Return the largest grey value that the header of a PGM allows; None for the usual ones."""
    tiles = getattr(image, "tile", None)
    match tiles and tiles[0][3]:
        case ("L", int(levels)):
            return levels
    return None


def _precision(image: Image.Image) -> int:
    """Return the bits of the first component of a JPEG 2000 file (ISO 15444-1 A.5.1: Ssiz)."""
    from PIL.ImageFile import ImageFile

    assert isinstance(image, ImageFile)
    assert image.fp is not None
    at = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(2**16)
    image.fp.seek(at)
    start = head.find(b"\xff\x4f\xff\x51")
    return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 16


def _scale(image: Image.Image, bits: int) -> float:
    """Return the factor from Pillow's values to the stored ones: it stretches some to 16 bits."""
    if image.format == "PPM" and (levels := _levels(image)) is not None:
        return levels / (2**16 - 1 if image.mode == "I" else 2**8 - 1)
    if image.format == "JPEG2000" and image.mode == "I;16":
        return 2.0 ** (bits - 16)
    return 1.0


def _raw_mode(image: Image.Image) -> str:
    """Return the mode of the stored values, before Pillow decodes them; empty if unknown."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""
