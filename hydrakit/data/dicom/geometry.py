"""Where an image lies in the patient: millimetres to pixels and back, and the nearest slice.

The plane of an image is given by ImagePositionPatient, ImageOrientationPatient and PixelSpacing
(PS3.3 C.7.6.2.1.1); InstanceNumber and SliceLocation say nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit.data.dicom.header import Header

    Vector = NDArray[np.float64]

PatientPoint = tuple[float, float, float]


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


def locate(header: Header, point: PatientPoint) -> Location:
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


def patient_position(header: Header, location: Location) -> PatientPoint:
    """The point of the patient, in millimetres, that `locate` turns into ``location``.

    Raises:
        DataError: The header does not place the image in the patient.
    """
    origin, axes, (row_spacing, column_spacing) = _plane(header)
    offsets = (location.column * column_spacing, location.row * row_spacing, location.distance)
    x, y, z = origin + np.asarray(offsets) @ axes
    return (float(x), float(y), float(z))


def nearest_slice(headers: Iterable[Header], point: PatientPoint) -> tuple[Header, Location] | None:
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


# Resampling


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """A square grid of pixels in the patient, on which images of several series can agree.

    Attributes:
        centre: Of the grid, ``(x, y, z)`` in millimetres.
        orientation: As of `Header`: direction of a row, then of a column.
        spacing: Distance between pixels in millimetres, along rows and columns.
        side: Pixels in a row and in a column.
    """

    centre: PatientPoint
    orientation: tuple[float, float, float, float, float, float]
    spacing: float
    side: int

    def points(self) -> Vector:
        """The middle of each pixel in millimetres, ``(side, side, 3)``."""
        row, column = np.reshape(np.asarray(self.orientation), (2, 3))
        steps = (np.arange(self.side) - (self.side - 1) / 2) * self.spacing
        points: Vector = np.asarray(self.centre) + (
            steps[None, :, None] * row + steps[:, None, None] * column
        )
        return points


def frame_in(header: Header, location: Location, *, spacing: float, side: int) -> ImageFrame:
    """A grid in an image's plane, around the point of it that a location is nearest to.

    Raises:
        DataError: The header does not place the image in the patient.
    """
    in_plane = Location(location.row, location.column, 0.0)
    centre = patient_position(header, in_plane)
    assert header.orientation is not None  # patient_position has checked it
    return ImageFrame(centre, header.orientation, spacing, side)


def in_order(headers: Iterable[Header], like: Header) -> list[Header]:
    """The slices parallel to one of them, each plane once, rising along its normal.

    Of several in one plane, the one with the lower InstanceNumber is kept; but always ``like``.
    """
    origin, axes, _ = _plane(like)
    planes: dict[float, Header] = {}
    for header in [like, *sorted(headers, key=lambda header: header.instance_number or 0)]:
        if has_plane(header) and np.allclose(
            np.asarray(header.orientation), np.asarray(like.orientation), atol=1e-3
        ):
            height = round(float(axes[2] @ (np.asarray(header.position) - origin)), 2)
            planes.setdefault(height, header)
    return [planes[height] for height in sorted(planes)]


def resample(
    slices: Sequence[Header], frame: ImageFrame, read: Callable[[Header], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The values of a stack of parallel slices on a grid, ``(side, side)``.

    Linear interpolation within and between slices; beyond the outermost pixels and slices, these
    are repeated. There is no smoothing: the grid should not be much coarser than the pixels.

    Args:
        slices: In order along their normal, as `in_order` gives them.
        frame: The grid.
        read: Gives the pixels of a slice; called for those slices alone that matter.

    Raises:
        DataError: A header does not place its image in the patient.
    """
    origin, axes, _ = _plane(slices[0])
    points = frame.points()
    heights = [float(axes[2] @ (np.asarray(each.position) - origin)) for each in slices]
    # A thousandth of a slice is below what positions can tell, and spares reading the next slice.
    at = np.round(np.interp((points - origin) @ axes[2], heights, np.arange(len(slices))), 3)
    values = np.zeros(at.shape)
    for number, header in enumerate(slices):
        weight = np.clip(1 - np.abs(at - number), 0, None)
        if weight.any():
            corner, directions, (row_spacing, column_spacing) = _plane(header)
            offsets = (points - corner) @ directions[:2].T
            rows, columns = offsets[..., 1] / row_spacing, offsets[..., 0] / column_spacing
            values += weight * _bilinear(read(header), rows, columns)
    return values.astype(np.float32)


def _bilinear(image: NDArray[np.float32], rows: Vector, columns: Vector) -> Vector:
    """Values of an image between its pixels; beyond its border the nearest pixel's."""
    height, width = image.shape
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = rows - top, columns - left
    pixels = image.astype(np.float64)
    upper = (1 - across) * pixels[top, left] + across * pixels[top, right]
    lower = (1 - across) * pixels[bottom, left] + across * pixels[bottom, right]
    return np.asarray((1 - down) * upper + down * lower)
