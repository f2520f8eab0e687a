"""Adapter `lung` for the LUNGx challenge: lung nodules on CT, benign or malignant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hydrakit.hooks import DatasetAdapter, FieldOfView, hookimpl
from hydrakit.sources import ManualFile, PublicCollection

if TYPE_CHECKING:
    from hydrakit.hooks import Sample, Unusable
    from hydrakit.sources import IndexedSeries

# A nodule is at most 30 mm wide by definition; 50 mm include a margin of 10 mm. The paper's authors
# cropped 65 pixels, which at the usual spacing of 0.6 to 0.9 mm are 39 to 58 mm: that size depends
# on the scanner settings, this one does not.
_FIELD_OF_VIEW = FieldOfView(millimetres=50.0)


@dataclass(frozen=True, kw_only=True)
class LungOptions:
    """Options of the dataset ``lung``."""

    suspicious: Literal["drop", "malignant", "unlabelled"] = field(
        default="drop",
        metadata={
            "help": "treatment of the nodules labelled 'Suspicious malignant nodule'; "
            "unlabelled ones are for `hydrakit predict`"
        },
    )
    set: Literal["all", "calibration", "test"] = field(
        default="all",
        metadata={"help": "the calibration set, the challenge's test set, or both"},
    )
    window: Literal["nodule", "lung", "mediastinum", "none"] = field(
        default="nodule",
        metadata={
            "help": "range to which Hounsfield units are clipped: nodule -1000 to 400, lung -1350 "
            "to 150, mediastinum -150 to 250; none does not clip"
        },
    )
    slices: Literal[1, 3, 5, 7] = field(
        default=1,
        metadata={
            "help": "number of neighbouring slices used as channels, the nodule's slice in the "
            "middle; beyond the end of the scan, its last slice is repeated"
        },
    )
    sheet: str = field(
        default="",
        metadata={
            "help": "file names of the sheets to read, separated by commas; no other sheets are "
            "opened (default: all sheets below the folder, and one is used for each set)"
        },
    )


_PAGE = "https://doi.org/10.7937/K9/TCIA.2015.UZLSU3FL"


def _needed(series: IndexedSeries, options: LungOptions) -> bool:
    """Whether a series is one of the scans; the others are segmentations by third parties."""
    return series.modality == "CT"


def _read(root: Path, options: LungOptions) -> Iterator[Sample | Unusable]:
    from hydrakit_lungx.reading import read

    return read(root, options)


@hookimpl
def hydrakit_dataset_adapters() -> Iterator[DatasetAdapter]:
    """Return the adapter ``lung``."""
    yield DatasetAdapter(
        name="lung",
        summary="Lung nodules on CT in Hounsfield units (SPIE-AAPM-NCI LUNGx)",
        classes=("benign", "malignant"),
        read=_read,
        field_of_view=_FIELD_OF_VIEW,
        version="4",
        layout="the calibration sheet, the test sheet (with truth, except for prediction), or both "
        "(.xlsx or .csv) anywhere below the folder, and the DICOM images in folders of any name",
        how_to_get="`hydrakit datasets get lung` fetches the CT images (12.1 GB). The sheets with "
        f"the nodules of the calibration set and of the test set: {_PAGE}.",
        source=PublicCollection(id="spie_aapm_lung_ct_challenge", needed=_needed),
        by_hand=(
            ManualFile(
                name="CalibrationSet_NoduleData.xlsx",
                page=_PAGE,
                also=("*calibration*.xlsx", "*calibration*.csv"),
            ),
            ManualFile(
                name="TestSet_NoduleData_PublicRelease_wTruth.xlsx",
                page=_PAGE,
                also=("*testset*.xlsx", "*testset*.csv"),
            ),
        ),
        citation="Armato SG III, Hadjiiski L, Tourassi GD, Drukker K, Giger ML, Li F, Redmond G, "
        "Farahani K, Kirby JS, Clarke LP. SPIE-AAPM-NCI Lung Nodule Classification Challenge "
        "Dataset. The Cancer Imaging Archive, 2015. doi:10.7937/K9/TCIA.2015.UZLSU3FL",
        licence="CC BY 3.0",
        options=LungOptions,
    )
