"""The epochs of all rounds on one axis, with moving averages and their bands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydrakit.plan.results import EpochRecord, RoundResult, TracePoint
from hydrakit.report.levels import moving_average, val_interval
from hydrakit.report.markup import Html
from hydrakit.report.svg import COLOURS, Area, Axis, Band, Mark, Point, sample
from hydrakit.report.tables import number

WINDOW = 5  # epochs of the moving average


@dataclass(frozen=True)
class TrainedRound:
    """A round's result, and all its epochs.

    Attributes:
        result: Of the round.
        epochs: In order.
        counts: Validation cases of each of the two classes; None for other tasks.
        trace: The target's test figures, where they were looked at after every epoch.
    """

    result: RoundResult
    epochs: Sequence[EpochRecord]
    counts: Sequence[int] | None = None
    trace: Sequence[TracePoint] = ()


@dataclass(frozen=True)
class PlacedRound:
    """A round on the common axis of epochs, after ``before`` epochs of the rounds before it."""

    trained: TrainedRound
    before: int
    colour: str

    @property
    def result(self) -> RoundResult:
        """Of the round."""
        return self.trained.result

    @property
    def epochs(self) -> Sequence[EpochRecord]:
        """In order."""
        return self.trained.epochs

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights went on."""
        return self.epochs[self.result.best_epoch - 1]

    @property
    def band(self) -> Band:
        """Its part of the axis."""
        labels = (str(self.result.round), self.result.dataset, self.result.train)
        return Band(low=self.before + 0.5, high=self.before + len(self.epochs) + 0.5, labels=labels)

    def at(self, epoch: EpochRecord | TracePoint, value: float) -> Point:
        """Where a value of an epoch is; epoch 0, of what is not trained, has the place of 1."""
        return self.before + max(1, epoch.epoch), value


def place(rounds: Sequence[TrainedRound]) -> Iterator[PlacedRound]:
    """The rounds one after another; each dataset has a colour."""
    names = list(dict.fromkeys(each.result.dataset for each in rounds))
    before = 0
    for each in rounds:
        yield PlacedRound(each, before, f"c{names.index(each.result.dataset) % COLOURS}")
        before += len(each.epochs)


def datasets(placed: Sequence[PlacedRound]) -> list[tuple[Html, str]]:
    """The legend of the colours."""
    colours = {each.result.dataset: each.colour for each in placed}
    return [(sample(colour), name) for name, colour in colours.items()]


def axis(placed: Sequence[PlacedRound]) -> Axis:
    """Of the epochs."""
    label = "epoch, counted over all rounds"
    return Axis(label=label, low=0.5, high=placed[-1].band.high, whole=True)


def best_mark(each: PlacedRound, value: float, style: str | None = None) -> Mark:
    """A dot at the best epoch of a round."""
    text = f"round {each.result.round}, best epoch {each.best.epoch}: {number(value)}"
    return Mark(at=each.at(each.best, value), text=text, style=style or each.colour)


def smooth(points: Sequence[Point]) -> list[Point]:
    """The moving average of a round's points; of too few the points themselves."""
    if len(points) < WINDOW:
        return list(points)
    averages = moving_average([y for _, y in points], WINDOW)
    return [(x, average) for (x, _), average in zip(points, averages, strict=True)]


def band(points: Sequence[Point], counts: Sequence[int] | None, style: str) -> list[Area]:
    """The interval of each AUC of a round, around its moving average where there is one."""
    ends = [(x, val_interval(y, counts)) for x, y in smooth(points)]
    known = [(x, end) for x, end in ends if end is not None]
    if len(known) < 2:
        return []
    outline = [(x, high) for x, (_, high) in known] + [(x, low) for x, (low, _) in known[::-1]]
    return [Area(points=outline, style=style)]
