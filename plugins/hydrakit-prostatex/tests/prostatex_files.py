"""Small exams and tables for the tests of the prostatex adapter."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hydrakit.data.read import read_samples
from hydrakit.hooks import Sample, Unusable
from hydrakit_prostatex import hydrakit_dataset_adapters
from hydrakit_prostatex.tables import (
    PROSTATEX,
    Tables,
)

ADAPTER, GRADES = hydrakit_dataset_adapters()
TRAIN = PROSTATEX["train"]
FINDINGS, IMAGES = TRAIN.findings, TRAIN.images
ROWS, COLUMNS, SLICES = 12, 10, 5
STEP = 3.0  # millimetres between slices
DWI = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "DIS2D"]


def write_series(
    folder: Path,
    description: str,
    number: int,
    *,
    patient: str = "ProstateX-0001",
    study: str = "1.2.1",
    z: float = 0.0,
    head_first: bool = False,
    image_type: list[str] | None = None,
    b_values: tuple[bytes | None, ...] = (b"1000",),
    value: int = 0,
) -> None:
    """A stack of axial slices; a pixel holds ``value`` + 10 * (slice from the feet) + b-index.

    The lowest slice is at ``z``; pixels are 2 mm wide and 1.5 mm high, the first at (-20, -10).
    """
    series = generate_uid()
    instance = 0
    for b_index, b_value in enumerate(b_values):
        order = range(SLICES)
        for k in reversed(order) if head_first else order:
            instance += 1
            dataset = Dataset()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
                "1.2.840.10008.5.1.4.1.1.4"
            )
            dataset.SOPInstanceUID = generate_uid()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.PatientID, dataset.Modality = patient, "MR"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.SeriesNumber, dataset.SeriesDescription = number, description
            dataset.InstanceNumber = instance
            dataset.ImageType = DWI if image_type is None else image_type
            dataset.ImagePositionPatient = [-20, -10, z + STEP * k]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.PixelSpacing = [1.5, 2]
            dataset.Rows, dataset.Columns = ROWS, COLUMNS
            dataset.BitsAllocated = dataset.BitsStored = 16
            dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
            dataset.PhotometricInterpretation = "MONOCHROME2"
            pixels = np.full((ROWS, COLUMNS), value + 10 * k + b_index, np.uint16)
            dataset.PixelData = pixels.tobytes()
            if b_value is not None:
                block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
                block.add_new(0x0C, "OB", b_value)
            folder.mkdir(parents=True, exist_ok=True)
            dataset.save_as(folder / f"{instance}.dcm", enforce_file_format=True)


Listed = tuple[str, int, str]  # description, number, ijk


def write_tables(
    folder: Path,
    *findings: tuple[str, str, list[Listed]],
    tables: Tables = TRAIN,
    dim: str = f"10x12x{SLICES}x1",
) -> None:
    """The two tables: for each finding its ``pos``, its label and its listed series."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / tables.findings).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ProxID", "fid", "pos", "zone", *[tables.column] * tables.has_labels])
        for pos, label, _ in findings:
            table.writerow(["ProstateX-0001", 1, pos, "PZ", *[label] * tables.has_labels])
    with (folder / tables.images).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ProxID", "Name", "fid", "pos", "ijk", "Dim", "DCMSerDescr", "DCMSerNum"])
        for pos, _, listed in findings:
            for description, number, ijk in listed:
                table.writerow(["ProstateX-0001", "x", 1, pos, ijk, dim, description, number])


def read(root: Path, **options: str) -> list[Sample | Unusable]:
    return list(read_samples(ADAPTER, root, options))


def only_sample(root: Path, **options: str) -> Sample:
    (case,) = read(root, **options)
    assert isinstance(case, Sample)
    return case


def only_reason(root: Path, **options: str) -> str:
    (case,) = read(root, **options)
    assert isinstance(case, Unusable)
    return case.reason


CALC = "ep2d_diff_tra_DYNDISTCALC_BVAL"
