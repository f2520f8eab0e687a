"""Volumes as images: NIfTI, NRRD and MetaImage files, read slice by slice.

Each of these formats is a header and one block of numbers, stored as they are or packed with zlib
(module `voxels`). The headers (modules `nifti`, `nrrd`, `metaimage`) are read and checked first,
and of a block that is not packed only the slices that are asked for. Module `volume` turns them
into images. nibabel and SimpleITK are not used: docs/design.md says why.
"""

from __future__ import annotations

from hydrakit.data.volumes.formats import HEAD, find_format, open_volume
from hydrakit.data.volumes.volume import (
    MAX_TILT,
    MAX_UNPACKED,
    Point,
    SlicePlane,
    Volume,
    VolumeSlice,
    is_tilted,
)

__all__ = [
    "HEAD",
    "MAX_TILT",
    "MAX_UNPACKED",
    "Point",
    "SlicePlane",
    "Volume",
    "VolumeSlice",
    "find_format",
    "is_tilted",
    "open_volume",
]
