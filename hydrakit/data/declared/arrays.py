"""Safe reading of untrusted NPY and NPZ files: no pickles, sizes checked first, row by row."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

from hydrakit.data.safe_paths import open_file
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VALUES = 2**26
"""Maximum pixels of one image, all channels together: 8192 x 8192 with one channel."""
MAX_BYTES = 2**28
MAX_COLUMN_BYTES = 2**26
MAX_HEADER = 2**16
MAX_RATIO = 1100
"""Maximum compression ratio: Deflate reaches at most 1032 (zlib's technical details)."""

PLAIN_CHANNELS = (1, 3, 4)
"""Numbers of channels that a shape shows by itself: grey, colour, colour with transparency."""

_DAMAGED = "is not a whole NPY or NPZ file: fetch it again"


class ImageError(DataError):
    """One image is unusable; ``reason`` is the message without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def channel_axis(shape: Sequence[int]) -> Literal["first", "last"] | None:
    """Return which dimension of a three-dimensional array holds the channels, if that is plain.

    It is plain if the first or the last has a length of 1, 3 or 4 and the two others are at least
    four times as long, and at least 5. ``(28, 28, 3)`` is a colour image; ``(51, 64, 64)`` may be a
    volume.
    """
    first, middle, last = shape
    if first in PLAIN_CHANNELS and min(middle, last) >= max(4 * first, 5):
        return "first"
    if last in PLAIN_CHANNELS and min(first, middle) >= max(4 * last, 5):
        return "last"
    return None


@dataclass(kw_only=True)
class StoredArray:
    """An open array file; only its header has been read.

    Attributes:
        path: Path of the file.
        stream: Open file with the values.
        start: Offset of the first value in the stream, in bytes.
        shape: Shape of the array.
        dtype: Data type of the array.
        fortran: Whether the values are in Fortran order (column-major).
    """

    path: Path
    stream: IO[bytes]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool

    def read(self, row: int | None = None, *, limit: int = MAX_BYTES) -> NDArray[np.generic]:
        """Read the array, or one row of it (an index along the first axis).

        Raises:
            ImageError: The row does not exist, exceeds ``limit`` bytes, or is damaged.
        """
        shape = self.shape
        if row is not None:
            if not self.shape or row >= self.shape[0]:
                raise ImageError(self.path, f"has no row {row}: its shape is {self.shape}")
            if self.fortran and len(shape) > 1:
                raise ImageError(self.path, "is in Fortran order: save it in C order")
            shape = self.shape[1:]
        size = math.prod(shape) * self.dtype.itemsize
        if size > limit:
            raise ImageError(self.path, f"has an array of {size} bytes: at most {limit} are read")
        try:
            self.stream.seek(self.start + (row or 0) * size)
            data = self.stream.read(size)
        except Exception as error:  # zlib, zipfile and the disk each raise other exceptions
            raise ImageError(self.path, _DAMAGED) from error
        if len(data) != size:
            raise ImageError(self.path, _DAMAGED)
        flat = np.frombuffer(data, dtype=self.dtype)
        return flat.reshape(shape, order="F" if self.fortran else "C")

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


def open_array(path: Path, member: str | None = None) -> StoredArray:
    """Open an NPY file, or a member of an NPZ file (None: its only member), and read its header.

    Raises:
        ImageError: The file is neither NPY nor NPZ, is damaged, lacks the member, or holds
            something other than numbers or text.
        OSError: The file cannot be opened.
    """
    with open_file(path) as file:
        zipped = file.read(2) == b"PK"
    if not zipped:
        if member:
            raise ImageError(path, "has no members: only NPZ files have members")
        return _stored_array(path, open_file(path), path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            info = _member(path, archive, member)
            stream = archive.open(info)
    except ImageError:
        raise
    except Exception as error:  # a damaged archive raises almost any kind of exception
        raise ImageError(path, _DAMAGED) from error
    return _stored_array(path, stream, info.file_size)


def member_names(path: Path) -> list[str]:
    """Return the names of an NPZ file's arrays.

    Raises:
        ImageError: The file is not an NPZ file.
        OSError: The file cannot be opened.
    """
    file = open_file(path)
    try:
        with file, zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # as in open_array
        raise ImageError(path, _DAMAGED) from error


_ARCHIVE = (
    "is a ZIP archive without arrays: unpack it by `python -m zipfile -e FILE.zip FOLDER`, and use "
    "its files"
)


def _member(path: Path, archive: zipfile.ZipFile, member: str | None) -> zipfile.ZipInfo:
    infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if infos and not any(info.filename.endswith(".npy") for info in infos.values()):
        raise ImageError(path, _ARCHIVE)
    if member is None:
        if len(infos) != 1:
            raise ImageError(path, "holds several arrays: name one as file.npz#member")
        member = next(iter(infos))
    if member not in infos:
        raise ImageError(path, f"has no member {member!r}: use one of the file's own names")
    info = infos[member]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(path, "uses a compression that NumPy lacks: save it with np.savez")
    if info.file_size > MAX_RATIO * (info.compress_size + 1):
        raise ImageError(path, _DAMAGED)
    return info


def _stored_array(path: Path, stream: IO[bytes], size: int) -> StoredArray:
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about headers written by Python 2
                shape, fortran, dtype, start = _header(stream)
        except Exception as error:  # parsing the header as Python text can raise any exception
            raise ImageError(path, _DAMAGED) from error
        if dtype.kind not in "biufUS":
            raise ImageError(path, "holds neither numbers nor text: save plain numbers")
        if any(side < 0 for side in shape) or (size != start + math.prod(shape) * dtype.itemsize):
            raise ImageError(path, _DAMAGED)
    except ImageError:
        stream.close()
        raise
    return StoredArray(
        path=path, stream=stream, start=start, shape=shape, dtype=dtype, fortran=fortran
    )


# NumPy parses a header as Python text; two threads that do so can make CPython 3.11 raise a
# SystemError ("AST constructor recursion depth mismatch") for an intact file.
_PARSING = Lock()


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    head = io.BytesIO(stream.read(MAX_HEADER))
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(head)]
    with _PARSING:
        shape, fortran, dtype = read(head)
    return shape, fortran, dtype, head.tell()
