"""A volume of three dimensions, and its slices as a DICOM viewer shows them.

Positions in the patient are in the axes of DICOM (LPS): x to the left, y to the back, z to the
head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.data.declared.arrays import MAX_BYTES, MAX_VALUES, ImageError
from hydrakit.data.volumes.header import DAMAGED, TOO_LARGE
from hydrakit.data.volumes.voxels import Voxels
from hydrakit.file_rules import Plane

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit.data.dicom.geometry import PatientPoint
    from hydrakit.data.volumes.voxels import Vector


MAX_UNPACKED = 2**29
"""Maximum bytes of a packed volume, or of a mask: they are in memory as a whole."""
MAX_TILT = 20.0
"""Angle in degrees between the axes of a volume and of the patient above which users are told."""
_TILT = "tilt (degrees)"  # name of the fact
OUTSIDE = "its position lies outside its image: check x_mm, y_mm and z_mm, and axes (LPS or RAS)"
NO_SLICE = (
    "is a volume, and no slice is chosen: add #[N] to its path, or a column slice, a position in "
    "the patient (x_mm, y_mm, z_mm) or a mask"
)

# Of each plane: the patient's axis across its slices, down its rows and along its columns, with the
# direction in which rows and columns are shown.
_PLANES: dict[Plane, tuple[int, tuple[int, int], tuple[int, int]]] = {
    "axial": (2, (1, 1), (0, 1)),
    "sagittal": (0, (2, -1), (1, 1)),
    "coronal": (1, (2, -1), (0, 1)),
}
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # low and high end of each of the patient's axes


@dataclass(frozen=True, kw_only=True)
class SlicePlane:
    """Where a slice lies in the patient, as the headers of DICOM images say it.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        spacing: ``(row, column)`` distance between pixels in millimetres; None if unknown.
        position: Centre of the upper left pixel in millimetres; None if unknown.
        orientation: Unit vector along a row, then along a column; None if unknown.
        patient_id: Empty: a volume does not name its patient.
        frame_uid: Empty: nor its frame of reference.
    """

    rows: int
    columns: int
    spacing: tuple[float, float] | None
    position: PatientPoint | None
    orientation: tuple[float, float, float, float, float, float] | None
    patient_id: str = ""
    frame_uid: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class VolumeSlice:
    """A slice of a volume, or several neighbouring ones.

    Attributes:
        pixels: Float32 values, ``(slices, height, width)``.
        plane: Where the (middle) slice lies.
        centre: ``(row, column)`` in pixels of the position that chose it; None if none did.
        facts: Properties of the volume for ``Sample.facts``.
    """

    pixels: NDArray[np.float32]
    plane: SlicePlane
    centre: tuple[float, float] | None
    facts: dict[str, str | float]


@dataclass(frozen=True, kw_only=True)
class _SliceAxes:
    """Axes of the file that make the image of a slice.

    Attributes:
        plane: The plane.
        across: Axis across the slices.
        step: 1 if indices rise towards left, back or head; else -1.
        down: Axis down the rows.
        along: Axis along the columns.
        flip_down: Whether the rows are shown in the other order than in the file.
        flip_along: Whether the columns are.
    """

    plane: Plane
    across: int
    step: int
    down: int
    along: int
    flip_down: bool
    flip_along: bool

    def image(self, part: NDArray[Any]) -> NDArray[Any]:
        """Turn a part of the volume into images, ``(slices, height, width)``."""
        images = part.transpose(self.across, self.down, self.along)
        if self.flip_down:
            images = images[:, ::-1]
        return images[:, :, ::-1] if self.flip_along else images


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """An open volume; only its header has been read.

    Attributes:
        path: Path of the file, or of its header.
        format: Name of the format.
        voxels: Its block of numbers.
        affine: ``(4, 4)``: from indices in the file to millimetres in the patient.
        oriented: Whether the file says how it lies in the patient. If not, its axes are taken for
            x, y and z.
        spaced: Whether the file states its spacing.
        rescale: Slope and intercept from stored numbers to values; None if it has none.
    """

    path: Path
    format: str
    voxels: Voxels
    affine: Vector
    oriented: bool
    spaced: bool
    rescale: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along the three axes of the file."""
        return self.voxels.shape

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of its voxels, if that is another than its header."""
        return () if self.voxels.file == self.path else (self.voxels.file,)

    @property
    def memory(self) -> int:
        """Bytes that it holds in memory, once read."""
        return self.voxels.size if self.voxels.packed else 0

    @cached_property
    def _sizes(self) -> Vector:
        sizes: Vector = np.linalg.norm(self.affine[:3, :3], axis=0)
        return sizes

    @cached_property
    def _patient_axes(self) -> tuple[int, ...]:
        """The nearest of the patient's axes for each axis of the file; each is used once."""
        near = np.abs(self.affine[:3, :3] / self._sizes)
        return max(
            permutations(range(3)), key=lambda axes: round(near[list(axes), range(3)].sum(), 6)
        )

    @property
    def _signs(self) -> list[bool]:
        """Whether the patient's axis rises along each axis of the file."""
        return [bool(self.affine[axis, at] > 0) for at, axis in enumerate(self._patient_axes)]

    @property
    def orientation(self) -> str:
        """Where the axes of the file lead, such as ``LPS``; ``unknown`` if it does not say so."""
        if not self.oriented:
            return "unknown"
        pairs = zip(self._patient_axes, self._signs, strict=True)
        return "".join(_LETTERS[axis][rises] for axis, rises in pairs)

    @property
    def tilt(self) -> float:
        """Largest angle in degrees between an axis of the file and the nearest of the patient's."""
        near = np.abs(self.affine[:3, :3] / self._sizes)[list(self._patient_axes), range(3)]
        return float(np.degrees(np.arccos(np.clip(near.min(), 0, 1))))

    def _axes(self, plane: Plane) -> _SliceAxes:
        if self.shape.count(1) == 1:  # a single slice: it is shown, whatever its plane is
            single = self._patient_axes[self.shape.index(1)]
            plane = next(name for name, (across, *_) in _PLANES.items() if across == single)
        across, (down, down_sign), (along, along_sign) = _PLANES[plane]
        of = self._patient_axes.index
        signs = self._signs
        return _SliceAxes(
            plane=plane,
            across=of(across),
            step=1 if signs[of(across)] else -1,
            down=of(down),
            along=of(along),
            flip_down=signs[of(down)] != (down_sign > 0),
            flip_along=signs[of(along)] != (along_sign > 0),
        )

    def count_slices(self, plane: Plane) -> int:
        """Return the number of slices in a plane, as for `read`."""
        return self.shape[self._axes(plane).across]

    @cached_property
    def _unpacked(self) -> NDArray[Any]:
        return self.voxels.unpack()

    def _part(self, axis: int, first: int, last: int) -> NDArray[Any]:
        """Read the part between two indices, included, along an axis.

        Raises:
            ImageError: The file is damaged.
        """
        try:
            if not self.voxels.packed:
                return self.voxels.read(axis, first, last)
            chosen: list[slice] = [slice(None)] * 3
            chosen[axis] = slice(first, last + 1)
            return self._unpacked[tuple(chosen)]
        except OSError as error:
            raise ImageError(self.path, f"cannot be read ({error.strerror or error})") from None
        except ValueError as error:
            raise ImageError(self.path, DAMAGED.format(self.format)) from error

    def read(
        self,
        *,
        plane: Plane = "axial",
        index: int | None = None,
        point: PatientPoint | None = None,
        slices: int = 1,
        rescale: bool | None = None,
    ) -> VolumeSlice:
        """Read a slice.

        Args:
            plane: Plane of the patient; the nearest axis of the file is across its slices. Of a
                volume with one slice, that slice is read.
            index: Index of the slice in the order of the file, from 0; None if there is one slice.
            point: Position in the patient in millimetres (LPS) that chooses it instead.
            slices: Number of neighbouring slices around it, odd. They are in the direction of the
                patient's axis (to the left, back or head); at the ends of the volume, the last one
                is repeated.
            rescale: As `hydrakit.data.dicom.read_pixels`: whether slope and intercept are applied.

        Raises:
            ImageError: No slice, or one that does not exist, is chosen, or the file is damaged.
        """
        axes = self._axes(plane)
        count = self.shape[axes.across]
        centre = None
        if point is not None:
            index, centre = self._locate(point, axes)
        if index is None and count == 1:
            index = 0
        if index is None:
            raise ImageError(self.path, NO_SLICE)
        self._check_index(axes, index)
        size = self.voxels.size // count * slices
        if size > min(MAX_BYTES, MAX_VALUES * self.voxels.dtype.itemsize):
            raise ImageError(self.path, TOO_LARGE)
        around = np.arange(-(slices // 2), slices // 2 + 1) * axes.step
        chosen = np.clip(index + around, 0, count - 1)
        part = self._part(axes.across, int(chosen.min()), int(chosen.max()))
        values = axes.image(part.take(chosen - chosen.min(), axes.across))
        pixels = self._values(values, rescale)
        shown = self._shown(axes, index)
        facts: dict[str, str | float] = {
            "format": self.format,
            "mode": self.voxels.dtype.name,
            "width": float(shown.columns),
            "height": float(shown.rows),
            "bits": float(self.voxels.dtype.itemsize * 8),
            "slices": float(count),
            "orientation": self.orientation,
        }
        if self.spaced:
            facts |= {
                "row spacing (mm)": _short(self._sizes[axes.down]),
                "column spacing (mm)": _short(self._sizes[axes.along]),
                "slice distance (mm)": _short(self._sizes[axes.across]),
            }
        if self.oriented:
            facts[_TILT] = round(self.tilt, 1)
        return VolumeSlice(pixels=pixels, plane=shown, centre=centre, facts=facts)

    def _values(self, stored: NDArray[Any], rescale: bool | None) -> NDArray[np.float32]:
        if rescale and self.rescale is None:
            raise ImageError(self.path, "has no slope and intercept, which rescale = true needs")
        with np.errstate(over="ignore", invalid="ignore"):  # refused by whoever reads the pixels
            if self.rescale is None or rescale is False:
                return np.ascontiguousarray(stored, dtype=np.float32)
            slope, intercept = self.rescale
            pixels = np.empty(stored.shape, np.float32)
            for row in range(stored.shape[1]):  # row by row: of doubles there is one row at a time
                pixels[:, row] = stored[:, row].astype(np.float64) * slope + intercept
            return pixels

    def _inside(self, axis: int, first: int, last: int) -> NDArray[np.bool_]:
        """Where a mask is not zero, in a part as of `_part`; what is no number is outside."""
        values = self._part(axis, first, last)
        if self.rescale is not None and self.rescale[1] != 0:
            values = self._values(values, None)
        inside: NDArray[np.bool_] = np.nan_to_num(values) != 0
        return inside

    def _locate(self, point: PatientPoint, axes: _SliceAxes) -> tuple[int, tuple[float, float]]:
        """Return the slice nearest to a point of the patient, and its row and column there."""
        if not self.oriented:
            raise ImageError(
                self.path, "does not say where it lies in the patient, which x_mm, y_mm, z_mm need"
            )
        at = np.linalg.solve(self.affine, [*point, 1.0])[:3]
        at = np.round(at, 6)  # a point between two slices must not depend on rounding
        if not all(-0.5 <= place <= side - 0.5 for place, side in zip(at, self.shape, strict=True)):
            raise ImageError(self.path, OUTSIDE)
        row, column = (
            self.shape[axis] - 1 - at[axis] if flip else at[axis]
            for axis, flip in ((axes.down, axes.flip_down), (axes.along, axes.flip_along))
        )
        index = min(math.floor(at[axes.across] + 0.5), self.shape[axes.across] - 1)
        return index, (float(row), float(column))

    def _shown(self, axes: _SliceAxes, index: int) -> SlicePlane:
        first = [0, 0, 0]
        first[axes.across] = index
        directions = self.affine[:3, :3] / self._sizes
        shown = []
        for axis, flip in ((axes.along, axes.flip_along), (axes.down, axes.flip_down)):
            first[axis] = self.shape[axis] - 1 if flip else 0
            shown += [float(each) for each in (-1 if flip else 1) * directions[:, axis]]
        x, y, z = (float(each) for each in (self.affine @ [*first, 1.0])[:3])
        a, b, c, d, e, f = shown
        return SlicePlane(
            rows=self.shape[axes.down],
            columns=self.shape[axes.along],
            spacing=(float(self._sizes[axes.down]), float(self._sizes[axes.along]))
            if self.spaced
            else None,
            position=(x, y, z) if self.oriented else None,
            orientation=(a, b, c, d, e, f) if self.oriented else None,
        )

    def grid_fault(self, mask: Volume) -> str | None:
        """Return why a volume is no mask of this one, voxel by voxel; None if it is one.

        Corresponding corners may be half a voxel apart.
        """
        if mask.shape != self.shape:
            return f"its mask has the shape {mask.shape}, and the image {self.shape}"
        if mask.oriented != self.oriented:
            return "only one of the image and its mask says how it lies in the patient"
        corners = np.array([*product(*((0, side - 1) for side in self.shape))])
        drift = (self.affine - mask.affine) @ np.c_[corners, np.ones(len(corners))].T
        if self.oriented and np.linalg.norm(drift[:3], axis=0).max() > self._sizes.min() / 2:
            return f"its mask, of the same shape {self.shape}, lies elsewhere in the patient"
        return None

    def mask_slice(
        self, masks: Sequence[Volume], *, plane: Plane = "axial", index: int | None = None
    ) -> tuple[int, NDArray[np.bool_]] | None:
        """Return the slice in which masks of this volume cover most pixels, and where they do.

        Args:
            masks: The masks; every number but 0 is inside, and several masks are united.
            plane: Plane of the slices, as for `read`.
            index: Index of the only slice that counts; None for all.

        Returns:
            The index of the slice (of equal ones, the first in the file), and ``(height, width)``
            as `read` shows it; None if the masks are empty.

        Raises:
            ImageError: A mask has another shape, or lies elsewhere, or a file is damaged.
        """
        axes = self._axes(plane)
        first, last = (0, self.shape[axes.across] - 1) if index is None else (index, index)
        self._check_index(axes, last)
        inside = None
        for mask in masks:
            fault = self.grid_fault(mask)
            if fault is not None:
                raise ImageError(self.path, fault)
            if mask.voxels.size > MAX_UNPACKED:
                raise ImageError(self.path, f"its mask has over {MAX_UNPACKED >> 20} MiB of voxels")
            part = axes.image(mask._inside(axes.across, first, last))
            inside = part if inside is None else inside | part
        if inside is None or not inside.any():
            return None
        best = int(inside.sum(axis=(1, 2)).argmax())
        return first + best, np.ascontiguousarray(inside[best])

    def _check_index(self, axes: _SliceAxes, index: int) -> None:
        count = self.shape[axes.across]
        if index >= count:
            raise ImageError(
                self.path, f"has no slice {index}: its {axes.plane} slices are 0 to {count - 1}"
            )


def is_tilted(facts: Mapping[str, str | float]) -> bool:
    """Whether facts of an image say that its volume is tilted by more than `MAX_TILT`."""
    tilt = facts.get(_TILT)
    return isinstance(tilt, float) and tilt > MAX_TILT


def _short(number: float) -> float:
    return float(f"{number:.4g}")
