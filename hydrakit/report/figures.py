"""The figures of training, each with its legend and its content in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydrakit.report.figure import Figure
from hydrakit.report.levels import moving_average, val_interval
from hydrakit.report.markup import Html
from hydrakit.report.svg import COLOURS, Area, Axis, Band, Line, Mark, Point, plot, sample, ticks
from hydrakit.report.tables import number
from hydrakit.results import EpochRecord, RoundResult

BINS = 24
WINDOW = 5  # epochs of the moving average


@dataclass(frozen=True)
class Trained:
    """A round's result, and all its epochs.

    Attributes:
        result: Of the round.
        epochs: In order.
        counts: Validation cases of each of the two classes; None for other tasks.
    """

    result: RoundResult
    epochs: Sequence[EpochRecord]
    counts: Sequence[int] | None = None


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


def auc_figure(rounds: Sequence[Trained], target: str) -> Figure:
    """Validation AUC per epoch over all rounds, and the reference head's (paper, Fig. 4b)."""
    placed = list(_place(rounds))
    found = [
        Line(points=[each.at(epoch, epoch.val.score) for epoch in each.epochs], style=each.colour)
        for each in placed
    ]
    smooth = [
        Line(points=_smooth(line.points), style=line.style)
        for line in found
        if len(line.points) >= WINDOW
    ]
    if smooth:
        found = [Line(points=line.points, style=f"{line.style} thin") for line in found]
    areas = [area for each in placed for area in _val_bands(each)]
    reference = [Line(points=points, style="ink dotted") for points in map(_reference, placed)]
    reference = [line for line in reference if line.points]
    x = _epochs_axis(placed)
    chance = Line(points=[(x.low, 0.5), (x.high, 0.5)], style="faint dashed")
    shown = [*(line.points for line in (chance, *found, *reference)), *(a.points for a in areas)]
    lowest = min(y for points in shown for _, y in points)
    drawing = plot(
        name="auc",
        title="Validation AUC per epoch",
        description=" ".join(map(_auc_words, placed)),
        x=x,
        y=Axis(label="validation AUC", low=min(0.4, math.floor(lowest * 10) / 10), high=1),
        bands=[each.band for each in placed],
        areas=areas,
        lines=[chance, *found, *smooth, *reference],
        marks=[_best_mark(each, each.best.val.score) for each in placed],
    )
    text, key = _auc_key(placed, target, smooth=smooth, areas=areas, reference=reference)
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
    placed: Sequence[_Placed],
    target: str,
    *,
    smooth: Sequence[Line],
    areas: Sequence[Area],
    reference: Sequence[Line],
) -> tuple[str, list[tuple[Html, str]]]:
    """What must be said with the figure, and its legend."""
    key = [*_datasets(placed), (sample("ink", dot=True), "best epoch")]
    text = "Each round on the validation split of its own dataset."
    if smooth:
        key.append((sample("ink thin"), "single epochs"))
        text += f" Thick lines are moving averages over {WINDOW} epochs."
    if areas:
        text += (
            " Shaded: the 95 % interval (Newcombe) that so few validation cases leave around "
            f"{'the moving average' if smooth else 'each epoch'}: differences well within it mean "
            "nothing."
        )
    if reference:
        key.append((sample("ink dotted"), f"first round's head on {target}"))
        text += (
            " The dotted line is the reference: the first round's head on the validation split of "
            f"{target}, as the body changes."
        )
    key.append((sample("faint dashed"), "chance"))
    return text, key


def _smooth(points: Sequence[Point]) -> list[Point]:
    averages = moving_average([y for _, y in points], WINDOW)
    return [(x, average) for (x, _), average in zip(points, averages, strict=True)]


def _val_bands(each: _Placed) -> list[Area]:
    """The interval of each epoch's AUC, around its moving average where there is one."""
    points = [each.at(epoch, epoch.val.auc) for epoch in each.epochs if epoch.val.auc is not None]
    middle = _smooth(points) if len(points) >= WINDOW else points
    ends = [(x, val_interval(y, each.trained.counts)) for x, y in middle]
    known = [(x, end) for x, end in ends if end is not None]
    if len(known) < 2:
        return []
    outline = [(x, high) for x, (_, high) in known] + [(x, low) for x, (low, _) in known[::-1]]
    return [Area(points=outline, style=each.colour)]


def loss_figure(rounds: Sequence[Trained], *, softmax_twice: bool) -> Figure:
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
