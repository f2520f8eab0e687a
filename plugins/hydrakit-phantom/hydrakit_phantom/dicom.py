"""Common parts of the MR and CT files: marks, fixed identifiers, planes, and writing.

Attributes and sections are those of DICOM PS3.3: General Image (C.7.6.1), Image Plane (C.7.6.2),
Image Pixel (C.7.6.3) and Patient (C.7.1.1) modules.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit_phantom.lesion import Array
from hydrakit_phantom.settings import MARK

if TYPE_CHECKING:
    from pydicom import Dataset

DATE = "20000101"
DATE_FOLDER = "01-01-2000"
TIME = "120000"


def fixed_uid(*parts: object) -> str:
    """Return a UID under 2.25 (DICOM PS3.5, B.2) that depends only on the parts."""
    text = "/".join(["hydrakit-phantom", *map(str, parts)])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def decimals(values: Iterable[float]) -> list[str]:
    """Format numbers as decimal strings of at most 16 characters (DICOM PS3.5, 6.2)."""
    return [f"{value + 0.0:.9g}" for value in values]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Parallel planes in the patient's frame, in millimetres.

    Attributes:
        centre: Centre of the stack.
        axes: Matrix whose columns are the directions of increasing column, row and slice.
        spacing: Spacing along these directions.
        size: Number of columns, rows and slices.
    """

    centre: Array
    axes: Array
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]

    def point(self, column: float, row: float, slice_: float) -> Array:
        """Return the centre of a voxel, whose indices count from 0."""
        steps = (np.array([column, row, slice_]) - (np.array(self.size) - 1) / 2) * self.spacing
        result: Array = self.centre + self.axes @ steps
        return result

    def plane(self, slice_: int) -> Array:
        """Return the centres of a slice's pixels, ``(rows, columns, 3)``."""
        down = self.axes[:, 1] * self.spacing[1] * np.arange(self.size[1])[:, None, None]
        right = self.axes[:, 0] * self.spacing[0] * np.arange(self.size[0])[None, :, None]
        result: Array = self.point(0, 0, slice_) + down + right
        return result

    def matrix(self) -> Array:
        """Return the matrix from voxel indices to millimetres; its origin is voxel 0's corner."""
        result = np.eye(4)
        result[:3, :3] = self.axes * self.spacing
        result[:3, 3] = self.point(-0.5, -0.5, -0.5)
        return result


def new_image(patient: str, *, study: tuple[object, ...], series: int, instance: int) -> Dataset:
    """Create a data set with identifiers and with marks in several tags that it is synthetic.

    Args:
        patient: Pseudonym of the patient.
        study: Parts from which the study's identifiers are derived.
        series: Series Number.
        instance: Instance Number.
    """
    from pydicom import Dataset

    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.SOPInstanceUID = fixed_uid(*study, series, instance)
    image.StudyInstanceUID = fixed_uid(*study)
    image.SeriesInstanceUID = fixed_uid(*study, series)
    image.FrameOfReferenceUID = fixed_uid(*study, "frame")
    image.PositionReferenceIndicator = ""
    for attribute in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(image, attribute, DATE)
    for attribute in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(image, attribute, TIME)
    image.Manufacturer = "hydrakit-phantom (SYNTHETIC)"
    image.StudyDescription = MARK
    image.ImageComments = MARK
    image.PatientName = "PHANTOM^SYNTHETIC"
    image.PatientID = patient
    image.PatientBirthDate = image.PatientSex = ""
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = "Synthetic: there is no patient"
    image.QualityControlSubject = "YES"
    image.AccessionNumber = image.ReferringPhysicianName = image.StudyID = ""
    image.SeriesNumber = series
    image.AcquisitionNumber = 1
    image.InstanceNumber = instance
    return image


def set_plane(image: Dataset, stack: Stack, slice_: int) -> None:
    """Write the plane of a slice into a data set."""
    image.ImagePositionPatient = decimals(stack.point(0, 0, slice_))
    image.ImageOrientationPatient = decimals([*stack.axes[:, 0], *stack.axes[:, 1]])
    image.PixelSpacing = decimals([stack.spacing[1], stack.spacing[0]])
    image.SliceThickness = decimals([stack.spacing[2]])[0]
    image.SliceLocation = decimals([float(stack.point(0, 0, slice_) @ stack.axes[:, 2])])[0]


def set_pixels(image: Dataset, pixels: Array) -> NDArray[np.uint16]:
    """Write pixels into a data set, rounded and clipped to 12 bits; return the stored values."""
    stored = np.clip(np.rint(pixels), 0, 4095).astype("<u2")
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = stored.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.PixelData = stored.tobytes()
    return stored


def save(image: Dataset, path: Path) -> None:
    """Write a data set to a file, Explicit VR Little Endian; always the same bytes."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(fixed_uid("implementation"))
    meta.ImplementationVersionName = "HYDRAKIT_PHANTOM"
    image.file_meta = meta
    image.save_as(path, enforce_file_format=True)
