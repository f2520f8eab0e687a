"""Channels of images: how datasets with different numbers of them train one body."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError, command_line
from hydrakit.hooks import ChannelRule

COLOUR = 3  # channels of an image in colour: red, green and blue
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ImageChannels:
    """Channels of a dataset's images.

    Attributes:
        count: Number of channels.
        stacked: Whether they come from several files, such as several sequences of an exam.
    """

    count: int
    stacked: bool = False

    @property
    def colour(self) -> bool:
        """Whether the images are taken for colour: three channels from one file."""
        return self.count == COLOUR and not self.stacked


@dataclass(frozen=True)
class ChannelFit:
    """How the images of a dataset become input of a body with another number of channels.

    Attributes:
        rule: What is done with the images.
        images: Number of channels of the images.
        body: Number of channels that the body takes.
    """

    rule: ChannelRule
    images: int
    body: int

    @property
    def repeat(self) -> int:
        """How often a patch's single channel is repeated; 1 if it is not."""
        return self.body if self.rule == "repeat" else 1

    def __str__(self) -> str:
        """The rule with the numbers, such as ``stem 3 -> 1``."""
        return f"{self.rule} {self.images} -> {self.body}"


def fit_channels(
    images: Mapping[str, ImageChannels],
    rules: Mapping[str, ChannelRule | None],
    *,
    trained: Collection[str],
    allowed: Collection[int] | None = None,
) -> tuple[int, dict[str, ChannelFit]]:
    """Choose the number of channels of a body, and what becomes of the images that have another.

    * ``grey`` turns colour (3 channels) into luminance, whatever the other datasets are.
    * The body takes the smallest number of channels among the datasets that train it, after
      ``grey``. Datasets with ``repeat`` or ``stem`` adapt to the others, so they do not count
      unless all have such a rule. If its kind does not take that number, it takes the next larger
      one that it can, or its largest.
    * A dataset with that number stays as it is.
    * ``repeat`` repeats one channel, ``stem`` puts a convolution of the dataset's own before the
      body.
    * Without a rule, colour becomes ``grey`` if other images of the plan have one channel, and the
      kind of body takes one, or if it takes nothing else. A single channel is repeated. Any other
      dataset, such as a stack of sequences, gets a ``stem``.

    Args:
        images: Channels of the images of each dataset of a plan.
        rules: Rule of each dataset, from the plan or its adapter; None for none.
        trained: Datasets that train the body.
        allowed: Numbers of channels that the kind of body takes; None for any.

    Returns:
        The number of channels of the body, and the fit of each dataset that needs one.

    Raises:
        DataError: A rule is impossible.
    """
    counts = {name: each.count for name, each in images.items()}
    for name, rule in rules.items():
        if rule == "grey":
            refuse_no_grey(name, counts[name])
            counts[name] = 1
    adapting = {name for name, rule in rules.items() if rule in ("repeat", "stem")}
    single = any(count == 1 for name, count in counts.items() if name not in adapting)
    grey = {name for name, rule in rules.items() if rule == "grey"}
    if allowed is not None:
        single = 1 in allowed and (single or len(allowed) == 1)
    if single:
        grey |= {name for name, each in images.items() if each.colour and rules[name] is None}
    counts.update(dict.fromkeys(grey, 1))
    settled = [counts[name] for name in trained if name not in adapting]
    body = min(settled or [counts[name] for name in trained])
    if allowed is not None and body not in allowed:
        body = min((each for each in allowed if each > body), default=max(allowed))
    fits = {name: ChannelFit("grey", images[name].count, 1) for name in grey}
    for name in trained:
        if counts[name] == body:
            continue
        rule = rules[name] or ("repeat" if counts[name] == 1 else "stem")
        if rule == "grey" or (rule == "repeat" and counts[name] != 1):
            raise _impossible(name, rule, counts[name], body)
        fits[name] = ChannelFit(rule, counts[name], body)
    return body, {name: fits[name] for name in images if name in fits}


def refuse_no_grey(dataset: str, channels: int) -> None:
    """Raise DataError if images of a dataset have no luminance: 1 or 3 channels have one."""
    if channels not in (1, COLOUR):
        raise DataError(
            f"{dataset}: channels = grey: its images have {channels} channels, and only {COLOUR} "
            f"(red, green, blue) have a luminance: {_remedy(dataset, 'stem')}"
        )


def _impossible(dataset: str, rule: ChannelRule, channels: int, body: int) -> DataError:
    given = "its images have" if rule == "repeat" else "its images then have"
    able = "only a single channel can be repeated" if rule == "repeat" else "that is not enough"
    return DataError(
        f"{dataset}: channels = {rule}: {given} {channels} channel{'s' * (channels > 1)}, and the "
        f"body takes {body}: {able}: {_remedy(dataset, 'stem')}"
    )


def _remedy(dataset: str, rule: str) -> str:
    return f"use `{command_line('--set', f'datasets.{dataset}.channels={rule}')}`"


def note_of(dataset: str, fit: ChannelFit, *, stacked: bool) -> str:
    """Say in one sentence what becomes of the channels of a dataset, and how to change it."""
    kind = "stacks" if stacked else "images"
    what = {
        "grey": "are converted to grey (luminance)",
        "repeat": f"are repeated ({fit.images} -> {fit.body})",
        "stem": f"get a stem of their own ({fit.images} -> {fit.body})",
    }[fit.rule]
    other = "stem" if fit.rule != "stem" else "repeat" if fit.images == 1 else None
    if fit.rule == "stem" and fit.images == COLOUR and not stacked:
        other = "grey"
    change = f"; to change it, {_remedy(dataset, other)}" if other else ""
    plural = "s" * (fit.images > 1)
    return f"{dataset}: its {kind} of {fit.images} channel{plural} {what}{change}"


def luminance(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Luminance ``(1, height, width)`` of an image in colour: red, green and blue."""
    red, green, blue = (
        plane * np.float32(weight) for plane, weight in zip(image, LUMINANCE, strict=True)
    )
    grey: NDArray[np.float32] = (red + green + blue)[np.newaxis]
    return grey
