"""The block of numbers of a volume, read slice by slice or unpacked as a whole."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from hydrakit.data.safe_paths import open_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

GZIP = b"\x1f\x8b"
_ZLIB_OR_GZIP = 47  # for zlib: the header of the data decides
_PIECE = 2**20  # bytes that are unpacked at once


@dataclass(frozen=True, kw_only=True)
class Voxels:
    """The block of numbers of a volume, in the order of the file: the first axis is the fastest.

    Attributes:
        file: File that holds it.
        start: Offset of the first voxel, in bytes: of the unpacked file if ``packed_file``, else of
            the file.
        shape: Number of voxels along the three axes of the file.
        dtype: Type of a voxel.
        packed: Whether the block is packed with zlib or gzip.
        packed_file: Whether the file is packed as a whole.
    """

    file: Path
    start: int
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    packed: bool
    packed_file: bool = False

    @property
    def size(self) -> int:
        """Bytes of the block, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, axis: int, first: int, last: int) -> NDArray[Any]:
        """Read the part of the block from index ``first`` to ``last``, included, along an axis.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is shorter than its header says.
        """
        shape = list(self.shape)
        shape[axis] = last - first + 1
        slab = self.shape[0] * self.shape[1] * self.dtype.itemsize
        slabs = range(first, last + 1) if axis == 2 else range(self.shape[2])
        part = np.empty(shape, self.dtype, order="F")
        with open_file(self.file) as file:
            for at, number in enumerate(slabs):
                file.seek(self.start + number * slab)
                data = file.read(slab)
                if len(data) != slab:
                    raise ValueError("the file ends early")
                values = np.frombuffer(data, self.dtype).reshape(self.shape[:2], order="F")
                chosen = values if axis == 2 else values.take(range(first, last + 1), axis)
                part[:, :, at] = chosen
        return part

    def unpack(self) -> NDArray[Any]:
        """Unpack the whole block.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is damaged, or shorter than its header says.
        """
        skip = self.start if self.packed_file else 0
        with open_file(self.file) as file:
            file.seek(0 if self.packed_file else self.start)
            data = inflate(file, skip + self.size)
        if len(data) != skip + self.size:
            raise ValueError("the file ends early")
        return np.frombuffer(data, self.dtype, offset=skip).reshape(self.shape, order="F")


def inflate(file: IO[bytes], size: int) -> bytearray:
    """Unpack the first ``size`` bytes of zlib or gzip data, or less if there are less.

    Raises:
        ValueError: The data is damaged.
    """
    result = bytearray(size)
    filled = 0
    inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
    data = b""
    try:
        while filled < size:
            data = data or file.read(_PIECE)
            if inflater.eof:  # gzip files may have several members, and zeros at the end
                data = data if len(data) > 1 else data + file.read(_PIECE)
                inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
                data = data if data.startswith(GZIP) else b""
            piece = inflater.decompress(data, min(size - filled, _PIECE))
            if not data and not piece:
                break
            result[filled : filled + len(piece)] = piece
            filled += len(piece)
            data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        data = data or file.read(_PIECE)
        if not inflater.eof and data:  # reads, and compares, the checksum at the end
            inflater.decompress(data, 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    del result[filled:]
    return result
