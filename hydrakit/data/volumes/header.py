"""What the headers of all formats of volumes have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hydrakit.data.declared.arrays import MAX_BYTES, MAX_VALUES, ImageError
from hydrakit.data.safe_paths import open_file, path_fault, resolve_inside
from hydrakit.data.volumes.voxels import Voxels
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from hydrakit.data.volumes.voxels import Vector

MAX_TEXT = 2**20  # bytes of a header
DAMAGED = "is not a whole {} volume: fetch it again"
SEVERAL = "has several volumes or times (4 dimensions): save each volume as a file of its own"
COLOUR = "has voxels of colours, vectors or complex numbers: save it with one number per voxel"
TOO_LARGE = f"has slices of over {MAX_VALUES} pixels or {MAX_BYTES >> 20} MiB: scale it down"
_PARTS = "has its voxels in several files: save it as one file"
_ORDERS: dict[str, Literal["<", ">"]] = {
    **dict.fromkeys(("little", "false"), "<"),
    **dict.fromkeys(("big", "true"), ">"),
}


def shape_of(path: Path, sides: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape in three dimensions.

    Raises:
        ImageError: It has more.
    """
    if any(side != 1 for side in sides[3:]):
        raise ImageError(path, SEVERAL)
    first, second, third = [*sides, 1, 1][:3]
    return first, second, third


def completed(affine: Vector, shape: tuple[int, int, int]) -> Vector:
    """Give an axis of one voxel a direction, if the header of a single slice states none."""
    for axis, side in enumerate(shape):
        if side == 1 and not affine[:3, axis].any():
            first, second = (affine[:3, each] for each in range(3) if each != axis)
            normal = np.cross(first, second)
            affine[:3, axis] = normal / (np.linalg.norm(normal) or 1.0)
    return affine


def affine_of(directions: Any, origin: Any) -> Vector:
    """Return the ``(4, 4)`` matrix of three columns and an origin."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions, origin
    return affine


def data_file(path: Path, name: str) -> Path:
    """Return the file of voxels that a header names: beside the header, or below it.

    Raises:
        ImageError: It is missing or lies elsewhere, or the header names several.
    """
    if name.upper().startswith("LIST") or re.search(r"%\d*d.* \d", name):
        raise ImageError(path, _PARTS)
    fault = path_fault(name)
    if fault is not None:
        raise ImageError(path, f"names a file of voxels that {fault.partition(':')[0]}")
    try:
        return resolve_inside(path.parent, name)
    except OSError:
        raise ImageError(path, "its file of voxels is missing beside it") from None
    except DataError:
        raise ImageError(path, "its file of voxels leads out of its folder by a link") from None


def ordered(kind: str, order: str) -> np.dtype[Any]:
    """Return a type with the order of its bytes.

    Raises:
        KeyError: The order is not stated, where it matters.
    """
    dtype = np.dtype(kind)
    return dtype if dtype.itemsize == 1 else dtype.newbyteorder(_ORDERS[order])


def placed(voxels: Voxels, skip: int) -> Voxels:
    """Move the start of a block by some bytes; -1: the block is at the end of its file."""
    start = voxels.start + skip
    if skip == -1:
        with open_file(voxels.file) as file:
            start = file.seek(0, 2) - voxels.size
    return replace(voxels, start=start)
