"""Reading of the tables and DICOM images: one case for each finding."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
    OTHER_FRAME,
    SEVERAL_IN_PLANE,
    ImageFrame,
    Location,
    crosses_gap,
    frame_in,
    has_plane,
    in_other_frame,
    in_volume,
    is_missing,
    nearest_slice,
    resample,
    sorted_stack,
    stack_fault,
)
from hydrakit.data.identity import normal_name
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit_prostatex.authors import authors_slice
from hydrakit_prostatex.series import Candidate, candidates, choose, is_computed
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
NO_B_VALUE = "diffusion images without a b-value"
NO_GEOMETRY = "images without position in the patient"
OUTSIDE = "lesion outside the volume"
MISSING_SLICE = "the lesion's slice is missing from its series"
MISSING_SERIES = "the computed diffusion series that the table lists is missing"
NO_INSTANCE = "no slice with InstanceNumber k + 1"
UNREADABLE = "image file cannot be read"

# The common grid of several sequences. Its pixel size equals that of the T2 images, and that of
# prepared patches of 65 mm at twice 65 pixels. Such a prepared patch is 85 mm wide; 100 mm leave
# room for other patch sizes. The side is even, so that a prepared patch's pixels are the grid's.
GRID_SPACING = 0.5
GRID_SIDE = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Options:
    """Parsed options of the adapter."""

    sequences: tuple[str, ...]
    by_instance: bool
    intensity: str

    def pixels(self, header: Header) -> NDArray[np.float32]:
        """Read a slice's pixels in the chosen intensities."""
        if self.intensity == "authors":
            return authors_slice(header.path).astype(np.float32)
        return read_pixels(header.path, rescale=None if self.intensity == "rescaled" else False)


@dataclass(frozen=True, slots=True)
class _LesionSlice:
    """A volume that contains a finding, and the slice and location of the finding in it."""

    candidate: Candidate
    images: Sequence[Header]
    header: Header
    location: Location


