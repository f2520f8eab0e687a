"""Small DICOM files and headers for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hydrakit.data.dicom import Header

MR = "1.2.840.10008.5.1.4.1.1.4"
PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)


def image(**tags) -> Dataset:
    """A complete MR image of 3 rows and 4 columns, with other tags where given."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MR
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientID = "P1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.Modality = "MR"
    dataset.Rows, dataset.Columns = PIXELS.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = PIXELS.tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def header(**changes) -> Header:
    """A header that no file stands behind."""
    values = {
        "path": Path("made.dcm"),
        "sop_class": MR,
        "sop_uid": "1",
        "patient_id": "P1",
        "study_uid": "1.2.3",
        "series_uid": "1.2.3.4",
        "series_number": 1,
        "series_description": "",
        "modality": "MR",
        "image_type": (),
        "instance_number": 1,
        "position": (0.0, 0.0, 0.0),
        "orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        "spacing": (1.0, 1.0),
        "thickness": None,
        "rows": 10,
        "columns": 10,
        "b_value": None,
        "model": "",
        "field_strength": None,
        "tube_voltage": None,
        "bits_stored": 16,
    }
    return Header(**{**values, **changes})


def item(**tags) -> Dataset:
    """An item of a sequence."""
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced(pixels: np.ndarray, *, shared: Dataset, frames: list[Dataset], **tags) -> Dataset:
    """An enhanced MR image of several frames ``(frames, height, width)``, of 16 bits."""
    dataset = image(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        NumberOfFrames=len(pixels),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **tags,
    )
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.PixelData = pixels.astype("<u2").tobytes()
    return dataset
