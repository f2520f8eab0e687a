"""The figures of training, each with its legend and its content in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hydrakit.report.epochs import (
    WINDOW,
    PlacedRound,
    TrainedRound,
    axis,
    band,
    best_mark,
    datasets,
    place,
    smooth,
)
from hydrakit.report.figure import Figure
from hydrakit.report.markup import Html
from hydrakit.report.svg import COLOURS, Axis, Line, plot, sample, ticks
from hydrakit.report.tables import number

BINS = 24


def auc_figure(rounds: Sequence[TrainedRound]) -> Figure:
    """Validation AUC per epoch over all rounds, each on its own dataset."""
    placed = list(place(rounds))
    series = [([each.at(epoch, epoch.val.score) for epoch in each.epochs], each) for each in placed]
    long = [(points, each) for points, each in series if len(points) >= WINDOW]
    thin = " thin" if long else ""
    found = [Line(points=points, style=f"{each.colour}{thin}") for points, each in series]
    thick = [Line(points=smooth(points), style=each.colour) for points, each in long]
    areas = [
        area for points, each in series for area in band(points, each.trained.counts, each.colour)
    ]
    x = axis(placed)
    chance = Line(points=[(x.low, 0.5), (x.high, 0.5)], style="faint dashed")
    shown = [*(line.points for line in (chance, *found)), *(a.points for a in areas)]
    lowest = min(y for points in shown for _, y in points)
    drawing = plot(
        name="auc",
        title="Validation AUC per epoch",
        description=" ".join(map(_auc_words, placed)),
        x=x,
        y=Axis(label="validation AUC", low=min(0.4, math.floor(lowest * 10) / 10), high=1),
        bands=[each.band for each in placed],
        areas=areas,
        lines=[chance, *found, *thick],
        marks=[best_mark(each, each.best.val.score) for each in placed],
    )
    text, key = _auc_key(placed, smoothed=bool(thick), banded=bool(areas))
    return Figure(
        name="auc",
        caption="Validation AUC per epoch, over all rounds.",
        text=text,
        drawing=drawing,
        key=key,
        columns=("round", "dataset", "trained", "epoch", "val_auc", "reference_auc", "best_epoch"),
        rows=[
            (
                *(each.result.round, each.result.dataset, each.result.train, epoch.epoch),
                *(epoch.val.score, epoch.reference_auc, each.result.best_epoch),
            )
            for each in placed
            for epoch in each.epochs
        ],
    )


def _auc_key(
    placed: Sequence[PlacedRound], *, smoothed: bool, banded: bool
) -> tuple[str, list[tuple[Html, str]]]:
    """What must be said with the figure, and its legend."""
    key = [*datasets(placed), (sample("ink", dot=True), "best epoch")]
    text = "Each round on the validation split of its own dataset."
    if smoothed:
        key.append((sample("ink thin"), "single epochs"))
        text += f" Thick lines are moving averages over {WINDOW} epochs."
    if banded:
        text += (
            " Shaded: the 95 % interval (Newcombe) that so few validation findings leave around "
            f"{'the moving average' if smoothed else 'each epoch'}: differences well within it "
            "mean nothing."
        )
    key.append((sample("faint dashed"), "chance"))
    return text, key


def loss_figure(rounds: Sequence[TrainedRound], *, softmax_twice: bool) -> Figure:
    """Training and validation loss per epoch over all rounds.

    Args:
        rounds: The rounds with their epochs.
        softmax_twice: A round's loss is the cross-entropy of the softmax, as the authors did.
    """
    placed = list(place(rounds))
    lines = []
    for each in placed:
        train = [each.at(epoch, epoch.train.loss) for epoch in each.epochs]
        val = [each.at(epoch, epoch.val.loss) for epoch in each.epochs]
        lines.append(Line(points=train, style=f"{each.colour} dashed"))
        lines.append(Line(points=val, style=each.colour))
    drawing = plot(
        name="loss",
        title="Training and validation loss per epoch",
        description=" ".join(map(_loss_words, placed)),
        x=axis(placed),
        y=Axis(
            label="loss", low=0, high=_round_up(max(y for line in lines for _, y in line.points))
        ),
        bands=[each.band for each in placed],
        lines=lines,
        marks=[best_mark(each, each.best.val.loss) for each in placed],
    )
    key = [
        *datasets(placed),
        (sample("ink"), "validation"),
        (sample("ink dashed"), "training"),
        (sample("ink", dot=True), "best epoch"),
    ]
    text = (
        "Mean cross-entropy. Training loss is taken while weights still move, with dropout and "
        "augmentation on, so it can lie above the validation loss."
    )
    if softmax_twice:
        text += " In rounds whose plan says softmax-cross-entropy the softmax is taken twice."
    return Figure(
        name="loss",
        caption="Loss per epoch, over all rounds.",
        text=text,
        drawing=drawing,
        key=key,
        columns=("round", "dataset", "trained", "epoch", "train_loss", "val_loss"),
        rows=[
            (
                *(each.result.round, each.result.dataset, each.result.train, epoch.epoch),
                *(epoch.train.loss, epoch.val.loss),
            )
            for each in placed
            for epoch in each.epochs
        ],
    )


def histogram(
    name: str, unit: str, values: Sequence[tuple[str, Sequence[float]]], *, bins: int = BINS
) -> Html:
    """How often the values of a fact occur, an outline for each class.

    Args:
        name: Of the fact.
        unit: Of the values, "" for none.
        values: Each class with its cases' values, of which at least two differ.
        bins: How many bars.
    """
    edges = np.linspace(*_ends(values), bins + 1)
    lines = []
    for colour, (_, given) in enumerate(values):
        counts = np.histogram(given, edges)[0].tolist()
        points = [
            (float(edge), count)
            for bar, count in enumerate(counts)
            for edge in (edges[bar], edges[bar + 1])
        ]
        points = [(points[0][0], 0), *points, (points[-1][0], 0)]
        lines.append(Line(points=points, style=f"c{colour % COLOURS}"))
    highest = max(y for line in lines for _, y in line.points)
    drawing = plot(
        name=f"histogram-{name.replace(' ', '-')}",
        title=f"Cases by {name} and class",
        description=" ".join(_spread(label, given) for label, given in values if given),
        x=Axis(label=f"{name} ({unit})" if unit else name, low=edges[0], high=edges[-1]),
        y=Axis(label="cases", low=0, high=_round_up(highest), whole=True),
        lines=lines,
        size=(440, 220),
    )
    key = [(sample(line.style), label) for line, (label, _) in zip(lines, values, strict=True)]
    return Figure(
        name=f"histogram-{name.replace(' ', '-')}",
        caption=f"{name.capitalize()}.",
        text="",
        drawing=drawing,
        key=key,
        columns=("class", name),
        rows=[(label, value) for label, given in values for value in given],
    ).html()


def _ends(values: Sequence[tuple[str, Sequence[float]]]) -> tuple[float, float]:
    every = [value for _, given in values for value in given]
    return min(every), max(every)


def _spread(label: str, values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{label}: {low:.4g} to {high:.4g}, median {middle:.4g}, {len(values)} cases."


def _round_up(value: float) -> float:
    """The end of an axis from 0 that holds a value and ends at a tick."""
    if value <= 0:
        return 1.0
    marked = ticks(Axis(label="", low=0, high=value))
    return marked[-1] if marked[-1] >= value else round(marked[-1] + marked[1], 12)


def _auc_words(each: PlacedRound) -> str:
    result, last = each.result, each.epochs[-1]
    return (
        f"Round {result.round}, {result.dataset}, {result.train}: {number(each.best.val.score)} in "
        f"the best epoch, {result.best_epoch} of {result.epochs}; {number(last.val.score)} in the "
        "last."
    )


def _loss_words(each: PlacedRound) -> str:
    result, first, last = each.result, each.epochs[0], each.epochs[-1]
    return (
        f"Round {result.round}, {result.dataset}, {result.train}: validation loss from "
        f"{number(first.val.loss)} to {number(last.val.loss)}, training loss from "
        f"{number(first.train.loss)} to {number(last.train.loss)}."
    )
