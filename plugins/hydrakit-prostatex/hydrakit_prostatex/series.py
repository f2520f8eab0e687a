"""Which series of an exam holds its highest-b diffusion image: a pure function over facts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hydrakit.data.dicom import SeriesFacts

# Values of ImageType that tell a map or a montage from a diffusion-weighted image.
_NOT_WEIGHTED = frozenset({"ADC", "FA", "MOSAIC", "TENSOR"})
_COMPUTED = "CALC_BVAL"


@dataclass(frozen=True, slots=True)
class HighB:
    """A series, and which of its images are meant.

    Attributes:
        series: The series.
        b_value: Only the images of this b-value; None means all (a computed image).
    """

    series: SeriesFacts
    b_value: float | None

    @property
    def rank(self) -> float:
        """The higher, the better: a computed image comes before every acquired one."""
        return float("inf") if self.b_value is None else self.b_value


def high_b_series(series: Iterable[SeriesFacts]) -> list[HighB]:
    """The high-b diffusion series among a patient's series, the better first.

    Computed series are told by the end of their description, ``CALC_BVAL``. After them come
    acquired ones, told by the b-values of their images and by ImageType, those with the highest
    b-value first. The words of a description tell nothing more: most protocols do not say
    ``ep2d_diff``, and a T2 series says ``diffusie``.
    """
    found = []
    for facts in series:
        if facts.modality != "MR" or facts.image_types & _NOT_WEIGHTED:
            continue
        if facts.description.upper().endswith(_COMPUTED):
            found.append(HighB(facts, None))
        elif facts.b_values and facts.b_values[-1] > 0:
            found.append(HighB(facts, facts.b_values[-1]))
    return sorted(
        found, key=lambda high: (-high.rank, high.series.number or 0, high.series.series_uid)
    )
