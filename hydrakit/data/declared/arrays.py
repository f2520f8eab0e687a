"""NPY and NPZ files from strangers: no pickles, sizes checked first, rows read one at a time."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VALUES = 2**26
"""Pixels of one image, all channels together: 8192 x 8192 of one channel."""
MAX_BYTES = 2**28
MAX_COLUMN_BYTES = 2**26
MAX_HEADER = 2**16
MAX_RATIO = 1100
"""Deflate makes nothing smaller than a 1032nd (zlib's technical details)."""

_DAMAGED = "is not a whole NPY or NPZ file: fetch it again"


class ImageError(DataError):
    """One image cannot be used; ``reason`` is the message without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(kw_only=True)
class StoredArray:
    """An open array of which nothing but the header has been read.

    Attributes:
        path: Its file.
        stream: Where its values are read.
        start: Where they begin.
        shape: Of the array.
        dtype: Of the array.
        fortran: Whether its values are stored first index first.
    """

    path: Path
    stream: IO[bytes]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool

    def read(self, row: int | None = None, *, limit: int = MAX_BYTES) -> NDArray[np.generic]:
        """The array, or one row (index of the first axis) of it.

        Raises:
            ImageError: There is no such row, it has more bytes than ``limit``, or it is damaged.
        """
        shape = self.shape
        if row is not None:
            if not self.shape or row >= self.shape[0]:
                raise ImageError(self.path, f"has no row {row}: its shape is {self.shape}")
            if self.fortran and len(shape) > 1:
                raise ImageError(self.path, "is in Fortran order: save np.ascontiguousarray(it)")
            shape = self.shape[1:]
        size = math.prod(shape) * self.dtype.itemsize
        if size > limit:
            raise ImageError(self.path, f"has an array of {size} bytes: {limit} is the most")
        try:
            self.stream.seek(self.start + (row or 0) * size)
            data = self.stream.read(size)
        except Exception as error:  # zlib, zipfile and the disk have each their own
            raise ImageError(self.path, _DAMAGED) from error
        if len(data) != size:
            raise ImageError(self.path, _DAMAGED)
        flat = np.frombuffer(data, dtype=self.dtype)
        return flat.reshape(shape, order="F" if self.fortran else "C")

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


def open_array(path: Path, member: str | None = None) -> StoredArray:
    """Open an NPY file, or a member of an NPZ file (None: its only one), up to its values.

    Raises:
        ImageError: The file is neither, is damaged, has no such member, or holds what is neither
            number nor text.
        OSError: The file cannot be opened.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if not zipped:
        if member:
            raise ImageError(path, "has no members: only an NPZ file has")
        return _started(path, path.open("rb"), path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            info = _member(path, archive, member)
            stream = archive.open(info)
    except ImageError:
        raise
    except Exception as error:  # a damaged archive raises almost any kind of exception
        raise ImageError(path, _DAMAGED) from error
    return _started(path, stream, info.file_size)


def member_names(path: Path) -> list[str]:
    """The names of an NPZ file's arrays.

    Raises:
        ImageError: It is no NPZ file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # as in open_array
        raise ImageError(path, _DAMAGED) from error


def _member(path: Path, archive: zipfile.ZipFile, member: str | None) -> zipfile.ZipInfo:
    infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if member is None:
        if len(infos) != 1:
            raise ImageError(path, "holds several arrays: name one as file.npz#member")
        member = next(iter(infos))
    if member not in infos:
        raise ImageError(path, f"has no member {member!r}: see the names that it has")
    info = infos[member]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(path, "is packed in a way that NumPy does not: save it with np.savez")
    if info.file_size > MAX_RATIO * (info.compress_size + 1):
        raise ImageError(path, _DAMAGED)
    return info


def _started(path: Path, stream: IO[bytes], size: int) -> StoredArray:
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of headers written by Python 2
                shape, fortran, dtype, start = _header(stream)
        except Exception as error:  # the header is parsed as Python text: any kind may come
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


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    head = io.BytesIO(stream.read(MAX_HEADER))
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(head)]
    shape, fortran, dtype = read(head)
    return shape, fortran, dtype, head.tell()
