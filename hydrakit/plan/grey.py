"""How the grey values of a dataset are normalised: a rule, and its numbers."""

from __future__ import annotations

from typing import Self, TypeVar

from pydantic import model_validator

from hydrakit.hooks import Normalise, Window
from hydrakit.schema import Frozen

MAX_CHANNELS = 8  # whose numbers are listed in a text

_WORDS = {
    "patient": "z-score per patient",
    "image": "z-score per image",
    "dataset": "z-score over the training split",
    "none": "none (values as they are)",
}

Pixels = TypeVar("Pixels")


def rule_text(rule: Normalise) -> str:
    """A rule in words, such as ``z-score per patient``."""
    if isinstance(rule, Window):
        return f"window {rule.window[0]:g} to {rule.window[1]:g}"
    return _WORDS[rule]


class GreyValues(Frozen):
    """A rule with its numbers: all that new images need for the same normalisation.

    Attributes:
        normalise: The rule.
        mean: Of ``dataset``: mean of each channel over the whole images of the training split.
        deviation: Of ``dataset``: their standard deviation of each channel.
    """

    normalise: Normalise = "patient"
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        given = self.mean is not None, self.deviation is not None
        if given != ((self.normalise == "dataset",) * 2):
            raise ValueError("mean and deviation belong to the rule dataset, and to no other")
        mean, deviation = self.mean or (), self.deviation or ()
        if len(mean) != len(deviation) or any(each < 0 for each in deviation):
            raise ValueError("each channel needs a mean and a deviation")
        return self

    def clip(self, values: Pixels) -> Pixels:
        """Set normalised values outside of a window to its ends; other rules leave them.

        Args:
            values: Array or tensor of any shape.
        """
        if isinstance(self.normalise, Window):
            clipped: Pixels = values.clip(-1, 1)  # type: ignore[attr-defined]
            return clipped
        return values

    def __str__(self) -> str:
        """The rule and its numbers in words."""
        if self.mean is None or self.deviation is None:
            return rule_text(self.normalise)
        more = ", ..." if len(self.mean) > MAX_CHANNELS else ""
        mean, deviation = (
            ", ".join(f"{number:.6g}" for number in numbers[:MAX_CHANNELS]) + more
            for numbers in (self.mean, self.deviation)
        )
        return f"z-score by mean {mean} and deviation {deviation} of the training split"


PER_PATIENT = GreyValues()
