"""Pixels and facts of one image, whatever its format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.declared.arrays import MAX_VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit.data.dicom import Header
    from hydrakit.data.dicom.geometry import ImagePlane
    from hydrakit.data.volumes.volume import SlicePlane

Facts = dict[str, str | float]
TOO_LARGE = f"has more than {MAX_VALUES} pixels: scale it down"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pixels and metadata of one image file.

    Attributes:
        pixels: Finite float32 values, ``(channels, height, width)``; DICOM padding is masked.
        facts: Format, mode, width, height and bits; for DICOM, mode is the modality, and the
            scanner's facts are added.
        header: Header of a DICOM file.
        slice_plane: Where a slice of a volume lies in the patient.
        centre: ``(row, column)`` in pixels of the position in the patient that was asked for.
        files: Further files that determine the pixels.
    """

    pixels: NDArray[np.float32]
    facts: Facts
    header: Header | None = None
    slice_plane: SlicePlane | None = None
    centre: tuple[float, float] | None = None
    files: tuple[Path, ...] = ()

    @property
    def plane(self) -> ImagePlane | None:
        """Where the image lies in the patient, if its format can state it (DICOM, volumes)."""
        return self.header or self.slice_plane

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Pixel spacing ``(row, column)`` in millimetres, if the file states it."""
        return self.plane.spacing if self.plane else None

    @property
    def patient(self) -> str | None:
        """Pseudonymous patient identifier, if the file states it (DICOM)."""
        return (self.header.patient_id or None) if self.header else None

    @property
    def study(self) -> str | None:
        """StudyInstanceUID of a DICOM file, if the file states it."""
        return (self.header.study_uid or None) if self.header else None


def file_facts(file_format: str, mode: str, pixels: NDArray[np.float32], bits: float) -> Facts:
    """The facts that every file states."""
    height, width = pixels.shape[-2:]
    return {
        "format": file_format,
        "mode": mode,
        "width": float(width),
        "height": float(height),
        "bits": float(bits),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress decoder warnings: relevant problems raise errors or are in a sample's facts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
