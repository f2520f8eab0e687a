"""Figures of a comparison: AUC of each strategy, their differences, and their ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit.report.charts import ForestRow, forest
from hydrakit.report.figure import Figure
from hydrakit.report.figures import WINDOW, moving_average
from hydrakit.report.roc import roc_points
from hydrakit.report.svg import COLOURS, Area, Axis, Line, legend_sample, line_style, plot
from hydrakit.report.tables import interval, number
from hydrakit.stats.metrics import auc

if TYPE_CHECKING:
    from hydrakit.stats.comparison import Comparison, StrategyResult

CellKey = tuple[int, int, int]
RATES = np.linspace(0, 1, 101)  # false positive rates at which confidence bands are computed
RESAMPLES = 400
MAX_BANDS = 3  # more confidence bands would hide each other


@dataclass(frozen=True, eq=False)
class CellScores:
    """Test scores of a cell (one strategy, seed and fold) with findings of both classes.

    Attributes:
        key: Seed, repeat and fold.
        findings: Indices of the findings in its test fold.
        scores: Probability of the positive class.
        positive: Whether a finding is positive.
    """

    key: CellKey
    findings: NDArray[np.intp]
    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]

    @property
    def curve(self) -> NDArray[np.float64]:
        """ROC curve, ``(points, 2)``."""
        return np.array(roc_points(self.scores, self.positive))


def cell_values(comparison: Comparison) -> dict[str, dict[CellKey, float]]:
    """Test AUC, or error, of each cell with one: by strategy, then (seed, repeat, fold)."""
    if comparison.measure != "AUC":
        return {
            strategy.name: {
                (seed, repeat, fold): value for seed, repeat, fold, value in strategy.cell_values
            }
            for strategy in comparison.strategies
        }
    return {
        strategy.name: {
            cell.key: auc(cell.scores, cell.positive) for cell in _cells(comparison, strategy)
        }
        for strategy in comparison.strategies
    }


def _cells(comparison: Comparison, strategy: StrategyResult) -> list[CellScores]:
    labels = np.array(comparison.labels) == 1
    cells = []
    for (seed, repeat), scores, folds in zip(
        comparison.passes, strategy.scores, comparison.fold_of, strict=True
    ):
        values, fold_of = (np.array(each, dtype=np.float64) for each in (scores, folds))
        for fold in sorted({fold for fold in folds if fold is not None}):
            findings = np.flatnonzero(fold_of == fold)
            positive = labels[findings]
            if 0 < positive.sum() < len(positive):
                cells.append(CellScores((seed, repeat, fold), findings, values[findings], positive))
    return cells


def auc_figure(comparison: Comparison) -> Figure:
    """Figure of each strategy with its confidence interval, and a dot for each cell."""
    cells = cell_values(comparison)
    errors = comparison.measure == "mae"
    rows = [
        ForestRow(
            name=comparison.label(each.name),
            value=each.value,
            low=each.low,
            high=each.high,
            label=f"{each.value:.3g} ({each.low:.3g} to {each.high:.3g})"
            if errors
            else f"{number(each.value)} ({interval(each.low, each.high)})",
            style=f"c{index % COLOURS}",
            dots=list(cells[each.name].values()),
        )
        for index, each in enumerate(comparison.strategies)
    ]
    ends = [value for row in rows for value in (row.low, row.high, *row.dots)]
    low = max(0.0, np.floor(min(0.45, *ends) * 10) / 10)
    high, reference, dashed = 1.0, 0.5, " Dashed: chance."
    if errors:
        low, high, reference, dashed = 0.0, _round_end(max(ends)), 0.0, ""
    what = f"test {comparison.figure}"
    return Figure(
        name="strategies",
        caption=f"{_capital(what)} of each strategy.",
        text="Large dots: means over the cells. Lines: confidence intervals. Small dots: single "
        f"cells (one seed and fold).{dashed} Strategies with overlapping intervals can "
        "still differ: see the paired differences below.",
        drawing=forest(
            rows,
            name="strategies",
            title=f"{_capital(what)} of each strategy with confidence intervals",
            description=" ".join(f"{row.name}: {row.label}." for row in rows),
            axis=Axis(label=what, low=float(low), high=high),
            reference=reference,
        ),
        columns=("strategy", "seed", "repeat", "fold", _column(comparison), "low", "high"),
        rows=[
            *((s.name, None, None, None, s.value, s.low, s.high) for s in comparison.strategies),
            *(
                (name, *key, value, None, None)
                for name, values in cells.items()
                for key, value in values.items()
            ),
        ],
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _column(comparison: Comparison) -> str:
    return "mae" if comparison.measure == "mae" else "auc"


def _round_end(value: float) -> float:
    """End of an axis: the value, rounded up to one digit that counts."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(value))
    return float(np.ceil(value / unit) * unit)


