"""Geometry of DICOM slices: conversion between patient millimetres and pixels, and resampling.

ImagePositionPatient, ImageOrientationPatient and PixelSpacing define the plane of an image (PS3.3
C.7.6.2.1.1); InstanceNumber and SliceLocation do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit.data.dicom.header import Header

    Vector = NDArray[np.float64]

PatientPoint = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Location:
    """Position of a point in the coordinates of one slice.

    Attributes:
        row: Row in pixels; 0 is the middle of the top row.
        column: Column in pixels; 0 is the middle of the left column.
        distance: Signed distance from the slice's plane in millimetres, along its normal.
    """

    row: float
    column: float
    distance: float


def has_plane(header: Header) -> bool:
    """Whether the header defines the image's plane in the patient."""
    return None not in (header.position, header.orientation, header.spacing)


def _plane(header: Header) -> tuple[Vector, Vector, tuple[float, float]]:
    """Return origin ``(3,)``, directions of row, column and normal ``(3, 3)``, and pixel spacing.

    Raises:
        DataError: The header does not define the image's plane in the patient.
    """
    if header.position is None or header.orientation is None or header.spacing is None:
        raise DataError(
            f"{header.path}: no usable ImagePositionPatient, ImageOrientationPatient and "
            "PixelSpacing, so its position in the patient is unknown: use images with these tags"
        )
    row, column = np.reshape(np.asarray(header.orientation), (2, 3))
    axes = np.stack([row, column, np.cross(row, column)])
    return np.asarray(header.position), axes, header.spacing


def locate(header: Header, point: PatientPoint) -> Location:
    """Convert a point in the patient to image coordinates (inverse of PS3.3 C.7.6.2.1.1).

    Args:
        header: Header of the image.
        point: Point ``(x, y, z)`` in millimetres, in the patient's frame of reference.

    Raises:
        DataError: The header does not define the image's plane in the patient.
    """
    origin, axes, (row_spacing, column_spacing) = _plane(header)
    along_row, along_column, distance = axes @ (np.asarray(point) - origin)
    return Location(
        float(along_column / row_spacing), float(along_row / column_spacing), float(distance)
    )


def patient_position(header: Header, location: Location) -> PatientPoint:
    """Convert image coordinates to a point in the patient, in millimetres: the inverse of `locate`.

    Raises:
        DataError: The header does not define the image's plane in the patient.
    """
    origin, axes, (row_spacing, column_spacing) = _plane(header)
    offsets = (location.column * column_spacing, location.row * row_spacing, location.distance)
    x, y, z = origin + np.asarray(offsets) @ axes
    return (float(x), float(y), float(z))


def nearest_slice(headers: Iterable[Header], point: PatientPoint) -> tuple[Header, Location] | None:
    """Return the slice whose plane is nearest to a point, and the point's location in it.

    Images without a plane are ignored; the result is None if no image has one. Of equally near
    slices, the one with the lowest InstanceNumber is returned.
    """
    located = [(header, locate(header, point)) for header in headers if has_plane(header)]
    return min(
        located,
        key=lambda pair: (round(abs(pair[1].distance), 6), pair[0].instance_number or 0),
        default=None,
    )


def in_volume(headers: Sequence[Header], header: Header, location: Location) -> bool:
    """Whether a point lies in the part of a volume that one of its slices represents.

    This part covers the slice's pixels and half the slice distance on either side of its plane. A
    point in a gap of missing slices is therefore outside.
    """
    in_image = -0.5 <= location.row < header.rows - 0.5
    in_image = in_image and -0.5 <= location.column < header.columns - 0.5
    # One percent more than half, for rounding: a point can lie midway between two planes.
    half = max(0.505 * slice_distance(headers, header), 0.001)
    return in_image and abs(location.distance) <= half


def is_missing(
    headers: Sequence[Header], header: Header, location: Location, *, slices: int | None
) -> bool:
    """Whether a point outside a volume (`in_volume`) is where one of its slices is missing.

    That is so between two of its slices, or beyond its end if it has too few slices and the missing
    ones would reach that far.

    Args:
        headers: Headers of the volume.
        header: Its slice that is nearest to the point.
        location: Location of the point in that slice.
        slices: Number of slices that the volume should have; None if that is unknown.
    """
    if not (-0.5 <= location.row < header.rows - 0.5):
        return False
    if not (-0.5 <= location.column < header.columns - 0.5):
        return False
    stack = sorted_stack(headers, header)
    heights = _heights(stack, header)
    if heights[0] < location.distance < heights[-1]:
        return True
    missing = max((slices or 0) - len(stack), 0)
    reach = (missing + 0.505) * slice_distance(headers, header)
    return missing > 0 and abs(location.distance) <= reach


