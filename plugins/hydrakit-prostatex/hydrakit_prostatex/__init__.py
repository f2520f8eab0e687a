"""Adapters for PROSTATEx: prostate lesions on MR images, by significance or by grade group."""

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

# Every list of one, two or three sequences, in the order of the channels.
Sequences = Literal[
    "dwi",
    "t2",
    "adc",
    "dwi,t2",
    "dwi,adc",
    "t2,dwi",
    "t2,adc",
    "adc,dwi",
    "adc,t2",
    "dwi,t2,adc",
    "dwi,adc,t2",
    "t2,dwi,adc",
    "t2,adc,dwi",
    "adc,dwi,t2",
    "adc,t2,dwi",
]


@dataclass(frozen=True, kw_only=True)
class ProstateOptions:
    """Options of the datasets ``prostatex`` and ``prostatex2``."""

    sequences: Sequences = field(
        default="dwi",
        metadata={
            "help": "sequences used as channels, in this order: dwi (diffusion image with the "
            "highest b-value), t2 (transverse), adc. Several sequences are resampled around the "
            "lesion, by their position in the patient, to one grid of 0.5 mm in the plane of the "
            "first"
        },
    )
    set: Literal["train", "test", "all"] = field(
        default="train",
        metadata={
            "help": "set to read: train (training set), test (test set of the challenge, without "
            "labels, for `hydrakit predict`), or all (both)"
        },
    )
    slice: Literal["geometry", "instance"] = field(
        default="geometry",
        metadata={
            "help": "slice of the lesion: geometry (the slice whose plane is nearest to the "
            "finding's position), or instance (the slice with InstanceNumber k + 1, as the paper's "
            "authors chose it; a wrong slice if the images are numbered from head to feet)"
        },
    )
    intensity: Literal["stored", "rescaled", "authors"] = field(
        default="stored",
        metadata={
            "help": "pixel values: stored (as in the file), rescaled (by RescaleSlope and "
            "RescaleIntercept where a file has them; those of the collection have none), or "
            "authors (8 bits by each slice's own window and maximum, bit for bit as the paper's "
            "authors computed them)"
        },
    )


_PAGE = "https://doi.org/10.7937/K9TCIA.2017.MURS5CL"


def _needed(series: IndexedSeries, options: ProstateOptions) -> bool:
    """Whether the rules of `hydrakit_prostatex.series` may choose a series.

    They decide by ImageType and b-values, which the index lacks: every series that is named like
    a diffusion image or an ADC map may be one.
    """
    name = series.description.upper()
    if series.modality != "MR":
        return False
    if any(word in name for word in ("DIFF", "ADC", "BVAL")):
        return True
    return "t2" in options.sequences.split(",") and "T2" in name and "TRA" in name


_SOURCE = PublicCollection(id="prostatex", needed=_needed)


def _tables(prefix: str, archive: str) -> tuple[ManualFile, ...]:
    return tuple(
        ManualFile(name=f"{prefix}-{kind}-Train.csv", page=f"{_PAGE}, {archive}")
        for kind in ("Findings", "Images")
    )


def _read(root: Path, options: ProstateOptions) -> Iterator[Sample | Unusable]:
    from hydrakit_prostatex.reading import read
    from hydrakit_prostatex.tables import PROSTATEX

    return read(root, options, PROSTATEX)


def _read_grades(root: Path, options: ProstateOptions) -> Iterator[Sample | Unusable]:
    from hydrakit_prostatex.reading import read
    from hydrakit_prostatex.tables import PROSTATEX2

    return read(root, options, PROSTATEX2)


@hookimpl
def hydrakit_dataset_adapters() -> Iterator[DatasetAdapter]:
    """Return the adapters ``prostatex`` and ``prostatex2``: one image collection, two tasks."""
    yield DatasetAdapter(
        name="prostatex",
        cohort="PROSTATEx",
        summary="Prostate lesions on MR, benign or clinically significant (PROSTATEx)",
        classes=("benign", "significant"),
        read=_read,
        field_of_view=FieldOfView(millimetres=65.0),
        version="4",
        layout="ProstateX-Findings-Train.csv and ProstateX-Images-Train.csv (of the test set: "
        "-Test.csv) anywhere below the folder, and the DICOM images in folders of any name",
        how_to_get="`hydrakit datasets get prostatex` fetches the images that are needed (0.98 GB "
        f"of 16.6). The tables are in the archive with the lesion information of the training set, "
        f"{_PAGE} (and in that of the test set, for `hydrakit predict`).",
        source=_SOURCE,
        by_hand=_tables("ProstateX", "ProstateX-TrainingLesionInformationv2.zip"),
        citation="Litjens G, Debats O, Barentsz J, Karssemeijer N, Huisman H. SPIE-AAPM PROSTATEx "
        "Challenge Data. The Cancer Imaging Archive, 2017. doi:10.7937/K9TCIA.2017.MURS5CL",
        licence="CC BY 3.0",
        options=ProstateOptions,
    )
    yield DatasetAdapter(
        name="prostatex2",
        cohort="PROSTATEx",
        summary="Prostate lesions on MR by ISUP grade group, 1 to 5 (PROSTATEx-2)",
        classes=tuple(f"grade group {group}" for group in range(1, 6)),
        read=_read_grades,
        field_of_view=FieldOfView(millimetres=65.0),
        version="3",
        layout="ProstateX-2-Findings-Train.csv (with the column ggg) and "
        "ProstateX-2-Images-Train.csv anywhere below the folder, and the DICOM images of "
        "PROSTATEx in folders of any name",
        how_to_get="`hydrakit datasets get prostatex2` fetches the images that are needed (0.98 GB "
        "of 16.6), the same as for prostatex. The tables are in the archive with the lesion "
        f"information of the training set of PROSTATEx-2, {_PAGE}. With the tables beside those of "
        "PROSTATEx, one folder serves both datasets: `--root prostatex2=FOLDER`.",
        source=_SOURCE,
        by_hand=_tables("ProstateX-2", "the lesion information of PROSTATEx-2"),
        citation="Litjens G, Debats O, Barentsz J, Karssemeijer N, Huisman H. SPIE-AAPM PROSTATEx "
        "Challenge Data. The Cancer Imaging Archive, 2017. doi:10.7937/K9TCIA.2017.MURS5CL",
        licence="CC BY 3.0",
        options=ProstateOptions,
    )