def difference_figure(comparison: Comparison) -> Figure:
    """Forest plot of the differences between the first strategy and each other one."""
    errors = comparison.measure == "mae"
    digits = "+.3g" if errors else "+.3f"
    rows = [
        ForestRow(
            name=f"{pair.strategy} − {comparison.label(pair.against)}",
            value=pair.difference,
            low=pair.low,
            high=pair.high,
            label=f"{pair.difference:{digits}} ({pair.low:{digits}} to {pair.high:{digits}})",
            style="ink" if pair.verdict == "cannot tell" else "c0",
        )
        for pair in comparison.pairs
    ]
    widest = max(max(abs(row.low), abs(row.high)) for row in rows)
    end = float(min(1.0, np.ceil(max(widest, 0.05) * 20) / 20))
    if errors:
        end = _round_end(widest)
    first = comparison.pairs[0].strategy
    side = "Left" if errors else "Right"
    what = f"test {comparison.figure}"
    return Figure(
        name="differences",
        caption=f"Paired differences of {what}.",
        text=f"Differences on the same findings. {side} of the dashed line, {first} is better. An "
        "interval that crosses the line is inconclusive. In colour: conclusive differences.",
        drawing=forest(
            rows,
            name="differences",
            title=f"Paired differences of {what} with confidence intervals",
            description=" ".join(
                f"{row.name}: {row.label}, {pair.verdict}."
                for row, pair in zip(rows, comparison.pairs, strict=True)
            ),
            axis=Axis(label=f"difference of {what}", low=-end, high=end),
            reference=0.0,
        ),
        columns=("strategy", "against", "difference", "low", "high", "p", "p_holm", "verdict"),
        rows=[
            (p.strategy, p.against, p.difference, p.low, p.high, p.p, p.p_holm, p.verdict)
            for p in comparison.pairs
        ],
    )


