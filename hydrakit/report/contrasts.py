"""The figures of a comparison: strategies, their differences, and their ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit.report.charts import Interval, forest
from hydrakit.report.figure import Figure
from hydrakit.report.roc import roc_points
from hydrakit.report.svg import COLOURS, Area, Axis, Line, line_style, plot, sample
from hydrakit.report.tables import number
from hydrakit.stats.metrics import auc

if TYPE_CHECKING:
    from hydrakit.stats.comparison import Comparison, StrategyResult

CellKey = tuple[int, int, int]
STEPS = np.linspace(0, 1, 101)
DRAWS = 400
MOST_BANDS = 3  # more of them hide one another


@dataclass(frozen=True, eq=False)
class _Cell:
    """A cell that tested both classes: which findings, their scores, and which are positive."""

    place: CellKey
    inside: NDArray[np.intp]
    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]

    @property
    def curve(self) -> NDArray[np.float64]:
        """Its ROC curve, ``(points, 2)``."""
        return np.array(roc_points(self.scores, self.positive))


def cell_aucs(found: Comparison) -> dict[str, dict[CellKey, float]]:
    """The test AUC of each cell with both classes: by strategy, then (seed, repeat, fold)."""
    return {
        each.name: {cell.place: auc(cell.scores, cell.positive) for cell in _cells(found, each)}
        for each in found.strategies
    }


def _cells(found: Comparison, strategy: StrategyResult) -> list[_Cell]:
    labels = np.array(found.labels) == 1
    cells = []
    for (seed, repeat), scores, folds in zip(
        found.passes, strategy.scores, found.fold_of, strict=True
    ):
        values = np.array([np.nan if score is None else score for score in scores])
        for fold in sorted({fold for fold in folds if fold is not None}):
            inside = np.flatnonzero([each == fold for each in folds])
            positive = labels[inside]
            if 0 < positive.sum() < len(positive):
                cells.append(_Cell((seed, repeat, fold), inside, values[inside], positive))
    return cells


def auc_figure(found: Comparison) -> Figure:
    """Mean test AUC of each strategy with its interval, and a dot for each cell."""
    cells = cell_aucs(found)
    intervals = [
        Interval(
            name=each.name,
            value=each.auc,
            low=each.low,
            high=each.high,
            said=f"{number(each.auc)} ({number(each.low)} to {number(each.high)})",
            style=f"c{place % COLOURS}",
            dots=list(cells[each.name].values()),
        )
        for place, each in enumerate(found.strategies)
    ]
    ends = [value for each in intervals for value in (each.low, *each.dots)]
    low = max(0.0, np.floor(min(0.45, *ends) * 10) / 10)
    return Figure(
        name="strategies",
        caption="Test AUC of each strategy.",
        text="The large dot is the mean over the cells, the line its interval, small dots are the "
        "single cells (folds). Dashed: chance. Overlapping intervals do not mean that two "
        "strategies cannot be told apart: the paired differences below tell that.",
        drawing=forest(
            intervals,
            name="strategies",
            title="Test AUC of each strategy, with its interval",
            description=" ".join(f"{each.name}: {each.said}." for each in intervals),
            axis=Axis(label="test AUC", low=float(low), high=1.0),
            line_at=0.5,
        ),
        columns=("strategy", "seed", "repeat", "fold", "auc", "low", "high"),
        rows=[
            *((s.name, None, None, None, s.auc, s.low, s.high) for s in found.strategies),
            *(
                (name, *place, auc, None, None)
                for name, row in cells.items()
                for place, auc in row.items()
            ),
        ],
    )


def difference_figure(found: Comparison) -> Figure:
    """The difference of the first strategy from each other one (forest plot)."""
    intervals = [
        Interval(
            name=f"{pair.strategy} − {pair.against}",
            value=pair.difference,
            low=pair.low,
            high=pair.high,
            said=f"{pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})",
            style="ink" if pair.verdict == "cannot tell" else "c0",
        )
        for pair in found.pairs
    ]
    widest = max(max(abs(each.low), abs(each.high)) for each in intervals)
    end = min(1.0, np.ceil(max(widest, 0.05) * 20) / 20)
    first = found.pairs[0].strategy
    return Figure(
        name="differences",
        caption="Paired differences of test AUC.",
        text=f"On the same findings; right of the dashed line {first} is ahead. An interval over "
        "the line: this data cannot tell the two apart. In colour: told apart.",
        drawing=forest(
            intervals,
            name="differences",
            title="Paired differences of test AUC, with intervals",
            description=" ".join(
                f"{each.name}: {each.said}, {pair.verdict}."
                for each, pair in zip(intervals, found.pairs, strict=True)
            ),
            axis=Axis(label="difference of test AUC", low=-float(end), high=float(end)),
            line_at=0.0,
        ),
        columns=("strategy", "against", "difference", "low", "high", "p", "p_holm", "verdict"),
        rows=[
            (p.strategy, p.against, p.difference, p.low, p.high, p.p, p.p_holm, p.verdict)
            for p in found.pairs
        ],
    )


def roc_figure(found: Comparison) -> Figure:
    """The mean ROC curve of each strategy's cells, with bands from resampled patients."""
    lines, rows, key = [], [], []
    areas: list[Area] = []
    for place, each in enumerate(found.strategies):
        style = line_style(place)
        points = mean_curve([cell.curve for cell in _cells(found, each)])
        lines.append(Line(points=points, style=style))
        rows += [(each.name, x, y) for x, y in points]
        key.append((sample(style), f"{each.name}: AUC {number(each.auc)}"))
        if len(found.strategies) <= MOST_BANDS or place == 0:
            low, high = resampled_band(found, each)
            ends = [*zip(STEPS, high, strict=True), *zip(STEPS[::-1], low[::-1], strict=True)]
            areas.append(Area(points=[(float(x), float(y)) for x, y in ends], style=style))
    key.append((sample("faint dashed"), "chance"))
    drawing = plot(
        name="roc",
        title=f"Mean ROC curves on {found.target}",
        description=" ".join(f"{s.name}: mean AUC {number(s.auc)}." for s in found.strategies),
        x=Axis(label="false positive rate (1 − specificity)", low=0, high=1),
        y=Axis(label="true positive rate (sensitivity)", low=0, high=1),
        areas=areas,
        lines=[Line(points=[(0, 0), (1, 1)], style="faint dashed"), *lines],
        size=(400, 400),
    )
    return Figure(
        name="roc",
        caption=f"Mean ROC curves on {found.target}.",
        text="The mean sensitivity of a strategy's cells at each false positive rate. Shaded: "
        "where it lies in 95 of 100 resamples of whole patients, at each rate by itself"
        + ("." if len(areas) > 1 else f", for {found.strategies[0].name} alone."),
        drawing=drawing,
        key=key,
        columns=("strategy", "false_positive_rate", "true_positive_rate"),
        rows=rows,
    )


