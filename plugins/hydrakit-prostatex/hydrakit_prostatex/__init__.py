"""PROSTATEx for hydrakit: prostate lesions on high-b diffusion MR images, benign or significant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.hooks import DatasetAdapter, FieldOfView, Option, hookimpl

if TYPE_CHECKING:
    from hydrakit.hooks import OptionValue, Sample, Unusable


def _read(root: Path, options: Mapping[str, OptionValue]) -> Iterator[Sample | Unusable]:
    from hydrakit_prostatex.reading import read

    return read(root, options)


@hookimpl
def hydrakit_dataset_adapters() -> Iterator[DatasetAdapter]:
    """The adapter ``prostatex``."""
    yield DatasetAdapter(
        name="prostatex",
        summary="Prostate lesions on the highest-b diffusion MR image (PROSTATEx)",
        classes=("benign", "significant"),
        read=_read,
        field_of_view=FieldOfView(millimetres=65.0),
        version="1",
        layout="ProstateX-Findings-Train.csv and ProstateX-Images-Train.csv anywhere below the "
        "folder, and the DICOM images in folders of any name",
        how_to_get="The Cancer Imaging Archive, collection PROSTATEx, "
        "https://doi.org/10.7937/K9TCIA.2017.MURS5CL: the DICOM images, and the archive with the "
        "lesion information of the training set.",
        citation="Litjens G, Debats O, Barentsz J, Karssemeijer N, Huisman H. SPIE-AAPM PROSTATEx "
        "Challenge Data. The Cancer Imaging Archive, 2017. doi:10.7937/K9TCIA.2017.MURS5CL",
        licence="CC BY 3.0",
        options=(
            Option(
                name="slice",
                default="geometry",
                choices=("geometry", "instance"),
                help="which slice shows the lesion: geometry, the one whose plane is nearest to "
                "the finding's position; instance, the one with InstanceNumber k + 1, as the "
                "paper's authors took it (another slice where numbers run from head to feet)",
            ),
        ),
    )
