"""How the grey values of a dataset are normalised: the rule, its form in files, its numbers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from hydrakit.errors import one_line
from hydrakit.hooks import Normalise, Window
from hydrakit.schema import Frozen

NAMED_RULES: tuple[str, ...] = get_args(get_args(Normalise)[0])
"""Rules without numbers: ``patient``, ``image``, ``dataset`` and ``none``."""

MAX_CHANNELS = 8  # whose numbers are listed in a text
MAX_SHOWN = 60  # characters of a wrong value in a message

_WORDS = {
    "patient": "z-score per patient",
    "image": "z-score per image",
    "dataset": "z-score over the training split",
    "none": "none (values as they are)",
}

Values = TypeVar("Values")


def _parse(value: object) -> Any:
    if isinstance(value, Window) or (isinstance(value, str) and value in NAMED_RULES):
        return value
    ends = value.get("window") if isinstance(value, dict) and len(value) == 1 else None
    if isinstance(ends, list | tuple) and len(ends) == 2 and all(map(_is_number, ends)):
        low, high = map(float, ends)
        if low < high:
            return Window(low=low, high=high)
    names = ", ".join(f'"{name}"' for name in NAMED_RULES)
    text = one_line(repr(value), MAX_SHOWN)
    raise ValueError(
        f"{text} is neither {names} nor {{window = [low, high]}}, two numbers of which the first "
        "is the lower one: correct it"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _dump(rule: Normalise) -> Any:
    return {"window": [rule.low, rule.high]} if isinstance(rule, Window) else rule


_SCHEMA = {
    "anyOf": [
        {"enum": list(NAMED_RULES), "type": "string"},
        {
            "additionalProperties": False,
            "properties": {
                "window": {
                    "items": {"type": "number"},
                    "maxItems": 2,
                    "minItems": 2,
                    "type": "array",
                }
            },
            "required": ["window"],
            "type": "object",
        },
    ]
}

GreyRule = Annotated[
    Normalise, PlainValidator(_parse), PlainSerializer(_dump), WithJsonSchema(_SCHEMA)
]
"""A rule in a file: its name, or ``{"window": [low, high]}``."""


def rule_text(rule: Normalise) -> str:
    """A rule in words, such as ``z-score per patient``."""
    if isinstance(rule, Window):
        return f"window {rule.low:g} to {rule.high:g}"
    return _WORDS[rule]


class GreyValues(Frozen):
    """A rule with its numbers: all that new images need for the same normalisation.

    Attributes:
        normalise: The rule.
        mean: Of ``dataset``: mean of each channel over the whole images of the training split.
        deviation: Of ``dataset``: their standard deviation of each channel.
    """

    normalise: GreyRule = "patient"
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

    def clip(self, values: Values) -> Values:
        """Set normalised values outside of a window to its ends; other rules leave them.

        Args:
            values: Array or tensor of any shape.
        """
        if isinstance(self.normalise, Window):
            clipped: Values = values.clip(-1, 1)  # type: ignore[attr-defined]
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