def mean_curve(curves: Sequence[NDArray[np.float64]]) -> list[tuple[float, float]]:
    """The mean of ROC curves at each false positive rate, exactly: its area is their mean area.

    Args:
        curves: Points ``(points, 2)`` of each, from (0, 0) to (1, 1).
    """
    places = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    ends = np.mean([_limits(curve, places) for curve in curves], axis=0)
    points = [(x, y) for x, both in zip(places.tolist(), ends.tolist(), strict=True) for y in both]
    return [point for at, point in enumerate(points) if at == 0 or point != points[at - 1]]


def _limits(curve: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights of a curve just left and just right of some places, ``(places, 2)``."""
    xs, ys = curve.T
    first = np.searchsorted(xs, places, side="left")
    last = np.searchsorted(xs, places, side="right") - 1
    between = np.interp(places, xs, ys)
    corner = xs[first] == places
    return np.stack(
        [np.where(corner, ys[first], between), np.where(corner, ys[last], between)], axis=1
    )


def resampled_band(
    found: Comparison, strategy: StrategyResult, *, draws: int = DRAWS, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the mean sensitivity lies in 95 of 100 resamples of whole patients, at `STEPS`.

    The networks are taken as given. A cell that a resample leaves without a class is left out of
    its mean.

    Args:
        found: The comparison.
        strategy: One of its strategies.
        draws: Number of resamples.
        seed: Of the resamples.

    Returns:
        Lower and upper ends, ``(steps,)``.
    """
    patients = max(found.patient_of) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=draws)
    owners = np.array(found.patient_of)
    cells = [
        weighted_heights(cell.scores, cell.positive, drawn[:, owners[cell.inside]])
        for cell in _cells(found, strategy)
    ]
    stacked = np.stack(cells)
    known = ~np.isnan(stacked)
    means = np.nansum(stacked, axis=0) / np.maximum(known.sum(axis=0), 1)
    low, high = np.percentile(means[known.any(axis=(0, 2))], [2.5, 97.5], axis=0)
    return low, high


def weighted_heights(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sensitivity at `STEPS` where findings count several times or not at all.

    Args:
        scores: ``(findings,)``.
        positive: ``(findings,)``.
        weights: ``(draws, findings)``.

    Returns:
        ``(draws, steps)``; NaN where the weights leave no finding of a class.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    up = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last]
    aside = np.cumsum(weights[:, order] * ~positive[order], axis=1)[:, last]
    found = np.full((len(weights), len(STEPS)), np.nan)
    for row in np.flatnonzero((up[:, -1] > 0) & (aside[:, -1] > 0)):
        xs = np.append(0, aside[row] / aside[row, -1])
        ys = np.append(0, up[row] / up[row, -1])
        found[row] = np.interp(STEPS, xs, ys)
    return found
