"""The target's AUC followed through the epochs of all rounds (paper, Fig. 4).

On the test split, where the run was told to trace it (Fig. 4a), and through the head that the first
round ended with on the validation split (Fig. 4b).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydrakit.report.epochs import (
    WINDOW,
    PlacedRound,
    TrainedRound,
    axis,
    band,
    best_mark,
    place,
    smooth,
)
from hydrakit.report.figure import Figure
from hydrakit.report.markup import Html
from hydrakit.report.svg import Axis, Line, Mark, Point, plot, sample
from hydrakit.report.tables import number

OWN, REFERENCE = "c0", "c1"  # the target's own head, and the first round's


@dataclass(frozen=True)
class _Part:
    """What is followed in a round: an AUC for each of its epochs, through one head."""

    placed: PlacedRound
    points: Sequence[Point]
    style: str

    @property
    def best(self) -> float | None:
        """In the epoch whose weights went on."""
        at, _ = self.placed.at(self.placed.best, 0)
        return dict(self.points).get(at)


def reference_figure(rounds: Sequence[TrainedRound], target: str) -> Figure | None:
    """The reference head's validation AUC (Fig. 4b); None where no round followed it.

    Args:
        rounds: That are finished, with their epochs.
        target: The dataset.
    """
    placed = list(place(rounds))
    parts = []
    for each in placed:
        told = [(epoch, epoch.reference_auc) for epoch in each.epochs]
        points = [each.at(epoch, auc) for epoch, auc in told if auc is not None]
        parts.append(_Part(each, points, REFERENCE))
    if not any(part.points for part in parts):
        return None
    first = placed[0]  # the round that makes the head
    made = [first.at(epoch, epoch.val.score) for epoch in first.epochs]
    return _figure(
        [_Part(first, made, OWN), *parts[1:]],
        name="reference",
        caption=f"The first round's head on the validation split of {target}, over all rounds.",
        text=f"After the first round, which makes it, the head stays as it is, and the body changes"
        f" (the paper's Fig. 4b): what later rounds leave of {target} in the body, or add to it. "
        "Where a round trains a head alone, the body stays, and so does the AUC.",
        label="validation AUC",
        counts=first.trained.counts,
        split="validation",
    )


def trace_figure(
    rounds: Sequence[TrainedRound], target: str, *, counts: Sequence[int] | None, readings: int
) -> Figure | None:
    """The target's test AUC after every epoch (Fig. 4a); None where no round was traced.

    Args:
        rounds: That are finished, with their epochs.
        target: The dataset.
        counts: Its test cases of each of the two classes; None for other tasks.
        readings: How often test labels were read for it.
    """
    parts = [
        _Part(
            each,
            [each.at(point, point.test_auc) for point in each.trained.trace],
            OWN if each.result.dataset == target else REFERENCE,
        )
        for each in place(rounds)
    ]
    if not any(part.points for part in parts):
        return None
    return _figure(
        parts,
        name="trace",
        caption=f"Test AUC of {target} after every epoch.",
        text=f"Asked for by --trace-test: the test labels were read {readings} times for it. "
        "Nothing was chosen by them; whoever chooses an epoch or a round by this figure, "
        f"chooses by the test. Rounds on {target} through the head that they train, others through "
        "the first round's (the paper's Fig. 4a).",
        label="test AUC",
        counts=counts,
        split="test",
    )


def _figure(
    parts: Sequence[_Part],
    *,
    name: str,
    caption: str,
    text: str,
    label: str,
    counts: Sequence[int] | None,
    split: str,
) -> Figure:
    placed = [part.placed for part in parts]
    shown = [part for part in parts if part.points]
    long = [part for part in shown if len(part.points) >= WINDOW]
    areas = [area for part in shown for area in band(part.points, counts, part.style)]
    x = axis(placed)
    chance = Line(points=[(x.low, 0.5), (x.high, 0.5)], style="faint dashed")
    thin = " thin" if long else ""
    lines = [Line(points=part.points, style=f"{part.style}{thin}") for part in shown]
    thick = [Line(points=smooth(part.points), style=part.style) for part in long]
    every = [*(line.points for line in (chance, *lines)), *(area.points for area in areas)]
    lowest = min(y for points in every for _, y in points)
    drawing = plot(
        name=name,
        title=caption.removesuffix("."),
        description=" ".join(_words(part) for part in shown),
        x=x,
        y=Axis(label=label, low=min(0.4, math.floor(lowest * 10) / 10), high=1),
        bands=[each.band for each in placed],
        areas=areas,
        lines=[chance, *lines, *thick],
        marks=[mark for part in shown for mark in _mark(part)],
    )
    return Figure(
        name=name,
        caption=caption,
        text=f"{text}{_said(split, smoothed=bool(long), banded=bool(areas))}",
        drawing=drawing,
        key=_key({part.style for part in shown}, smoothed=bool(long)),
        columns=("round", "dataset", "trained", "epoch", "auc", "moving_average", "low", "high"),
        rows=[row for part in shown for row in _rows(part, counts)],
    )


def _said(split: str, *, smoothed: bool, banded: bool) -> str:
    """What the lines and the band are."""
    words = f" Thick lines are moving averages over {WINDOW} epochs of a round." if smoothed else ""
    if banded:
        words += (
            f" Shaded: the 95 % interval (Newcombe) that so few {split} cases leave around "
            f"{'the moving average' if smoothed else 'each epoch'}; epochs are tested on the same "
            "cases, so their differences are surer than the band."
        )
    return words


def _key(styles: set[str], *, smoothed: bool) -> list[tuple[Html, str]]:
    heads = ((OWN, "the head that the round trains"), (REFERENCE, "the first round's head"))
    key = [(sample(style), words) for style, words in heads if style in styles]
    if smoothed:
        key.append((sample("ink thin"), "single epochs"))
    return [
        *key,
        (sample("ink", dot=True), "best epoch by validation"),
        (sample("faint dashed"), "chance"),
    ]


def _mark(part: _Part) -> list[Mark]:
    return [] if part.best is None else [best_mark(part.placed, part.best, part.style)]


def _words(part: _Part) -> str:
    result, last = part.placed.result, part.points[-1][1]
    return (
        f"Round {result.round}, {result.dataset}, {result.train}: {number(part.best)} in the best "
        f"epoch by validation, {result.best_epoch} of {result.epochs}; {number(last)} in the last."
    )


def _rows(part: _Part, counts: Sequence[int] | None) -> list[tuple[int | str | float | None, ...]]:
    result = part.placed.result
    averages = smooth(part.points)
    areas = band(part.points, counts, part.style)
    outline = areas[0].points if areas else ()
    count = len(outline) // 2
    highs, lows = outline[:count], outline[count:][::-1]
    ends = [(low, high) for (_, low), (_, high) in zip(lows, highs, strict=True)]
    return [
        (
            *(result.round, result.dataset, result.train, int(x) - part.placed.before),
            *(auc, average, *(ends[at] if ends else (None, None))),
        )
        for at, ((x, auc), (_, average)) in enumerate(zip(part.points, averages, strict=True))
    ]
