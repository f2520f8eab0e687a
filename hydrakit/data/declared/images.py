"""Reading of one image as float32 channels: formats of Pillow and NumPy, DICOM, slices of volumes.

The content decides the format, not the file name. Stored values are not scaled: 8 bits give 0 to
255, 16 bits give 0 to 65535.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from hydrakit.data.declared.picture import TOO_LARGE, Picture, file_facts, quiet
from hydrakit.data.declared.raster import read_raster
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

    from hydrakit.data.dicom.geometry import PatientPoint
    from hydrakit.data.dicom.pixels import DicomImage

MAX_OPEN = 16  # volumes: one patient's sequences, and their masks
# A decoder's message differs from file to file and may quote the file; a reason must do neither.
# The name of a missing DICOM attribute, as in `(no StudyInstanceUID)`, stays.
_DECODER_MESSAGE = re.compile(
    r"^(the pixels cannot be read|broken DICOM header) \((?!no [A-Z]\w+\)).*\)"
)
UNCLEAR_AXIS = (
    "has an array of shape {}, which does not show its channels: if it is one image, add "
    'channels = "first" or "last" under [images]; if it is a volume, use its slices as images'
)
_NO_VOLUME = "is no volume: it has neither neighbouring slices nor a position in the patient"


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
        point: PatientPoint | None = None,
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
        self, path: Path, member: str | None, row: int | None, point: PatientPoint | None
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
        return read_raster(path, self._rules, head, page=row)

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

    def _slice(self, path: Path, row: int | None, point: PatientPoint | None) -> Picture:
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
            with _dicom_errors(path), quiet():
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
            raise ImageError(path, TOO_LARGE)
        with np.errstate(over="ignore"):  # values too large for float32 are refused below
            pixels = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(pixels).all():
            raise ImageError(path, "has pixels that are not finite")
        file_format = "NPY" if path.suffix.lower() == ".npy" else "NPZ"
        bits = stored.dtype.itemsize * 8
        return Picture(
            pixels=pixels, facts=file_facts(file_format, stored.dtype.name, pixels, bits)
        )


def _windowed(pixels: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    from hydrakit.data.dicom.grey import apply_window

    values = apply_window(np.asarray(pixels), centre, width).astype(np.float32)
    padding = padding_mask(pixels)
    return values if padding is None else np.ma.MaskedArray(values, mask=padding)


def _dicom(image: DicomImage, rules: ImageRules, frame: int | None) -> Picture:
    path = image.path
    with _dicom_errors(path), quiet():
        header = image.header(frame)
        if header is None:
            raise ImageError(path, f"is DICOM without an image ({image.kind}): leave it out")
        if header.rows * header.columns > MAX_VALUES:
            raise ImageError(path, TOO_LARGE)
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
    for name in ("rows", "columns", "bits stored"):  # `file_facts` has these
        scanner.pop(name, None)
    if rules.rescale is None:
        scanner[RESCALE_TAGS] = tags
    return Picture(
        pixels=pixels,
        facts=file_facts("DICOM", header.modality, pixels, header.bits_stored or 0) | scanner,
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
