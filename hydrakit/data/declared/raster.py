"""Reading of the formats of Pillow: the stored values, which Pillow stretches in some formats."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.declared.arrays import MAX_VALUES, ImageError
from hydrakit.data.declared.picture import TOO_LARGE, Picture, file_facts, quiet
from hydrakit.data.declared.schema import ImageRules

if TYPE_CHECKING:
    from PIL import Image

_NULL_HANDLER = logging.NullHandler()  # Pillow's log about a damaged file is in the reason already
_BITS = re.compile(r";(\d+)")
_SAVE = "save it as grey of 8 or 16 bits, or of 32-bit floating point, with zero for black"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0, section 8
_GREY_SENSE = {0: "white is zero", 1: "black is zero"}
PILLOW_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "PPM", "GIF", "WEBP", "JPEG2000")


def read_raster(path: Path, rules: ImageRules, head: bytes, *, page: int | None) -> Picture:
    """Read one image.

    Args:
        path: Path of the file.
        rules: Image rules of the dataset.
        head: First bytes of the file.
        page: Page of a TIFF or frame of an animation, from 0; None for a file of one image.

    Raises:
        ImageError: The file holds no usable image.
    """
    from PIL import Image, UnidentifiedImageError

    logging.getLogger("PIL").addHandler(_NULL_HANDLER)
    try:
        with quiet():
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
        raise ImageError(path, TOO_LARGE) from None
    except UnidentifiedImageError:
        if head.startswith(_TIFF):
            raise ImageError(path, "is a kind of TIFF that Pillow cannot read: " + _SAVE) from None
        raise ImageError(path, "is no image in a format that hydrakit reads") from None
    except Exception as error:
        # Pillow's decoders raise almost any kind of exception for a damaged file.
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(path, f"cannot be opened ({error.strerror})") from None
        raise ImageError(path, "is not a whole image: fetch it again") from error


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
        raise ImageError(path, TOO_LARGE)
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
    facts = file_facts(file_format, mode, pixels, bits)
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