def slice_distance(headers: Sequence[Header], header: Header) -> float:
    """Return the median distance in millimetres between neighbouring slices parallel to one slice.

    For a single slice this is its thickness, or 0.0 if the header does not state it.
    """
    heights = sorted(_heights([each for each in headers if _is_parallel(each, header)], header))
    steps = [step for step in np.diff(heights) if step > 0.01]
    return float(np.median(steps)) if steps else header.thickness or 0.0


def _is_parallel(header: Header, reference: Header) -> bool:
    """Whether an image has a plane, parallel to that of a reference image."""
    return has_plane(header) and np.allclose(
        np.asarray(header.orientation), np.asarray(reference.orientation), atol=1e-3
    )


def _heights(headers: Iterable[Header], reference: Header) -> list[float]:
    """Return the distance of each slice from a reference slice in millimetres, along its normal."""
    origin, axes, _ = _plane(reference)
    return [float(axes[2] @ (np.asarray(each.position) - origin)) for each in headers]


# Channels and slices that belong together

OTHER_PATIENT = "its channels are of different patients"
OTHER_FRAME = "its channels have different frames of reference"
OTHER_SPACING = "its channels differ in pixel spacing"
OTHER_ORIENTATION = "its channels differ in orientation"
OTHER_POSITION = "its channels differ in position"
MISSING_SLICE = "a slice of its series is missing"
SEVERAL_IN_PLANE = "several images of its series in one plane"
MAX_STEP = 1.5  # times the usual distance of two slices; more is a gap


class ImagePlane(Protocol):
    """What is known of an image's place in the patient: a `Header`, or a slice of a volume."""

    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def columns(self) -> int: ...  # noqa: D102
    @property
    def spacing(self) -> tuple[float, float] | None: ...  # noqa: D102
    @property
    def position(self) -> PatientPoint | None: ...  # noqa: D102
    @property
    def orientation(self) -> tuple[float, float, float, float, float, float] | None: ...  # noqa: D102
    @property
    def patient_id(self) -> str: ...  # noqa: D102
    @property
    def frame_uid(self) -> str: ...  # noqa: D102


def alignment_fault(headers: Sequence[ImagePlane]) -> str | None:
    """Return why images of equal size do not show the same place pixel by pixel, or None.

    Corresponding pixels may be half a pixel apart, in the plane and along its normal (half a
    millimetre if no header states the pixel spacing). What only one of two headers states is not
    compared.
    """
    for other in headers[1:]:
        first = headers[0]
        row, column = first.spacing or other.spacing or (1.0, 1.0)
        half = min(row, column, *(other.spacing or ())) / 2
        height, width = first.rows * row, first.columns * column
        if first.patient_id and other.patient_id and first.patient_id != other.patient_id:
            return OTHER_PATIENT
        if in_other_frame(first, other):
            return OTHER_FRAME
        if first.spacing and other.spacing:
            drift = np.subtract(first.spacing, other.spacing) * (first.rows, first.columns)
            if abs(drift).max() > half:
                return OTHER_SPACING
        if first.orientation and other.orientation:
            turned = np.reshape(np.subtract(first.orientation, other.orientation), (2, 3))
            along_row, along_column = np.linalg.norm(turned, axis=1)
            if max(along_row * width, along_column * height) > half:
                return OTHER_ORIENTATION
        if (
            first.position
            and other.position
            and np.linalg.norm(np.subtract(first.position, other.position)) > half
        ):
            return OTHER_POSITION
    return None


def in_other_frame(header: ImagePlane, other: ImagePlane) -> bool:
    """Whether two headers state different frames of reference."""
    return bool(header.frame_uid and other.frame_uid and header.frame_uid != other.frame_uid)


def stack_fault(slices: Sequence[Header], headers: Sequence[Header]) -> str | None:
    """Return why slices of a series, sorted by height, are not consecutive, or None.

    Args:
        slices: Slices with a plane; a slice may be repeated.
        headers: All images of the series.
    """
    first = slices[0]
    heights = _heights(slices, first)
    if len(slices) > 1 and max(np.diff(heights)) > MAX_STEP * slice_distance(headers, first):
        return MISSING_SLICE
    paths = {each.path for each in slices}
    others = [each for each in headers if _is_parallel(each, first) and each.path not in paths]
    if any(abs(other - height) < 0.01 for other in _heights(others, first) for height in heights):
        return SEVERAL_IN_PLANE
    return None


