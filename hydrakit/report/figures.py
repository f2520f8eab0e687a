"""The figures of the report, each with its legend and its content in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydrakit.report.markup import Html, element
from hydrakit.report.roc import Curve
from hydrakit.report.svg import COLOURS, Axis, Band, Line, Mark, Point, legend, plot, sample, ticks
from hydrakit.report.tables import number
from hydrakit.results import EpochRecord, RoundResult

BINS = 24
DOTS = 60  # a curve of more points than this is drawn without a dot on each


@dataclass(frozen=True)
class Trained:
    """A round's result, and all its epochs."""

    result: RoundResult
    epochs: Sequence[EpochRecord]


@dataclass(frozen=True)
class _Placed:
    """A round on the common axis of epochs, after ``before`` epochs of the rounds before it."""

    trained: Trained
    before: int
    colour: str

    @property
    def result(self) -> RoundResult:
        return self.trained.result

    @property
    def epochs(self) -> Sequence[EpochRecord]:
        return self.trained.epochs

    @property
    def best(self) -> EpochRecord:
        return self.epochs[self.result.best_epoch - 1]

    @property
    def band(self) -> Band:
        labels = (str(self.result.round), self.result.dataset, self.result.train)
        return Band(low=self.before + 0.5, high=self.before + len(self.epochs) + 0.5, labels=labels)

    def at(self, epoch: EpochRecord, value: float) -> Point:
        return self.before + epoch.epoch, value


def figure(caption: str, text: str, *, drawing: Html, key: Sequence[tuple[Html, str]]) -> Html:
    """A drawing with its caption and its legend: samples, and what each stands for."""
    return element(
        "figure",
        element("figcaption", element("b", caption), " ", text),
        legend(key),
        element("div", drawing, class_="scroll", role="region", tabindex=0, aria_label=caption),
    )


def auc_figure(rounds: Sequence[Trained], target: str) -> Html:
    """Validation AUC per epoch over all rounds, and the reference head's (paper, Fig. 4b)."""
    placed = list(_place(rounds))
    found = [
        Line(points=[each.at(epoch, epoch.val.score) for epoch in each.epochs], style=each.colour)
        for each in placed
    ]
    reference = [Line(points=points, style="ink dotted") for points in map(_reference, placed)]
    reference = [line for line in reference if line.points]
    x = _epochs_axis(placed)
    chance = Line(points=[(x.low, 0.5), (x.high, 0.5)], style="faint dashed")
    lowest = min(y for line in [chance, *found, *reference] for _, y in line.points)
    drawing = plot(
        name="auc",
        title="Validation AUC per epoch",
        description=" ".join(map(_auc_words, placed)),
        x=x,
        y=Axis(label="validation AUC", low=min(0.4, math.floor(lowest * 10) / 10), high=1),
        bands=[each.band for each in placed],
        lines=[chance, *found, *reference],
        marks=[_best_mark(each, each.best.val.score) for each in placed],
    )
    key = [*_datasets(placed), (sample("ink", dot=True), "best epoch")]
    text = "Each round on the validation split of its own dataset."
    if reference:
        key.append((sample("ink dotted"), f"first round's head on {target}"))
        text += (
            " The dotted line is the reference: the first round's head on the validation split of "
            f"{target}, as the body changes."
        )
    key.append((sample("faint dashed"), "chance"))
    return figure(
        "Figure 1. Validation AUC per epoch, over all rounds.", text, drawing=drawing, key=key
    )