def trace_figure(comparison: Comparison) -> Figure:
    """Test AUC of all strategies after every epoch on one axis (the paper's Fig. 4a)."""
    lines, areas, rows, key = [], [], [], []
    names = [each.name for each in comparison.strategies]
    for trace in comparison.traces:
        index = names.index(trace.strategy)
        style = line_style(index)
        smooth = moving_average(trace.means, WINDOW)
        spread = moving_average(trace.deviations, WINDOW)
        ends = list(zip(trace.epochs, smooth, spread, strict=True))
        lines.append(Line(points=[(x, y) for x, y, _ in ends], style=style))
        key.append((legend_sample(style), comparison.label(trace.strategy)))
        if any(spread):
            outline = [(x, y + sd) for x, y, sd in ends] + [(x, y - sd) for x, y, sd in ends[::-1]]
            areas.append(Area(points=outline, style=style))
        rows += [
            (trace.strategy, *values)
            for values in zip(
                *(trace.epochs, trace.means, trace.deviations, trace.cells, smooth), strict=True
            )
        ]
    heights = [y for line in lines for _, y in line.points]
    heights += [y for area in areas for _, y in area.points]
    figure = "R2" if comparison.measure == "mae" else "AUC"
    last = max(epoch for trace in comparison.traces for epoch in trace.epochs)
    low, high = np.floor(min(heights) * 10) / 10, np.ceil(max(heights) * 10) / 10
    return Figure(
        name="trace",
        caption=f"Test {figure} of {comparison.target} after every epoch.",
        text="Requested with --trace-test, as the paper's Fig. 4a. Epochs are counted over all "
        f"rounds. Lines: moving averages over {WINDOW} epochs of the mean of the cells that "
        "trained the epoch; cells that stop early leave fewer. Of an ensemble, the first network "
        "is drawn. Shaded: one standard deviation between these cells, which shows how much folds "
        "and random starts vary; it is no interval of the mean. These readings of test labels "
        "chose nothing; selecting an epoch or a strategy by this figure would be selection on the "
        "test splits.",
        drawing=plot(
            name="trace",
            title=f"Test {figure} after every epoch",
            description=" ".join(
                f"{trace.strategy}: {trace.means[0]:.3f} after epoch {trace.epochs[0]}, "
                f"{trace.means[-1]:.3f} after epoch {trace.epochs[-1]}."
                for trace in comparison.traces
            ),
            x=Axis(label="epoch, over all rounds", low=0, high=float(last), whole=True),
            y=Axis(label=f"test {figure}", low=float(low), high=float(max(high, low + 0.1))),
            areas=areas,
            lines=lines,
        ),
        key=key,
        columns=("strategy", "epoch", "mean", "standard_deviation", "cells", "moving_average"),
        rows=rows,
    )


def roc_figure(comparison: Comparison) -> Figure:
    """Mean ROC curve of each strategy's cells, with pointwise confidence bands."""
    lines, rows, key = [], [], []
    bands: list[Area] = []
    for index, each in enumerate(comparison.strategies):
        style = line_style(index)
        points = mean_curve([cell.curve for cell in _cells(comparison, each)])
        lines.append(Line(points=points, style=style))
        rows += [(each.name, x, y) for x, y in points]
        label = comparison.label(each.name)
        key.append((legend_sample(style), f"{label}: AUC {number(each.value)}"))
        if len(comparison.strategies) <= MAX_BANDS or index == 0:
            low, high = resampled_band(comparison, each)
            outline = [*zip(RATES, high, strict=True), *zip(RATES[::-1], low[::-1], strict=True)]
            bands.append(Area(points=[(float(x), float(y)) for x, y in outline], style=style))
    text = (
        "Mean sensitivity of a strategy's cells at each false positive rate. Shaded: pointwise "
        "95 % confidence interval from resampled patients"
    )
    text += "." if len(bands) > 1 else f", for {comparison.strategies[0].name} only."
    return Figure(
        name="roc",
        caption=f"Mean ROC curves on {comparison.target}.",
        text=text,
        drawing=plot(
            name="roc",
            title=f"Mean ROC curves on {comparison.target}",
            description=" ".join(
                f"{each.name}: mean AUC {number(each.value)}." for each in comparison.strategies
            ),
            x=Axis(label="false positive rate (1 − specificity)", low=0, high=1),
            y=Axis(label="true positive rate (sensitivity)", low=0, high=1),
            areas=bands,
            lines=[Line(points=[(0, 0), (1, 1)], style="faint dashed"), *lines],
            size=(400, 400),
        ),
        key=[*key, (legend_sample("faint dashed"), "chance")],
        columns=("strategy", "false_positive_rate", "true_positive_rate"),
        rows=rows,
    )


def mean_curve(curves: Sequence[NDArray[np.float64]]) -> list[tuple[float, float]]:
    """Exact mean of ROC curves at each false positive rate; its area is the mean of their areas.

    Args:
        curves: Points ``(points, 2)`` of each curve, from (0, 0) to (1, 1).
    """
    rates = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    means = np.mean([_one_sided_heights(curve, rates) for curve in curves], axis=0)
    points = [(x, y) for x, both in zip(rates.tolist(), means.tolist(), strict=True) for y in both]
    return [point for at, point in enumerate(points) if at == 0 or point != points[at - 1]]


