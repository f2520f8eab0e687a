"""From where `hydrakit datasets get` fetches the files of a dataset, as an adapter describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["IndexedSeries", "KaggleDataset", "ManualFile", "PublicCollection"]


@dataclass(frozen=True, kw_only=True)
class IndexedSeries:
    """A DICOM series of a public collection, as the index of the Imaging Data Commons lists it.

    The index states nothing that is not here: no ImageType, no b-value and no position.

    Attributes:
        patient: PatientID, a pseudonym.
        series_uid: SeriesInstanceUID.
        modality: ``MR``, ``CT``, ``SEG``, ...
        description: SeriesDescription; may be empty.
        images: Number of files.
        size: Bytes of all its files.
        doi: DOI of the publication that it belongs to, as ``10.7937/...``.
        licence: Short name of its licence.
        url: Where its files are, as ``s3://BUCKET/FOLDER/*``.
    """

    patient: str
    series_uid: str
    modality: str
    description: str
    images: int
    size: int
    doi: str
    licence: str
    url: str


@dataclass(frozen=True, kw_only=True)
class PublicCollection:
    """A collection of the Imaging Data Commons with the images of a dataset.

    Attributes:
        id: Its name there, such as ``prostatex``.
        needed: Function ``needed(series, options)`` that returns whether the adapter may read an
            `IndexedSeries`. ``options`` are those of the adapter.
    """

    id: str
    needed: Callable[[IndexedSeries, Any], bool]


@dataclass(frozen=True, kw_only=True)
class KaggleDataset:
    """A dataset of Kaggle with the images of a dataset.

    Attributes:
        handle: Its name there, ``OWNER/NAME``.
        folders: Folders of its archive that the adapter reads.
        size: Bytes of these folders.
    """

    handle: str
    folders: tuple[str, ...]
    size: int


@dataclass(frozen=True, kw_only=True)
class ManualFile:
    """A file of a dataset that users have to download by hand.

    Attributes:
        name: Its file name, with ``*`` for any text. It is needed anywhere below the dataset's
            folder, in upper or lower case.
        page: Address of the page that offers it, and its name there.
        also: Other names by which it is recognised.
    """

    name: str
    page: str
    also: tuple[str, ...] = ()