def read(
    root: Path, options: ProstateOptions, sets: Mapping[str, Tables]
) -> Iterator[Sample | Unusable]:
    """Yield every finding of the chosen sets once, in the order of the official tables.

    Args:
        root: Folder of the dataset.
        options: Options of the adapter.
        sets: Tables of the training set and of the test set.

    Raises:
        DataError: A table is missing or invalid, or the header of an image is broken.
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
        patients[normal_name(header.patient_id)].append(header)
    settings = _Options(
        sequences=tuple(options.sequences.split(",")),
        by_instance=options.slice == "instance",
        intensity=options.intensity,
    )
    for finding in findings:
        headers = patients.get(normal_name(finding.patient), [])
        yield _case(finding, headers, listed.get(finding.key, []), settings=settings)


def _case(
    finding: Finding,
    headers: Sequence[Header],
    listed: Sequence[ListedSeries],
    *,
    settings: _Options,
) -> Sample | Unusable:
    key = "/".join((finding.patient, finding.fid, finding.pos))
    channels: list[_LesionSlice] = []
    for sequence in settings.sequences:
        # A position belongs to one study's frame of reference, so all channels are of one study.
        studies = {channels[0].header.study_uid} if channels else {h.study_uid for h in headers}
        study_headers = [header for header in headers if header.study_uid in studies]
        lesion = _find_slice(sequence, finding, headers=study_headers, listed=listed)
        if settings.by_instance and not isinstance(lesion, str):
            lesion = _by_instance(lesion, listed)
        if isinstance(lesion, str):
            return Unusable(key=key, reason=lesion)
        if channels and in_other_frame(channels[0].header, lesion.header):
            return Unusable(key=key, reason=OTHER_FRAME)
        channels.append(lesion)
    if len(channels) == 1:
        return _one_sequence(finding, key, channels[0], settings)
    read_slices: dict[Path, NDArray[np.float32]] = {}

    def pixels(header: Header) -> NDArray[np.float32]:
        if header.path not in read_slices:
            read_slices[header.path] = settings.pixels(header)
        return read_slices[header.path]

    stacks = _stacks(channels, own_grids=settings.by_instance)
    if any(crosses_gap(slices, frame) for slices, frame in stacks):
        return Unusable(key=key, reason=MISSING_SLICE)
    try:
        image = np.stack([resample(slices, frame, pixels) for slices, frame in stacks])
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
        centre=((GRID_SIDE - 1) / 2, (GRID_SIDE - 1) / 2),
        spacing=(GRID_SPACING, GRID_SPACING),
        facts=channels[0].header.facts(),
        subgroups=_subgroups(finding, channels[0].header),
        source=tuple(read_slices),
    )


def _one_sequence(finding: Finding, key: str, lesion: _LesionSlice, settings: _Options) -> Sample:
    """Return a sample of one slice, whose pixels are read on demand."""

    def image() -> NDArray[np.float32]:
        try:
            return settings.pixels(lesion.header)
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
        centre=(lesion.location.row, lesion.location.column),
        spacing=lesion.header.spacing,
        facts=lesion.header.facts(),
        subgroups=_subgroups(finding, lesion.header),
        source=(lesion.header.path,),
    )


def _subgroups(finding: Finding, header: Header) -> dict[str, str]:
    zone = {"zone": finding.zone} if finding.zone else {}
    return zone | header.subgroups()


def _stacks(
    channels: Sequence[_LesionSlice], *, own_grids: bool
) -> list[tuple[list[Header], ImageFrame]]:
    """Return the slices of each of several sequences, and the grid onto which they are resampled.

    The lesion is in the middle of the grid, which lies in the plane of the first sequence's slice.
    With ``own_grids``, each sequence has a grid in its own slice's plane, because the slices were
    chosen by number.
    """
    stacks = []
    for lesion in channels:
        target = lesion if own_grids else channels[0]
        frame = frame_in(target.header, target.location, spacing=GRID_SPACING, side=GRID_SIDE)
        stacks.append((sorted_stack(lesion.images, lesion.header), frame))
    return stacks


def _find_slice(
    sequence: str, finding: Finding, *, headers: Sequence[Header], listed: Sequence[ListedSeries]
) -> _LesionSlice | str:
    """Return the best slice of a finding on a sequence, or the reason why there is none."""
    if not headers:
        return NO_IMAGE
    names = {(series.number, series.description) for series in listed}
    present = [
        facts for facts in series_facts(headers) if (facts.number, facts.description) in names
    ]
    if not present:
        return NOT_AS_LISTED
    matches = candidates(sequence, present)
    if not matches:
        return NO_SERIES[sequence]
    slices: dict[str, _LesionSlice] = {}
    incomplete: list[Candidate] = []
    any_plane = False
    for candidate in matches:
        uid = candidate.series.series_uid
        images = [h for h in headers if h.series_uid == uid]
        images = [h for h in images if candidate.b_value in (None, h.b_value)]
        any_plane = any_plane or any(map(has_plane, images))
        nearest = nearest_slice(images, finding.position)
        if nearest and in_volume(images, *nearest):
            slices[uid] = _LesionSlice(candidate, images, *nearest)
        elif nearest and is_missing(images, *nearest, slices=_slice_count(candidate, listed)):
            incomplete.append(candidate)
    best = choose(matches, {uid: abs(each.location.distance) for uid, each in slices.items()})
    # No other series takes the place of a better one: its values would be others.
    if any(best is None or each.rank >= best.rank for each in incomplete):
        return MISSING_SLICE
    if sequence == "dwi" and not (best and is_computed(best.series.description)):
        found = {(facts.number, facts.description) for facts in present}
        if any(is_computed(description) for _, description in names - found):
            return MISSING_SERIES
    if best is None:
        return OUTSIDE if any_plane else NO_GEOMETRY
    if best.rank < 0:
        return NO_B_VALUE
    chosen = slices[best.series.series_uid]
    if stack_fault([chosen.header], chosen.images):
        return SEVERAL_IN_PLANE
    return chosen


def _slice_count(candidate: Candidate, listed: Sequence[ListedSeries]) -> int | None:
    """Return the number of slices that the table states for a series; None if it states none."""
    facts = candidate.series
    counts = {
        series.slices
        for series in listed
        if (series.number, series.description) == (facts.number, facts.description)
    }
    return counts.pop() if len(counts) == 1 else None


def _by_instance(lesion: _LesionSlice, listed: Sequence[ListedSeries]) -> _LesionSlice | str:
    """Replace slice and location by the listed voxel's, which the paper's authors used.

    If two studies have a series with the same number and description, the table lists both for a
    finding: the right row's pixel is the one nearest to the geometric location.
    """
    facts, location = lesion.candidate.series, lesion.location
    rows = [s for s in listed if (s.number, s.description) == (facts.number, facts.description)]
    i, j, k = min(
        (series.ijk for series in rows),
        key=lambda ijk: abs(ijk[0] - location.column) + abs(ijk[1] - location.row),
    )
    same = [h for h in lesion.images if has_plane(h) and h.instance_number == k + 1]
    if len(same) != 1:
        return NO_INSTANCE
    return replace(lesion, images=same, header=same[0], location=Location(float(j), float(i), 0.0))
