"""Choice of the series for a requested sequence: pure functions over series facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hydrakit.data.dicom import SeriesFacts

# Values of ImageType of maps and montages, which are not diffusion-weighted images; and how series
# descriptions name them.
_NOT_WEIGHTED = frozenset({"ADC", "FA", "MOSAIC", "TENSOR"})
_MAP = re.compile(r"(^|_)(ADC|FA|TENSOR)(_|$)")
_ADC = re.compile(r"(^|_)ADC(_|$)")
_COMPUTED = "CALC_BVAL"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate series for a sequence, and the images of it to use.

    Attributes:
        series: Facts of the series.
        b_value: b-value of the images to use; None for all images.
        rank: Preference, higher is better. For diffusion images it is the b-value, infinite for a
            computed image, and negative if no b-value is stated.
    """

    series: SeriesFacts
    b_value: float | None = None
    rank: float = 0.0


def is_computed(description: str) -> bool:
    """Whether a series is a computed diffusion image, by its description."""
    return description.upper().endswith(_COMPUTED)


def candidates(sequence: str, series: Iterable[SeriesFacts]) -> list[Candidate]:
    """Return a patient's series that match a sequence (``dwi``, ``t2``, ``adc``), best first.

    ``dwi`` is the diffusion image with the highest b-value: first computed series, recognised by
    the end of their description (``CALC_BVAL``); then acquired series, recognised by the b-values
    of their images or, if no image states one, by ``diff`` in their description. ADC, FA and mosaic
    images are recognised by ImageType or description. ``t2`` is transverse; ``diffusie`` in its
    description does not make it a diffusion image.
    """
    rule = {"dwi": _dwi, "t2": _t2, "adc": _adc}[sequence]
    matches = [candidate for facts in series if facts.modality == "MR" for candidate in rule(facts)]
    return sorted(matches, key=lambda c: (-c.rank, c.series.number or 0, c.series.series_uid))


def choose(series: Sequence[Candidate], distances: Mapping[str, float]) -> Candidate | None:
    """Return the best candidate whose volume contains a position, or None.

    A higher rank is preferred, then the plane nearest to the position: a position marked on a scan
    lies in one of its planes, and usually not in those of a repeated scan.

    Args:
        series: Candidates, as `candidates` sorts them; of equals, the first is chosen.
        distances: Distance from the position to the nearest plane in millimetres, by
            SeriesInstanceUID, for the series whose volume contains the position.
    """
    containing = [each for each in series if each.series.series_uid in distances]
    # 0.01 mm is below the accuracy of positions.
    return min(
        containing,
        key=lambda each: (-each.rank, round(distances[each.series.series_uid], 2)),
        default=None,
    )


def _dwi(facts: SeriesFacts) -> Iterable[Candidate]:
    name = facts.description.upper()
    if facts.image_types & _NOT_WEIGHTED or _MAP.search(name) or "T2" in name:
        return
    if is_computed(facts.description):
        yield Candidate(facts, rank=float("inf"))
    elif facts.b_values and facts.b_values[-1] > 0:
        yield Candidate(facts, facts.b_values[-1], facts.b_values[-1])
    elif not facts.b_values and "DIFF" in name:
        yield Candidate(facts, rank=-1.0)


def _adc(facts: SeriesFacts) -> Iterable[Candidate]:
    if "ADC" in facts.image_types or _ADC.search(facts.description.upper()):
        yield Candidate(facts)


def _t2(facts: SeriesFacts) -> Iterable[Candidate]:
    name = facts.description.upper()
    transverse = facts.plane == "transverse" if facts.plane else "TRA" in name
    if "T2" in name and "LOC" not in name and transverse:
        yield Candidate(facts)