def _one_sided_heights(
    curve: NDArray[np.float64], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Heights of a curve just left and just right of some rates, ``(rates, 2)``."""
    xs, ys = curve.T
    first = np.searchsorted(xs, rates, side="left")
    last = np.searchsorted(xs, rates, side="right") - 1
    between = np.interp(rates, xs, ys)
    corner = xs[first] == rates
    return np.stack(
        [np.where(corner, ys[first], between), np.where(corner, ys[last], between)], axis=1
    )


def resampled_band(
    comparison: Comparison, strategy: StrategyResult, *, draws: int = RESAMPLES, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pointwise 95 % confidence interval of the mean sensitivity, at `RATES`.

    Whole patients are resampled; the networks stay the same. A cell that a resample leaves with a
    single class does not count in its mean.

    Args:
        comparison: The comparison.
        strategy: One of its strategies.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Lower and upper ends, ``(rates,)``.
    """
    patients = max(comparison.patient_of) + 1
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(patients, np.full(patients, 1 / patients), size=draws)
    patient_of = np.array(comparison.patient_of)
    total, count = np.zeros((draws, len(RATES))), np.zeros((draws, 1))
    for cell in _cells(comparison, strategy):  # one at a time: all together need gigabytes
        heights = weighted_heights(
            cell.scores, cell.positive, weights[:, patient_of[cell.findings]]
        )
        known = ~np.isnan(heights[:, :1])
        total += np.where(known, heights, 0)
        count += known
    means = total / np.maximum(count, 1)
    low, high = np.percentile(means[count[:, 0] > 0], [2.5, 97.5], axis=0)
    return low, high


def weighted_heights(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sensitivity at `RATES`, with findings weighted by how often a resample contains them.

    Args:
        scores: ``(findings,)``.
        positive: ``(findings,)``.
        weights: ``(draws, findings)``.

    Returns:
        ``(draws, rates)``; NaN if the weights leave no finding of a class.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    up = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last]
    aside = np.cumsum(weights[:, order] * ~positive[order], axis=1)[:, last]
    heights = np.full((len(weights), len(RATES)), np.nan)
    rows = np.flatnonzero((up[:, -1] > 0) & (aside[:, -1] > 0))
    start = np.zeros((len(rows), 1))
    xs = np.hstack([start, aside[rows] / aside[rows, -1:]])
    ys = np.hstack([start, up[rows] / up[rows, -1:]])
    heights[rows] = interpolated(RATES, xs, ys)
    return heights


def interpolated(
    at: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`np.interp` of many curves at once, which is much faster than one after another.

    Args:
        at: Positions within all curves, ascending, ``(positions,)``.
        xs: Ascending positions of each curve's points, ``(curves, points)``.
        ys: Heights of the points, ``(curves, points)``.

    Returns:
        Heights at the positions, ``(curves, positions)``.
    """
    curves, points = xs.shape
    # How many points of each curve are at a position or before it, by counting them into bins.
    bins = np.searchsorted(at, xs) + np.arange(curves)[:, None] * (len(at) + 1)
    counts = np.bincount(bins.ravel(), minlength=curves * (len(at) + 1))
    left = np.cumsum(counts.reshape(curves, -1), axis=1)[:, : len(at)] - 1
    right = np.minimum(left + 1, points - 1)
    x, y = (np.take_along_axis(each, left, axis=1) for each in (xs, ys))
    width, rise = (
        np.take_along_axis(each, right, axis=1) - here for each, here in ((xs, x), (ys, y))
    )
    slope = np.divide(rise, width, out=np.zeros_like(rise), where=width > 0)
    return np.asarray(slope * (at - x) + y)
