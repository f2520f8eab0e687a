"""Which series of an exam is the sequence that is asked for: pure functions over facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hydrakit.data.dicom import SeriesFacts

# Values of ImageType that tell a map or a montage from a diffusion-weighted image; and how
# descriptions name them.
_NOT_WEIGHTED = frozenset({"ADC", "FA", "MOSAIC", "TENSOR"})
_MAP = re.compile(r"(^|_)(ADC|FA|TENSOR)(_|$)")
_ADC = re.compile(r"(^|_)ADC(_|$)")
_COMPUTED = "CALC_BVAL"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A series, and which of its images are meant.

    Attributes:
        series: The series.
        b_value: Only the images of this b-value; None means all.
        rank: The higher, the better. Of diffusion images: the b-value, infinite for a computed
            image, and negative where none is told.
    """

    series: SeriesFacts
    b_value: float | None = None
    rank: float = 0.0


def candidates(sequence: str, series: Iterable[SeriesFacts]) -> list[Candidate]:
    """The series among a patient's that are of a sequence (``dwi``, ``t2``, ``adc``), best first.

    ``dwi`` is the diffusion image of the highest b-value: computed series, told by the end of their
    description (``CALC_BVAL``); after them acquired ones, told by the b-values of their images, or
    where no image tells one, by ``diff`` in their description. ADC, FA and mosaic images are told
    by ImageType, or by description. ``t2`` is transverse; ``diffusie`` in its description does not
    make it a diffusion image.
    """
    rule = {"dwi": _dwi, "t2": _t2, "adc": _adc}[sequence]
    found = [candidate for facts in series if facts.modality == "MR" for candidate in rule(facts)]
    return sorted(found, key=lambda c: (-c.rank, c.series.number or 0, c.series.series_uid))


def choose(found: Sequence[Candidate], distances: Mapping[str, float]) -> Candidate | None:
    """The best of the candidates whose volume holds a position; None where none does.

    A better rank comes first, and then the plane that is nearest to the position: a position
    marked on a scan lies in one of its planes, and not, as a rule, in those of a repeated scan.

    Args:
        found: As `candidates` gives them: of equals, the first is taken.
        distances: Of the position from the nearest plane, in millimetres, by SeriesInstanceUID,
            for those series whose volume holds it.
    """
    inside = [each for each in found if each.series.series_uid in distances]
    # 0.01 mm is below what positions can tell.
    return min(
        inside,
        key=lambda each: (-each.rank, round(distances[each.series.series_uid], 2)),
        default=None,
    )


def _dwi(facts: SeriesFacts) -> Iterable[Candidate]:
    name = facts.description.upper()
    if facts.image_types & _NOT_WEIGHTED or _MAP.search(name) or "T2" in name:
        return
    if name.endswith(_COMPUTED):
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
