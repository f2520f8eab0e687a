"""Adapter `brain` for "Brain MRI Images for Brain Tumor Detection" (Kaggle, navoneel)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hydrakit.hooks import (
    DatasetAdapter,
    FieldOfView,
    NoOptions,
    Sample,
    Unusable,
    hookimpl,
)
from hydrakit.sources import KaggleDataset

_HANDLE = "navoneel/brain-mri-images-for-brain-tumor-detection"


@hookimpl
def hydrakit_dataset_adapters() -> Iterator[DatasetAdapter]:
    """Return the adapter of the dataset ``brain``."""
    yield DatasetAdapter(
        name="brain",
        summary="Brain MRI slices from the web, with or without a tumour (Kaggle, 253 images)",
        classes=("healthy", "tumour"),
        read=_read,
        field_of_view=FieldOfView(share=1.0),
        version="2",
        layout="the folders yes/ and no/ with JPEG and PNG images, or one folder that holds both",
        how_to_get=(
            "`hydrakit datasets get brain`, or download the archive from "
            f"https://www.kaggle.com/datasets/{_HANDLE} (a free account is needed) and unpack it."
        ),
        source=KaggleDataset(handle=_HANDLE, folders=("no", "yes"), size=8_672_762),
        citation=(
            "Chakrabarty N. Brain MRI Images for Brain Tumor Detection. Kaggle, 2019. "
            f"https://www.kaggle.com/datasets/{_HANDLE}"
        ),
        licence="not stated by its author: for research, do not redistribute",
    )


def _read(root: Path, options: NoOptions) -> Iterator[Sample | Unusable]:
    from hydrakit_brain.reading import read

    return read(root)
