"""Figures of training: AUC and loss per epoch, all rounds on one axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydrakit.plan.results import EpochRecord, RoundResult, TracePoint
from hydrakit.report.charts import axis_end
from hydrakit.report.figure import CellContent, Figure
from hydrakit.report.markup import Html
from hydrakit.report.rounds import val_interval
from hydrakit.report.svg import (
    COLOURS,
    Area,
    Axis,
    AxisSpan,
    Line,
    Mark,
    Point,
    legend_sample,
    plot,
)
from hydrakit.report.tables import number

WINDOW = 5  # epochs of the moving average
OWN, REFERENCE = "c0", "c1"  # colours of the head trained in a round, and of the first round's head
CHANCE = (legend_sample("faint dashed"), "chance")


@dataclass(frozen=True)
class RoundCurves:
    """Result of a round, and the records of all its epochs.

    Attributes:
        result: Result of the round.
        epochs: Epoch records in order.
        counts: Validation findings of each of the two classes; None for other tasks.
        trace: Test AUC of the target after every epoch, if the run recorded it.
    """

    result: RoundResult
    epochs: Sequence[EpochRecord]
    counts: Sequence[int] | None = None
    trace: Sequence[TracePoint] = ()


@dataclass(frozen=True)
class PlacedRound:
    """A round on the epoch axis that all rounds share.

    Attributes:
        curves: The round with its epochs.
        offset: Number of epochs in the rounds before it.
        colour: Colour of its dataset, a CSS class.
    """

    curves: RoundCurves
    offset: int
    colour: str

    @property
    def result(self) -> RoundResult:
        """Result of the round."""
        return self.curves.result

    @property
    def epochs(self) -> Sequence[EpochRecord]:
        """Epoch records in order."""
        return self.curves.epochs

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights the round ended with."""
        return self.epochs[self.result.best_epoch - 1]

    @property
    def span(self) -> AxisSpan:
        """Its part of the axis."""
        labels = (str(self.result.round), self.result.dataset, self.result.train)
        end = self.offset + len(self.epochs)
        return AxisSpan(low=self.offset + 0.5, high=end + 0.5, labels=labels)

    def at(self, epoch: EpochRecord | TracePoint, value: float) -> Point:
        """Position of a value; epoch 0, of a round without training, is drawn as epoch 1."""
        return self.offset + max(1, epoch.epoch), value


@dataclass(frozen=True)
class AucSeries:
    """AUC of one head over the epochs of a round.

    Attributes:
        placed: The round.
        points: Epoch (on the common axis) and AUC.
        style: Colour, a CSS class.
        counts: Findings of each of the two classes behind each AUC; None for other tasks.
    """

    placed: PlacedRound
    points: Sequence[Point]
    style: str
    counts: Sequence[int] | None

    @property
    def smooth(self) -> Sequence[Point]:
        """Moving average of the points; the points themselves if there are too few."""
        if len(self.points) < WINDOW:
            return self.points
        averages = moving_average([y for _, y in self.points], WINDOW)
        return [(x, average) for (x, _), average in zip(self.points, averages, strict=True)]

    @property
    def intervals(self) -> list[tuple[float, float, float]]:
        """Epoch and 95 % confidence interval of each smoothed AUC; empty for other tasks."""
        intervals = []
        for x, auc in self.smooth:
            ends = val_interval(auc, self.counts)
            if ends is not None:
                intervals.append((x, *ends))
        return intervals

    @property
    def band(self) -> list[Area]:
        """Confidence band around the smoothed points; none for a single epoch."""
        intervals = self.intervals
        if len(intervals) < 2:
            return []
        upper = [(x, high) for x, _, high in intervals]
        lower = [(x, low) for x, low, _ in intervals]
        return [Area(points=upper + lower[::-1], style=self.style)]

    @property
    def best(self) -> float | None:
        """AUC at the epoch whose weights the round ended with."""
        x, _ = self.placed.at(self.placed.best, 0)
        return dict(self.points).get(x)

    @property
    def description(self) -> str:
        """The series in words."""
        result = self.placed.result
        return (
            f"Round {result.round}, {result.dataset}, {result.train}: AUC {number(self.best)} at "
            f"the best epoch ({result.best_epoch} of {result.epochs}), "
            f"{number(self.points[-1][1])} at the last epoch."
        )


