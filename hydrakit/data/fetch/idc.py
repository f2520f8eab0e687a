"""Collections of the Imaging Data Commons, as its index, the package idc-index-data, lists them.

Nothing is downloaded here: the index states the size, licence and place of every series.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrakit.errors import PlanError
from hydrakit.sources import IndexedSeries

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

INSTALL = "`pip install 'hydrakit-imaging[get]'`"
COLLECTIONS = "https://portal.imaging.datacommons.cancer.gov/collections/"

_COLUMNS = (
    "PatientID, SeriesInstanceUID, Modality, coalesce(SeriesDescription, ''), instanceCount, "
    "series_size_MB, source_DOI, license_short_name, series_aws_url"
)
_UID = re.compile(r"[0-9.]{1,64}")
_URL = re.compile(r"s3://[a-z0-9.-]+/[0-9a-f-]+/\*")


@dataclass(frozen=True)
class Publication:
    """A publication whose images are in a collection.

    Attributes:
        doi: Its DOI.
        licence: Short name of the licence of its images; several are joined.
        citation: How to cite it; its address if the index does not say.
    """

    doi: str
    licence: str
    citation: str


@dataclass(frozen=True)
class Collection:
    """All series of a collection.

    Attributes:
        id: Name of the collection.
        version: Version of the index.
        series: Its series, by patient and UID.
        citations: How to cite its publications, by DOI in lower case.
    """

    id: str
    version: str
    series: tuple[IndexedSeries, ...]
    citations: dict[str, str]

    def publications(self, series: Iterable[IndexedSeries]) -> list[Publication]:
        """The publications of some of its series, the one with the most series first."""
        licences: dict[str, list[str]] = {}
        for each in series:
            licences.setdefault(each.doi, []).append(each.licence)
        return [
            Publication(
                doi,
                " and ".join(sorted(set(names))),
                self.citations.get(doi.lower(), f"https://doi.org/{doi}"),
            )
            for doi, names in sorted(licences.items(), key=lambda item: (-len(item[1]), item[0]))
        ]


def read_collection(name: str) -> Collection:
    """Read the series of a collection from the index.

    Raises:
        PlanError: The index is not installed, or has no such collection.
    """
    try:
        import duckdb
        import idc_index_data as index
    except ImportError as error:
        raise PlanError(
            f"the index of the Imaging Data Commons is not installed ({error.name}): {INSTALL}"
        ) from None
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM read_parquet(?) WHERE collection_id = ? ORDER BY ALL",
            [str(index.IDC_INDEX_PARQUET_FILEPATH), name],
        ).fetchall()
        if not rows:
            raise PlanError(_unknown(connection, name, str(index.IDC_INDEX_PARQUET_FILEPATH)))
        table = index.INDEX_METADATA["collections_index"]["parquet_filepath"]
        sources = connection.execute(
            "SELECT sources FROM read_parquet(?) WHERE collection_id = ?", [str(table), name]
        ).fetchall()
    citations = {
        source["source_doi"].lower(): _plain(source["citation"])
        for (listed,) in sources
        for source in listed or ()
        if source["source_doi"] and source["citation"]
    }
    return Collection(name, index.__version__, tuple(map(_series, rows)), citations)


def _series(row: Sequence[object]) -> IndexedSeries:
    patient, uid, modality, description, images, size, doi, licence, url = row
    # They become names of folders and arguments of commands.
    if not (_UID.fullmatch(str(uid)) and _URL.fullmatch(str(url))):
        raise PlanError(f"the index lists a series {uid!r} at {url!r}: {INSTALL} again")
    return IndexedSeries(
        patient=str(patient),
        series_uid=str(uid),
        modality=str(modality),
        description=str(description),
        images=int(str(images)),
        size=round(float(str(size)) * 1e6),
        doi=str(doi),
        licence=str(licence),
        url=str(url),
    )


def _plain(citation: str) -> str:
    """A citation, which the index keeps as HTML, as text on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", citation)).split())


def _unknown(connection: DuckDBPyConnection, name: str, path: str) -> str:
    import difflib

    known = connection.execute(
        "SELECT DISTINCT collection_id FROM read_parquet(?)", [path]
    ).fetchall()
    near = difflib.get_close_matches(name, [each for (each,) in known], n=1)
    if near:
        return f"{name!r} is no dataset and no public collection: did you mean {near[0]!r}?"
    return (
        f"{name!r} is no dataset and no public collection: `hydrakit datasets list` lists the "
        f"datasets, and {COLLECTIONS} the {len(known)} collections"
    )


def choose(
    series: Sequence[IndexedSeries],
    *,
    modalities: Sequence[str] = (),
    description: str | None = None,
) -> list[IndexedSeries]:
    """Choose some of the needed series, in their order.

    Args:
        series: The needed series.
        modalities: Modalities to choose, such as ``CT``; empty for all.
        description: Regular expression that a part of the description matches; upper and lower
            case are one.

    Raises:
        PlanError: The expression is invalid, or no series is chosen.
    """
    try:
        pattern = re.compile(description or "", re.IGNORECASE)
    except re.error as error:
        raise PlanError(
            f"--series-description {description!r} is no regular expression: {error}"
        ) from None
    wanted = {each.upper() for each in modalities}
    chosen = [
        each
        for each in series
        if (not wanted or each.modality in wanted) and pattern.search(each.description)
    ]
    if not chosen:
        present = ", ".join(sorted({each.modality for each in series})) or "none"
        raise PlanError(
            "--modality and --series-description choose none of the series that are needed, whose "
            f"modalities are: {present}"
        )
    return chosen