def loss_figure(rounds: Sequence[Trained], *, softmax_twice: bool) -> Html:
    """Training and validation loss per epoch over all rounds.

    Args:
        rounds: The rounds with their epochs.
        softmax_twice: A round's loss is the cross-entropy of the softmax, as the authors did.
    """
    placed = list(_place(rounds))
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
        x=_epochs_axis(placed),
        y=Axis(
            label="loss", low=0, high=_round_up(max(y for line in lines for _, y in line.points))
        ),
        bands=[each.band for each in placed],
        lines=lines,
        marks=[_best_mark(each, each.best.val.loss) for each in placed],
    )
    key = [
        *_datasets(placed),
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
    return figure("Figure 2. Loss per epoch, over all rounds.", text, drawing=drawing, key=key)


def roc_figure(curves: Sequence[Curve], dataset: str) -> Html:
    """The ROC of the test split: one line per class, and what a step of it is."""
    colours = [f"c{place % COLOURS}" for place in range(len(curves))]
    coloured = list(zip(curves, colours, strict=True))
    chance = Line(points=[(0, 0), (1, 1)], style="faint dashed")
    title = f"ROC on the test split of {dataset}"
    drawing = plot(
        name="roc",
        title=title,
        description=" ".join(f"{_area(curve)}. {_steps(curve)}" for curve in curves),
        x=Axis(label="false positive rate (1 − specificity)", low=0, high=1),
        y=Axis(label="true positive rate (sensitivity)", low=0, high=1),
        lines=[chance, *(Line(points=curve.points, style=style) for curve, style in coloured)],
        marks=[mark for curve, style in coloured for mark in _roc_marks(curve, style)],
        size=(400, 400),
    )
    key = [(sample(style), _area(curve)) for curve, style in coloured]
    key.append((sample("faint dashed"), "chance"))
    text = (
        _steps(curves[0])
        if len(curves) == 1
        else "Each class against the rest: a step up is one case of the class, a step to the "
        "right one of the others."
    )
    text += " A slanted piece is cases with equal scores."
    return figure(f"Figure 3. {title}.", text, drawing=drawing, key=key)


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
    for place, (_, given) in enumerate(values):
        counts = np.histogram(given, edges)[0].tolist()
        points = [
            (float(edge), count)
            for bar, count in enumerate(counts)
            for edge in (edges[bar], edges[bar + 1])
        ]
        points = [(points[0][0], 0), *points, (points[-1][0], 0)]
        lines.append(Line(points=points, style=f"c{place % COLOURS}"))
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
    return figure(f"{name.capitalize()}.", "", drawing=drawing, key=key)


def _ends(values: Sequence[tuple[str, Sequence[float]]]) -> tuple[float, float]:
    every = [value for _, given in values for value in given]
    return min(every), max(every)


def _spread(label: str, values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{label}: {low:.4g} to {high:.4g}, median {middle:.4g}, {len(values)} cases."


def _roc_marks(curve: Curve, style: str) -> list[Mark]:
    """A dot on each point, where there are not too many of them."""
    if len(curve.points) > DOTS:
        return []
    area = curve.area
    return [
        Mark(
            at=(false, true),
            text=f"{area.class_name}: {round(true * area.positives)} of {area.positives} found, "
            f"{round(false * area.negatives)} of {area.negatives} false alarms",
            style=f"{style} plain",
            radius=2.5,
        )
        for false, true in curve.points
    ]


def _area(curve: Curve) -> str:
    area = curve.area
    return f"{area.class_name}: AUC {number(area.auc)} ({number(area.low)} to {number(area.high)})"


def _steps(curve: Curve) -> str:
    area = curve.area
    return (
        f"A step up is 1 of {area.positives} positive cases ({number(1 / area.positives)}), a "
        f"step to the right 1 of {area.negatives} negative cases ({number(1 / area.negatives)})."
    )


def _place(rounds: Sequence[Trained]) -> Iterator[_Placed]:
    """The rounds one after another; each dataset has a colour."""
    names = list(dict.fromkeys(each.result.dataset for each in rounds))
    before = 0
    for each in rounds:
        yield _Placed(each, before, f"c{names.index(each.result.dataset) % COLOURS}")
        before += len(each.epochs)


def _datasets(placed: Sequence[_Placed]) -> list[tuple[Html, str]]:
    colours = {each.result.dataset: each.colour for each in placed}
    return [(sample(colour), name) for name, colour in colours.items()]


def _reference(each: _Placed) -> list[Point]:
    """The reference head's AUCs; none in the round that makes that head."""
    return [
        each.at(epoch, epoch.reference_auc)
        for epoch in each.epochs
        if epoch.reference_auc is not None
    ]


def _best_mark(each: _Placed, value: float) -> Mark:
    text = f"round {each.result.round}, best epoch {each.best.epoch}: {number(value)}"
    return Mark(at=each.at(each.best, value), text=text, style=each.colour)


def _epochs_axis(placed: Sequence[_Placed]) -> Axis:
    label = "epoch, counted over all rounds"
    return Axis(label=label, low=0.5, high=placed[-1].band.high, whole=True)


def _round_up(value: float) -> float:
    """The end of an axis from 0 that holds a value and ends at a tick."""
    if value <= 0:
        return 1.0
    marked = ticks(Axis(label="", low=0, high=value))
    return marked[-1] if marked[-1] >= value else round(marked[-1] + marked[1], 12)


def _auc_words(each: _Placed) -> str:
    result, last = each.result, each.epochs[-1]
    words = (
        f"Round {result.round}, {result.dataset}, {result.train}: {number(each.best.val.score)} in "
        f"the best epoch, {result.best_epoch} of {result.epochs}; {number(last.val.score)} in the "
        "last"
    )
    if each.best.reference_auc is None:
        return f"{words}."
    return f"{words}; reference head {number(each.best.reference_auc)} in the best epoch."


def _loss_words(each: _Placed) -> str:
    result, first, last = each.result, each.epochs[0], each.epochs[-1]
    return (
        f"Round {result.round}, {result.dataset}, {result.train}: validation loss from "
        f"{number(first.val.loss)} to {number(last.val.loss)}, training loss from "
        f"{number(first.train.loss)} to {number(last.train.loss)}."
    )