# Resampling


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """A square pixel grid in the patient, onto which images of several series are resampled.

    Attributes:
        centre: Centre of the grid, ``(x, y, z)`` in millimetres.
        orientation: Direction of a row, then of a column (as ``Header.orientation``).
        spacing: Pixel spacing in millimetres, along rows and columns.
        side: Number of pixels in a row and in a column.
    """

    centre: PatientPoint
    orientation: tuple[float, float, float, float, float, float]
    spacing: float
    side: int

    def points(self) -> Vector:
        """Return the centre of each pixel in millimetres, ``(side, side, 3)``."""
        row, column = np.reshape(np.asarray(self.orientation), (2, 3))
        steps = (np.arange(self.side) - (self.side - 1) / 2) * self.spacing
        points: Vector = np.asarray(self.centre) + (
            steps[None, :, None] * row + steps[:, None, None] * column
        )
        return points


def frame_in(header: Header, location: Location, *, spacing: float, side: int) -> ImageFrame:
    """Return a grid in an image's plane, centred on the projection of a location onto the plane.

    Raises:
        DataError: The header does not define the image's plane in the patient.
    """
    in_plane = Location(location.row, location.column, 0.0)
    centre = patient_position(header, in_plane)
    assert header.orientation is not None  # patient_position has checked it
    return ImageFrame(centre, header.orientation, spacing, side)


def sorted_stack(headers: Iterable[Header], reference: Header) -> list[Header]:
    """Return the slices parallel to a reference slice, sorted along its normal, one per plane.

    Of several slices in one plane, the one with the lowest InstanceNumber is returned; in the
    plane of ``reference``, it is ``reference`` itself.
    """
    planes: dict[float, Header] = {}
    ordered = [reference, *sorted(headers, key=lambda header: header.instance_number or 0)]
    parallel = [header for header in ordered if _is_parallel(header, reference)]
    for header, height in zip(parallel, _heights(parallel, reference), strict=True):
        planes.setdefault(round(height, 2), header)
    return [planes[height] for height in sorted(planes)]


def resample(
    slices: Sequence[Header], frame: ImageFrame, read: Callable[[Header], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Resample a stack of parallel slices onto a grid, ``(side, side)``.

    Interpolation is linear within and between slices; the outermost pixels and slices are repeated
    beyond the stack. There is no smoothing, so the grid should not be much coarser than the pixels.

    Args:
        slices: Slices sorted along their normal, as `sorted_stack` returns them.
        frame: Target grid.
        read: Returns the pixels of a slice; called only for the slices that contribute.

    Raises:
        DataError: A header does not place its image in the patient.
    """
    points = frame.points()
    at = _slice_positions(slices, points)
    values = np.zeros(at.shape)
    for number, header in enumerate(slices):
        weight = np.clip(1 - np.abs(at - number), 0, None)
        if weight.any():
            corner, directions, (row_spacing, column_spacing) = _plane(header)
            offsets = (points - corner) @ directions[:2].T
            rows, columns = offsets[..., 1] / row_spacing, offsets[..., 0] / column_spacing
            values += weight * _bilinear(read(header), rows, columns)
    return values.astype(np.float32)


def crosses_gap(slices: Sequence[Header], frame: ImageFrame) -> bool:
    """Whether `resample` would interpolate between slices that are not neighbours."""
    steps = np.diff(_heights(slices, slices[0]))
    if not len(steps):
        return False
    at = _slice_positions(slices, frame.points())
    gaps = np.flatnonzero(steps > MAX_STEP * np.median(steps))
    return any(((at > gap) & (at < gap + 1)).any() for gap in gaps)


def _slice_positions(slices: Sequence[Header], points: Vector) -> Vector:
    """Return the position of points among sorted slices: 1.5 is midway between the second two."""
    origin, axes, _ = _plane(slices[0])
    heights = _heights(slices, slices[0])
    at = np.interp((points - origin) @ axes[2], heights, np.arange(len(slices)))
    # A thousandth of a slice is below the accuracy of positions; rounding avoids reading a slice.
    return np.asarray(np.round(at, 3))


def _bilinear(image: NDArray[np.float32], rows: Vector, columns: Vector) -> Vector:
    """Interpolate an image bilinearly; beyond its border the nearest pixel is repeated."""
    height, width = image.shape
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = rows - top, columns - left
    pixels = np.asarray(image, dtype=np.float64)  # padding has the values of its surroundings
    upper = (1 - across) * pixels[top, left] + across * pixels[top, right]
    lower = (1 - across) * pixels[bottom, left] + across * pixels[bottom, right]
    return np.asarray((1 - down) * upper + down * lower)
