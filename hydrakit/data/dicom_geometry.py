"""Where an image lies in the patient: millimetres to pixels and back, and the nearest slice.

The plane of an image is given by ImagePositionPatient, ImageOrientationPatient and PixelSpacing
(PS3.3 C.7.6.2.1.1); InstanceNumber and SliceLocation say nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit.data.dicom import Header

    Vector = NDArray[np.float64]

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Location:
    """A point as one slice sees it.

    Attributes:
        row: In pixels; 0 is the middle of the upper row.
        column: In pixels; 0 is the middle of the left column.
        distance: From the slice's plane, in millimetres; the sign tells the side.
    """

    row: float
    column: float
    distance: float


def has_plane(header: Header) -> bool:
    """Whether the header places the image in the patient."""
    return None not in (header.position, header.orientation, header.spacing)


def _plane(header: Header) -> tuple[Vector, Vector, tuple[float, float]]:
    """Origin ``(3,)``; directions of a row, a column and the normal ``(3, 3)``; pixel spacing.

    Raises:
        DataError: The header does not place the image in the patient.
    """
    if header.position is None or header.orientation is None or header.spacing is None:
        raise DataError(
            f"{header.path}: no usable ImagePositionPatient, ImageOrientationPatient and "
            "PixelSpacing, so no position in the patient: use images that have them"
        )
    row, column = np.reshape(np.asarray(header.orientation), (2, 3))
    axes = np.stack([row, column, np.cross(row, column)])
    return np.asarray(header.position), axes, header.spacing


def locate(header: Header, point: Point) -> Location:
    """Where a point of the patient lies in an image (PS3.3 C.7.6.2.1.1, solved for the pixel).

    Args:
        header: Of the image.
        point: ``(x, y, z)`` in millimetres, in the patient's frame of reference.

    Raises:
        DataError: The header does not place the image in the patient.
    """
    origin, axes, (row_spacing, column_spacing) = _plane(header)
    along_row, along_column, distance = axes @ (np.asarray(point) - origin)
    return Location(
        float(along_column / row_spacing), float(along_row / column_spacing), float(distance)
    )


def patient_position(header: Header, location: Location) -> Point:
    """The point of the patient, in millimetres, that `locate` turns into ``location``.

    Raises:
        DataError: The header does not place the image in the patient.
    """
    origin, axes, (row_spacing, column_spacing) = _plane(header)
    offsets = (location.column * column_spacing, location.row * row_spacing, location.distance)
    x, y, z = origin + np.asarray(offsets) @ axes
    return (float(x), float(y), float(z))


def nearest_slice(headers: Iterable[Header], point: Point) -> tuple[Header, Location] | None:
    """The slice whose plane is nearest to a point, and where the point lies in it.

    Images that are not placed in the patient do not count; None where there is no other. Of
    equally near slices, the one with the lower InstanceNumber is taken.
    """
    found = [(header, locate(header, point)) for header in headers if has_plane(header)]
    return min(
        found,
        key=lambda pair: (round(abs(pair[1].distance), 6), pair[0].instance_number or 0),
        default=None,
    )


def in_volume(headers: Sequence[Header], header: Header, location: Location) -> bool:
    """Whether a point lies in the part of a volume that one of its slices stands for.

    That part is the slice's pixels, and half a slice distance to either side of its plane. A
    point where slices are missing is therefore outside.
    """
    inside = -0.5 <= location.row < header.rows - 0.5
    inside = inside and -0.5 <= location.column < header.columns - 0.5
    # The hundredth is for rounding: a point can lie in the very middle between two planes.
    half = max(0.505 * slice_distance(headers, header), 0.001)
    return inside and abs(location.distance) <= half


def slice_distance(headers: Sequence[Header], header: Header) -> float:
    """Millimetres between neighbouring slices parallel to one of them: the median.

    A single slice gives its thickness; 0.0 where that is not told.
    """
    origin, axes, _ = _plane(header)
    heights = sorted(
        float(axes[2] @ (np.asarray(other.position) - origin))
        for other in headers
        if has_plane(other)
        and np.allclose(np.asarray(other.orientation), np.asarray(header.orientation), atol=1e-3)
    )
    steps = [step for step in np.diff(heights) if step > 0.01]
    return float(np.median(steps)) if steps else header.thickness or 0.0
