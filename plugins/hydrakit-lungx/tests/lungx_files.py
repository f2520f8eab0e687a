"""Small scans and sheets for the tests of the lung adapter."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openpyxl
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hydrakit.data.read import read_samples
from hydrakit.hooks import Sample, Unusable
from hydrakit_lungx import hydrakit_dataset_adapters

(ADAPTER,) = hydrakit_dataset_adapters()
TEST_HEADER = (
    "Scan Number",
    "Nodule Number",
    "Nodule Center x,y Position*",
    "Nodule Center Image",
    "Final Diagnosis",
)
CALIBRATION_HEADER = (*TEST_HEADER[:1], *TEST_HEADER[2:4], "Diagnosis")
SPLIT_HEADER = (
    "Scan Number",
    "Nodule Center x Position",
    "Nodule Center y Position*",
    "Nodule Center Image",
    "Diagnosis",
)
NOTE = "*specified in pixels, where position (1,1) corresponds to the upper-leftmost pixel, x first"
LAST_NOTE = "All images are in DICOM format with a matrix size of 512x512 pixels."


def write_csv(path: Path, *rows: tuple, delimiter: str = ";", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([*rows, (), (NOTE,), (), (LAST_NOTE,)])
    return path


def write_xlsx(path: Path, *rows: tuple) -> Path:
    book = openpyxl.Workbook()
    book.create_sheet("other", 0)  # an empty sheet before the one that counts
    for row in [*rows, (), (NOTE,), (), (LAST_NOTE,)]:
        book["Sheet"].append(row)
    book.save(path)
    return path


def write_scan(
    folder: Path,
    patient: str = "LUNGx-CT001",
    *,
    instances: tuple[int, ...] = (1, 2, 3),
    modality: str = "CT",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
) -> None:
    """Slices of 6 rows and 8 columns whose pixels are 1000 + InstanceNumber; intercept -1024."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    for at, instance in enumerate(instances):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientID, dataset.Modality = patient, modality
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series
        dataset.SeriesNumber, dataset.InstanceNumber = 4, instance
        dataset.ImageType = list(image_type)
        dataset.ImagePositionPatient = [0, 0, -at]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [0.7, 0.8]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.Rows, dataset.Columns = 6, 8
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelData = np.full((6, 8), 1000 + instance, np.uint16).tobytes()
        dataset.save_as(folder / f"z{at}.dcm", enforce_file_format=True)


def read(root: Path, **options: str | int) -> list[Sample | Unusable]:
    return list(read_samples(ADAPTER, root, options))


def only_reason(root: Path, **options: str) -> str:
    (case,) = read(root, **options)
    assert isinstance(case, Unusable)
    return case.reason


def one_nodule(root: Path, position: str = "5, 3", image: int = 2) -> None:
    write_csv(root / "sheet.csv", TEST_HEADER, ("LUNGx-CT001", 1, position, image, "Benign nodule"))


BENIGN = ("LUNGx-CT001", 1, "5, 3", 2, "Benign nodule")
CANCER = (*BENIGN[:4], "Primary lung cancer")
SECOND = ("LUNGx-CT001", 2, "5, 4", 2, "Benign nodule")