def place_rounds(rounds: Sequence[RoundCurves]) -> list[PlacedRound]:
    """The rounds one after another; each dataset has its own colour."""
    names = list(dict.fromkeys(each.result.dataset for each in rounds))
    placed = []
    offset = 0
    for each in rounds:
        placed.append(PlacedRound(each, offset, f"c{names.index(each.result.dataset) % COLOURS}"))
        offset += len(each.epochs)
    return placed


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Centred moving averages; near the ends the window shrinks on both sides."""
    half = window // 2
    means = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        part = values[index - reach : index + reach + 1]
        means.append(sum(part) / len(part))
    return means


def auc_figure(rounds: Sequence[RoundCurves]) -> Figure:
    """Validation AUC per epoch over all rounds, each on its own dataset."""
    placed = place_rounds(rounds)
    series = [
        AucSeries(
            each,
            [each.at(epoch, epoch.val.score) for epoch in each.epochs],
            each.colour,
            each.curves.counts,
        )
        for each in placed
    ]
    return _auc_figure(
        series,
        name="auc",
        caption="Validation AUC per epoch, all rounds.",
        text="Each round is evaluated on the validation split of its own dataset.",
        label="validation AUC",
        note="differences well within the band are not meaningful",
        key=[*_dataset_key(placed), (legend_sample("ink", dot=True), "best epoch")],
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


def reference_figure(rounds: Sequence[RoundCurves], target: str) -> Figure | None:
    """Validation AUC of the first round's head over all rounds (the paper's Fig. 4b).

    Args:
        rounds: Finished rounds with their epochs.
        target: Target dataset.

    Returns:
        The figure; None if no round recorded this AUC.
    """
    placed = place_rounds(rounds)
    counts = placed[0].curves.counts
    series = []
    for index, each in enumerate(placed):
        aucs = (
            [(epoch, epoch.reference_auc) for epoch in each.epochs]
            if index
            else [(epoch, epoch.val.score) for epoch in each.epochs]
        )
        points = [each.at(epoch, auc) for epoch, auc in aucs if auc is not None]
        series.append(AucSeries(each, points, REFERENCE if index else OWN, counts))
    if not any(each.points for each in series[1:]):
        return None
    return _head_figure(
        series,
        name="reference",
        caption=f"First round's head on the validation split of {target}, all rounds.",
        text="The head is fixed after the first round while the body changes (the paper's "
        "Fig. 4b): the curve shows whether later rounds preserve or improve the body's features "
        f"for {target}. In rounds that train only a head, the body and this AUC are constant.",
        label="validation AUC",
    )


def trace_figure(
    rounds: Sequence[RoundCurves], target: str, *, counts: Sequence[int] | None, readings: int
) -> Figure | None:
    """Test AUC of the target after every epoch (the paper's Fig. 4a).

    Args:
        rounds: Finished rounds with their epochs.
        target: Target dataset.
        counts: Test findings of each of the two classes; None for other tasks.
        readings: How often test labels were read for this figure.

    Returns:
        The figure; None if no round recorded this AUC.
    """
    series = [
        AucSeries(
            each,
            [each.at(point, point.test_auc) for point in each.curves.trace],
            OWN if each.result.dataset == target else REFERENCE,
            counts,
        )
        for each in place_rounds(rounds)
    ]
    if not any(each.points for each in series):
        return None
    return _head_figure(
        series,
        name="trace",
        caption=f"Test AUC of {target} after every epoch.",
        text=f"Requested with --trace-test: the test labels were read {readings} times for this "
        "figure. They did not influence this run; selecting an epoch or a round by this figure "
        f"would be selection on the test split. Rounds on {target} use the head that they train, "
        "other rounds the first round's head (the paper's Fig. 4a).",
        label="test AUC",
    )


def _head_figure(
    series: Sequence[AucSeries], *, name: str, caption: str, text: str, label: str
) -> Figure:
    """AUC of the target through the head trained in a round, or the first round's head."""
    styles = {each.style for each in series if each.points}
    heads = ((OWN, "head trained in the round"), (REFERENCE, "first round's head"))
    return _auc_figure(
        series,
        name=name,
        caption=caption,
        text=text,
        label=label,
        note="epochs are evaluated on the same findings, so differences between epochs are more "
        "precise than the band suggests",
        key=[
            *((legend_sample(style), words) for style, words in heads if style in styles),
            (legend_sample("ink", dot=True), "best epoch (validation)"),
        ],
        columns=("round", "dataset", "trained", "epoch", "auc", "moving_average", "low", "high"),
        rows=[row for each in series if each.points for row in _series_rows(each)],
    )


def _series_rows(series: AucSeries) -> Iterator[tuple[CellContent, ...]]:
    result = series.placed.result
    intervals = {x: (low, high) for x, low, high in (series.intervals if series.band else ())}
    for (x, auc), (_, average) in zip(series.points, series.smooth, strict=True):
        epoch = int(x) - series.placed.offset
        ends = intervals.get(x, (None, None))
        yield result.round, result.dataset, result.train, epoch, auc, average, *ends


def _auc_figure(
    series: Sequence[AucSeries],
    *,
    name: str,
    caption: str,
    text: str,
    label: str,
    note: str,
    key: Sequence[tuple[Html, str]],
    columns: Sequence[str],
    rows: Sequence[Sequence[CellContent]],
) -> Figure:
    """AUC per epoch, with moving averages and confidence bands.

    Args:
        series: One for each round; those without points leave a gap.
        name: Name of the figure.
        caption: Title.
        text: What the figure shows.
        label: Label of the vertical axis.
        note: How to read the band.
        key: First entries of the legend.
        columns: Column names of the numbers.
        rows: Numbers.
    """
    plotted = [each for each in series if each.points]
    long = [each for each in plotted if len(each.points) >= WINDOW]
    bands = [area for each in plotted for area in each.band]
    x = _epoch_axis([each.placed for each in series])
    chance = Line(points=[(x.low, 0.5), (x.high, 0.5)], style="faint dashed")
    thin = " thin" if long else ""
    lines = [Line(points=each.points, style=f"{each.style}{thin}") for each in plotted]
    averages = [Line(points=each.smooth, style=each.style) for each in long]
    outlines = [*(line.points for line in (chance, *lines)), *(area.points for area in bands)]
    lowest = min(y for points in outlines for _, y in points)
    key = list(key)
    if long:
        key.append((legend_sample("ink thin"), "single epochs"))
        text += f" Thick lines: moving averages over {WINDOW} epochs."
    if bands:
        text += (
            f" Shaded: 95 % confidence interval (Newcombe) of "
            f"{'the moving average' if long else 'each epoch'}, given the number of findings; "
            f"{note}."
        )
    return Figure(
        name=name,
        caption=caption,
        text=text,
        drawing=plot(
            name=name,
            title=caption.removesuffix("."),
            description=" ".join(each.description for each in plotted),
            x=x,
            y=Axis(label=label, low=min(0.4, math.floor(lowest * 10) / 10), high=1),
            spans=[each.placed.span for each in series],
            areas=bands,
            lines=[chance, *lines, *averages],
            marks=[
                _best_mark(each.placed, each.best, each.style)
                for each in plotted
                if each.best is not None
            ],
        ),
        key=[*key, CHANCE],
        columns=columns,
        rows=rows,
    )


def loss_figure(rounds: Sequence[RoundCurves], *, softmax_twice: bool) -> Figure:
    """Training and validation loss per epoch over all rounds.

    Args:
        rounds: Finished rounds with their epochs.
        softmax_twice: Whether a round applies the softmax twice, as the authors' code does.
    """
    placed = place_rounds(rounds)
    lines = []
    for each in placed:
        train = [each.at(epoch, epoch.train.loss) for epoch in each.epochs]
        val = [each.at(epoch, epoch.val.loss) for epoch in each.epochs]
        lines.append(Line(points=train, style=f"{each.colour} dashed"))
        lines.append(Line(points=val, style=each.colour))
    highest = max(y for line in lines for _, y in line.points)
    text = (
        "Mean cross-entropy. The training loss is measured while the weights change, with dropout "
        "and augmentation, so it can exceed the validation loss."
    )
    if softmax_twice:
        text += " Rounds with the loss softmax-cross-entropy apply the softmax twice."
    return Figure(
        name="loss",
        caption="Loss per epoch, all rounds.",
        text=text,
        drawing=plot(
            name="loss",
            title="Training and validation loss per epoch",
            description=" ".join(map(_loss_description, placed)),
            x=_epoch_axis(placed),
            y=Axis(label="loss", low=0, high=axis_end(highest)),
            spans=[each.span for each in placed],
            lines=lines,
            marks=[_best_mark(each, each.best.val.loss, each.colour) for each in placed],
        ),
        key=[
            *_dataset_key(placed),
            (legend_sample("ink"), "validation"),
            (legend_sample("ink dashed"), "training"),
            (legend_sample("ink", dot=True), "best epoch"),
        ],
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


def _epoch_axis(placed: Sequence[PlacedRound]) -> Axis:
    return Axis(label="epoch (all rounds)", low=0.5, high=placed[-1].span.high, whole=True)


def _dataset_key(placed: Sequence[PlacedRound]) -> list[tuple[Html, str]]:
    """Legend of the datasets' colours."""
    colours = {each.result.dataset: each.colour for each in placed}
    return [(legend_sample(colour), name) for name, colour in colours.items()]


def _best_mark(each: PlacedRound, value: float, style: str) -> Mark:
    """A dot at the best epoch of a round."""
    text = f"round {each.result.round}, best epoch {each.best.epoch}: {number(value)}"
    return Mark(at=each.at(each.best, value), text=text, style=style)


def _loss_description(each: PlacedRound) -> str:
    result, first, last = each.result, each.epochs[0], each.epochs[-1]
    return (
        f"Round {result.round}, {result.dataset}, {result.train}: validation loss from "
        f"{number(first.val.loss)} to {number(last.val.loss)}, training loss from "
        f"{number(first.train.loss)} to {number(last.train.loss)}."
    )
