"""Recognising and opening volumes of all formats."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hydrakit.data.declared.arrays import MAX_BYTES, MAX_RATIO, ImageError
from hydrakit.data.safe_paths import open_file
from hydrakit.data.volumes.header import DAMAGED, MAX_TEXT, TOO_LARGE
from hydrakit.data.volumes.metaimage import read_metaimage
from hydrakit.data.volumes.nifti import nifti_kind, read_nifti
from hydrakit.data.volumes.nrrd import read_nrrd
from hydrakit.data.volumes.volume import MAX_UNPACKED, Volume
from hydrakit.data.volumes.voxels import GZIP, inflate

HEAD = 544  # bytes of a file that show its format


def find_format(head: bytes) -> str | None:
    """Return the format of a volume by the first `HEAD` bytes of its file; None if it is none.

    A file packed with gzip is taken for a NIfTI volume.
    """
    if head.startswith(GZIP):
        return "NIfTI"
    if head.startswith(b"NRRD0"):
        return "NRRD"
    if re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=", head):
        return "MetaImage"
    return "NIfTI" if nifti_kind(head) else None


def open_volume(path: Path) -> Volume:
    """Open a volume and read its header; see `find_format`.

    Raises:
        ImageError: It is no volume of three dimensions, or damaged.
        OSError: The file cannot be opened.
    """
    with open_file(path) as file:
        head = file.read(HEAD)
        found = find_format(head)
        if found == "NIfTI" and head.startswith(GZIP):
            file.seek(0)
            try:
                head = bytes(inflate(file, HEAD))
            except ValueError as error:
                raise ImageError(path, DAMAGED.format("NIfTI")) from error
            found = "NIfTI" if nifti_kind(head) else "gzip"
        elif found in ("NRRD", "MetaImage"):
            head += file.read(MAX_TEXT)
    if found is None:
        raise ImageError(path, "is no NIfTI, NRRD or MetaImage volume")
    if found == "gzip":
        raise ImageError(path, "is packed with gzip, but no NIfTI volume: unpack it")
    parse = {"NIfTI": read_nifti, "NRRD": read_nrrd, "MetaImage": read_metaimage}[found]
    try:
        with np.errstate(all="ignore"):  # numbers that are not finite are refused
            return _checked(parse(path, head))
    except ImageError:
        raise
    except (ValueError, KeyError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise ImageError(path, DAMAGED.format(found)) from error


def _checked(volume: Volume) -> Volume:
    """Refuse a volume whose header cannot be true.

    Raises:
        ImageError: It is too large, or its affine is unusable.
        ValueError: It is damaged.
        OSError: The file of its voxels cannot be opened.
    """
    voxels, path = volume.voxels, volume.path
    if min(voxels.shape) < 1 or voxels.start < 0:
        raise ValueError("a negative size")
    if voxels.size // voxels.shape[2] > MAX_BYTES:  # so much is read at a time
        raise ImageError(path, TOO_LARGE)
    with open_file(voxels.file) as file:
        size = file.seek(0, 2)
    skipped = voxels.start if voxels.packed_file else 0
    stored = size if voxels.packed_file else size - voxels.start
    if voxels.packed:
        if voxels.size > MAX_UNPACKED:
            raise ImageError(
                path, f"is packed and has over {MAX_UNPACKED >> 20} MiB of voxels: save it unpacked"
            )
        stored = max(stored, 0) * MAX_RATIO
    if skipped + voxels.size > stored:
        raise ValueError("the file is too short")
    sides = volume.affine[:3, :3]
    if not np.isfinite(volume.affine).all() or np.abs(volume.affine).max() > 1e9:
        raise ImageError(path, "has an affine that is not finite: save it again")
    lengths = np.linalg.norm(sides, axis=0)
    if lengths.min() < 1e-6 or abs(np.linalg.det(sides / lengths)) < 0.1:
        raise ImageError(path, "has an affine without three directions: save it again")
    return volume
