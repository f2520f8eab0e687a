"""From the tables and the DICOM images to one case for each finding."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.dicom import (
    Header,
    MissingCodecError,
    index_headers,
    read_pixels,
    series_facts,
    walk,
)
from hydrakit.data.dicom.geometry import (
    Location,
    frame_in,
    has_plane,
    in_volume,
    nearest_slice,
    resample,
    sorted_stack,
)
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit_prostatex.authors import authors_slice
from hydrakit_prostatex.series import Candidate, candidates, choose
from hydrakit_prostatex.tables import (
    Finding,
    FindingKey,
    ListedSeries,
    Tables,
    find_table,
    read_findings,
    read_listed_series,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit_prostatex import ProstateOptions

NO_IMAGE = "no image"
NOT_AS_LISTED = "no series with the listed number and description"
NO_SERIES = {
    "dwi": "no high-b diffusion series",
    "t2": "no transverse T2 series",
    "adc": "no ADC series",
}
NO_B_VALUE = "diffusion images that do not tell their b-value"
NO_GEOMETRY = "images without position in the patient"
OUTSIDE = "lesion outside the volume"
NO_INSTANCE = "no slice with InstanceNumber k + 1"
UNREADABLE = "image file cannot be read"

# The grid that several sequences share. Its pixels are those of the T2 images, and of what is
# prepared of 65 mm at twice 65 pixels. Such a prepared patch is 85 mm wide; 100 mm leave room for
# other patch sizes. The side is even, so that a prepared patch's pixels are the grid's own.
GRID_SPACING = 0.5
GRID_SIDE = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Options:
    """The adapter's options, taken apart."""

    sequences: tuple[str, ...]
    by_instance: bool
    as_authors: bool

    def pixels(self, header: Header) -> NDArray[np.float32]:
        """A slice's pixels, in the chosen intensities."""
        if self.as_authors:
            return authors_slice(header.path).astype(np.float32)
        return read_pixels(header.path)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A volume that holds a finding, and the slice that shows it."""

    candidate: Candidate
    images: Sequence[Header]
    header: Header
    location: Location


def read(
    root: Path, options: ProstateOptions, sets: Mapping[str, Tables]
) -> Iterator[Sample | Unusable]:
    """Every finding of the chosen sets, once, in the order of the official tables.

    Args:
        root: The dataset's folder.
        options: Of the adapter.
        sets: The tables of the training set and of the test set.

    Raises:
        DataError: A table is missing or wrong, or the header of an image is broken.
    """
    files = list(walk(root))
    chosen = tuple(sets) if options.set == "all" else (options.set,)
    findings: list[Finding] = []
    listed: dict[FindingKey, list[ListedSeries]] = {}
    for name in chosen:
        tables = sets[name]
        findings += read_findings(find_table(files, tables.findings, root), tables)
        listed |= read_listed_series(find_table(files, tables.images, root))
    patients: defaultdict[str, list[Header]] = defaultdict(list)
    for header in index_headers(root, files=files):
        patients[header.patient_id.casefold()].append(header)
    how = _Options(
        sequences=tuple(options.sequences.split(",")),
        by_instance=options.slice == "instance",
        as_authors=options.intensity == "authors",
    )
    for finding in findings:
        headers = patients.get(finding.patient.casefold(), [])
        yield _case(finding, headers, listed.get(finding.key, []), how=how)


def _case(
    finding: Finding, headers: Sequence[Header], listed: Sequence[ListedSeries], *, how: _Options
) -> Sample | Unusable:
    key = "/".join((finding.patient, finding.fid, finding.pos))
    channels: list[_Shown] = []
    for sequence in how.sequences:
        # A position is of one study's frame of reference, so all channels are of one study.
        study = {channels[0].header.study_uid} if channels else {h.study_uid for h in headers}
        there = [header for header in headers if header.study_uid in study]
        shown = _show(sequence, finding, headers=there, listed=listed)
        if how.by_instance and not isinstance(shown, str):
            shown = _by_instance(shown, listed)
        if isinstance(shown, str):
            return Unusable(key=key, reason=shown)
        channels.append(shown)
    if len(channels) == 1:
        return _one_sequence(finding, key, channels[0], how)
    used: dict[Path, NDArray[np.float32]] = {}

    def pixels(header: Header) -> NDArray[np.float32]:
        if header.path not in used:
            used[header.path] = how.pixels(header)
        return used[header.path]

    try:
        image, centre, spacing = _image(channels, pixels, own_grids=how.by_instance)
    except MissingCodecError:
        raise
    except DataError as error:
        _log.warning("prostatex: %s is left out: %s", key, error)
        return Unusable(key=key, reason=UNREADABLE)
    return Sample(
        image=image,
        label=finding.label,
        patient=finding.patient,
        finding=key,  # two lesions of one slice are two findings
        key=key,
        centre=centre,
        spacing=spacing,
        facts=channels[0].header.facts(),
        subgroups=_subgroups(finding, channels[0].header),
        source=tuple(used),
    )


def _one_sequence(finding: Finding, key: str, shown: _Shown, how: _Options) -> Sample:
    """The slice as it is, read when it is needed."""

    def image() -> NDArray[np.float32]:
        try:
            return how.pixels(shown.header)
        except MissingCodecError:
            raise
        except DataError as error:
            raise DataError(UNREADABLE) from error

    return Sample(
        image=image,
        label=finding.label,
        patient=finding.patient,
        finding=key,  # two lesions of one slice are two findings
        key=key,
        centre=(shown.location.row, shown.location.column),
        spacing=shown.header.spacing,
        facts=shown.header.facts(),
        subgroups=_subgroups(finding, shown.header),
        source=(shown.header.path,),
    )


def _subgroups(finding: Finding, header: Header) -> dict[str, str]:
    zone = {"zone": finding.zone} if finding.zone else {}
    return zone | header.subgroups()


def _image(
    channels: Sequence[_Shown],
    pixels: Callable[[Header], NDArray[np.float32]],
    *,
    own_grids: bool,
) -> tuple[NDArray[np.float32], tuple[float, float], tuple[float, float] | None]:
    """The image of several sequences, where its lesion is, and its spacing.

    They are brought onto one grid in the plane of the first one's slice, around the lesion; or,
    where each slice was chosen by its number and so lies where it lies, each onto a grid of its
    own.
    """
    first = channels[0]
    planes = []
    for shown in channels:
        seen = shown if own_grids else first
        frame = frame_in(seen.header, seen.location, spacing=GRID_SPACING, side=GRID_SIDE)
        planes.append(resample(sorted_stack(shown.images, shown.header), frame, pixels))
    middle = (GRID_SIDE - 1) / 2
    return np.stack(planes), (middle, middle), (GRID_SPACING, GRID_SPACING)


def _show(
    sequence: str, finding: Finding, *, headers: Sequence[Header], listed: Sequence[ListedSeries]
) -> _Shown | str:
    """Where a finding is seen best on a sequence; a reason where it is not seen."""
    if not headers:
        return NO_IMAGE
    wanted = {(series.number, series.description) for series in listed}
    there = [
        facts for facts in series_facts(headers) if (facts.number, facts.description) in wanted
    ]
    if not there:
        return NOT_AS_LISTED
    found = candidates(sequence, there)
    if not found:
        return NO_SERIES[sequence]
    seen: dict[str, _Shown] = {}
    placed = False
    for candidate in found:
        uid = candidate.series.series_uid
        images = [h for h in headers if h.series_uid == uid]
        images = [h for h in images if candidate.b_value in (None, h.b_value)]
        placed = placed or any(map(has_plane, images))
        nearest = nearest_slice(images, finding.position)
        if nearest and in_volume(images, *nearest):
            seen[uid] = _Shown(candidate, images, *nearest)
    best = choose(found, {uid: abs(shown.location.distance) for uid, shown in seen.items()})
    if best is None:
        return OUTSIDE if placed else NO_GEOMETRY
    return NO_B_VALUE if best.rank < 0 else seen[best.series.series_uid]


def _by_instance(shown: _Shown, listed: Sequence[ListedSeries]) -> _Shown | str:
    """The same volume by the slice and the pixel that the authors took: the listed voxel's.

    Where two studies have a series of one number and description, both are listed for a finding:
    the row of the right one names the pixel that geometry gives.
    """
    facts, location = shown.candidate.series, shown.location
    rows = [s for s in listed if (s.number, s.description) == (facts.number, facts.description)]
    i, j, k = min(
        (series.ijk for series in rows),
        key=lambda ijk: abs(ijk[0] - location.column) + abs(ijk[1] - location.row),
    )
    same = [h for h in shown.images if has_plane(h) and h.instance_number == k + 1]
    if len(same) != 1:
        return NO_INSTANCE
    return replace(shown, images=same, header=same[0], location=Location(float(j), float(i), 0.0))
