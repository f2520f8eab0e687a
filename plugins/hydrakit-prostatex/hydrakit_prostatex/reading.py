"""From the tables and the DICOM images to one case for each finding."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydrakit.data.dicom import Header, index_headers, read_pixels, series_facts, walk
from hydrakit.data.dicom_geometry import Location, has_plane, in_volume, nearest_slice
from hydrakit.errors import DataError
from hydrakit.hooks import OptionValue, Sample, Unusable
from hydrakit_prostatex.series import HighB, high_b_series
from hydrakit_prostatex.tables import (
    FINDINGS,
    IMAGES,
    Finding,
    ListedSeries,
    find_table,
    read_findings,
    read_listed_series,
)

NO_IMAGE = "no image"
NOT_AS_LISTED = "no series with the listed number and description"
NO_HIGH_B = "no high-b diffusion series"
NO_GEOMETRY = "images without position in the patient"
OUTSIDE = "lesion outside the volume"
NO_INSTANCE = "no slice with InstanceNumber k + 1"
UNREADABLE = "image file cannot be read"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A high-b volume that holds a finding, and the slice that shows it."""

    high: HighB
    images: Sequence[Header]
    header: Header
    location: Location


def read(root: Path, options: Mapping[str, OptionValue]) -> Iterator[Sample | Unusable]:
    """Every finding of the training set, once, in the order of the official table.

    Raises:
        DataError: A table is missing or wrong, or the header of an image is broken.
    """
    files = list(walk(root))
    findings = read_findings(find_table(files, FINDINGS, root))
    listed = read_listed_series(find_table(files, IMAGES, root))
    patients: defaultdict[str, list[Header]] = defaultdict(list)
    for header in index_headers(root):
        patients[header.patient_id.casefold()].append(header)
    for finding in findings:
        headers = patients.get(finding.key[0].casefold(), [])
        yield _case(finding, headers, listed.get(finding.key, []), by=str(options["slice"]))


def _case(
    finding: Finding, headers: Sequence[Header], listed: Sequence[ListedSeries], *, by: str
) -> Sample | Unusable:
    key = "/".join(finding.key)
    shown = _show(finding, headers, listed)
    if isinstance(shown, str):
        return Unusable(key=key, reason=shown)
    header = shown.header
    centre = (shown.location.row, shown.location.column)
    if by == "instance":
        i, j, k = _listed_ijk(shown, listed)
        same = [h for h in shown.images if has_plane(h) and h.instance_number == k + 1]
        if len(same) != 1:
            return Unusable(key=key, reason=NO_INSTANCE)
        header, centre = same[0], (float(j), float(i))
    try:
        image = read_pixels(header.path)
    except DataError as error:
        _log.warning("prostatex: %s is left out: %s", key, error)
        return Unusable(key=key, reason=UNREADABLE)
    return Sample(
        image=image,
        label=int(finding.significant),
        patient=finding.key[0],
        key=key,
        centre=centre,
        spacing=header.spacing,
        source=(header.path,),
    )


def _show(
    finding: Finding, headers: Sequence[Header], listed: Sequence[ListedSeries]
) -> _Shown | str:
    """Where a finding is seen best; a reason where it is not seen.

    Of several volumes that hold the finding (a second study, a repeated scan): a computed one
    before an acquired one, a higher b-value before a lower one, and then the one with a plane
    nearest to the finding. A position marked on a scan lies in one of its planes, and not, as a
    rule, in those of its repetition.
    """
    if not headers:
        return NO_IMAGE
    wanted = {(series.number, series.description) for series in listed}
    there = [
        facts for facts in series_facts(headers) if (facts.number, facts.description) in wanted
    ]
    if not there:
        return NOT_AS_LISTED
    candidates = high_b_series(there)
    if not candidates:
        return NO_HIGH_B
    seen: list[_Shown] = []
    placed = False
    for high in candidates:
        images = [h for h in headers if h.series_uid == high.series.series_uid]
        images = [h for h in images if high.b_value in (None, h.b_value)]
        placed = placed or any(map(has_plane, images))
        nearest = nearest_slice(images, finding.position)
        if nearest and in_volume(images, *nearest):
            seen.append(_Shown(high, images, *nearest))
    if not seen:
        return OUTSIDE if placed else NO_GEOMETRY
    # min keeps the order of preference among equals; 0.01 mm is below what positions can tell.
    return min(seen, key=lambda shown: (-shown.high.rank, round(abs(shown.location.distance), 2)))


def _listed_ijk(shown: _Shown, listed: Sequence[ListedSeries]) -> tuple[int, int, int]:
    """The listed voxel of the shown volume.

    Where two studies have a series of one number and description, both are listed for a finding:
    the row of the right one names the pixel that geometry gives.
    """
    facts = shown.high.series
    rows = [s for s in listed if (s.number, s.description) == (facts.number, facts.description)]
    return min(
        (series.ijk for series in rows),
        key=lambda ijk: abs(ijk[0] - shown.location.column) + abs(ijk[1] - shown.location.row),
    )
