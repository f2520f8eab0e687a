"""Calibration of probabilities, and sensitivity at a fixed specificity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydrakit.stats.findings import Floats
from hydrakit.stats.intervals import PRIOR_CORRELATION, clustered_variance, wilson_interval
from hydrakit.stats.score_table import ScoreTable


@dataclass(frozen=True, kw_only=True)
class BrierScore:
    """Mean squared difference of probabilities and labels: 0 is perfect.

    Attributes:
        score: Brier score of the probabilities.
        uncertainty: Brier score of always giving the share of positives.
        skill: 1 - score / uncertainty: 0 for always giving the share of positives, 1 for perfect;
            NaN where all findings are of one class.
    """

    score: float
    uncertainty: float
    skill: float


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Findings with similar probabilities.

    Attributes:
        predicted: Mean probability of the findings.
        observed: Share of positive findings.
        low: Lower bound of the share's 95 % interval (Wilson).
        high: Upper bound of the share's 95 % interval.
        count: Number of findings.
    """

    predicted: float
    observed: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class CalibrationError:
    """Expected calibration error (ECE), and its distribution for perfect calibration.

    Attributes:
        error: Mean over the bins of the difference between the mean probability and the share of
            positives, weighted by findings.
        by_chance: Mean error of a perfectly calibrated network with the same probabilities.
        by_chance_high: 95 % quantile of that error: a lower error shows no miscalibration.
        p: Share of perfectly calibrated networks with at least this error, ``(b + 1) / (n + 1)``.
    """

    error: float
    by_chance: float
    by_chance_high: float
    p: float


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> BrierScore:
    """Brier score, beside that of always giving the share of positives.

    Args:
        probabilities: Probability of the positive class, ``(findings,)``.
        labels: Label of each finding, 1 or 0, ``(findings,)``.

    Raises:
        ValueError: The shapes differ, there is no finding, a probability is outside [0, 1], or a
            label is neither 0 nor 1.

    Source: Brier 1950, Mon. Weather Rev. 78:1-3.
    """
    predicted, observed = _as_floats(probabilities, labels)
    share = float(observed.mean())
    score = float(np.mean((predicted - observed) ** 2))
    uncertainty = share * (1 - share)
    skill = 1 - score / uncertainty if uncertainty > 0 else math.nan
    return BrierScore(score=score, uncertainty=uncertainty, skill=skill)


def reliability_curve(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 10
) -> list[CalibrationBin]:
    """Share of positives as a function of the probability.

    The bins have about equal numbers of findings; equal probabilities are in one bin. The intervals
    treat findings as independent, so they are too narrow for several findings of one patient.

    Args:
        probabilities: Probability of the positive class, ``(findings,)``.
        labels: Label of each finding, 1 or 0, ``(findings,)``.
        bins: Highest number of bins; empty ones are left out.

    Raises:
        ValueError: As `brier_score`, or there is no bin.
    """
    predicted, observed = _as_floats(probabilities, labels)
    _, index = np.unique(_bin_of_each(predicted, bins), return_inverse=True)
    counts = np.bincount(index)
    means, shares = np.bincount(index, predicted) / counts, np.bincount(index, observed) / counts
    curve = []
    for count, mean, share in zip(counts.tolist(), means.tolist(), shares.tolist(), strict=True):
        low, high = wilson_interval(share, count)
        curve.append(
            CalibrationBin(predicted=mean, observed=share, low=low, high=high, count=count)
        )
    return curve


def calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = 10,
    draws: int = 2000,
    seed: int = 0,
) -> CalibrationError:
    """Expected calibration error, and how large it is by chance for perfect calibration.

    In a bin of few findings the share of positives differs from any probability by chance, so even
    a perfectly calibrated network has an error above 0. Labels drawn from the probabilities show
    how large it is.

    Args:
        probabilities: Probability of the positive class, ``(findings,)``.
        labels: Label of each finding, 1 or 0, ``(findings,)``.
        bins: Highest number of bins, as in `reliability_curve`.
        draws: Number of drawn sets of labels.
        seed: Seed of the draws.

    Raises:
        ValueError: As `reliability_curve`.

    Source: Naeini, Cooper and Hauskrecht 2015, AAAI; Bröcker and Smith 2007, Weather Forecast.
    22:651-661 (consistency resampling).
    """
    predicted, observed = _as_floats(probabilities, labels)
    bin_of_each = _bin_of_each(predicted, bins)
    inside = (bin_of_each[:, None] == np.unique(bin_of_each)).astype(np.float64)
    generator = np.random.default_rng(seed)
    drawn = (generator.random((draws, len(predicted))) < predicted).astype(np.float64)
    errors = np.abs((drawn - predicted) @ inside).sum(axis=1) / len(predicted)
    error = float(np.abs((observed - predicted) @ inside).sum() / len(predicted))
    return CalibrationError(
        error=error,
        by_chance=float(errors.mean()),
        by_chance_high=float(np.quantile(errors, 0.95)),
        p=(int(np.count_nonzero(errors >= error - 1e-12)) + 1) / (draws + 1),
    )


def _as_floats(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    predicted, observed = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if predicted.ndim != 1 or predicted.shape != observed.shape or not len(predicted):
        raise ValueError(
            f"calibration needs one probability and one label per finding: got the shapes "
            f"{predicted.shape} and {observed.shape}"
        )
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise ValueError("a probability is outside 0 to 1")
    if not np.isin(observed, (0, 1)).all():
        raise ValueError("a label is neither 0 nor 1")
    return predicted, observed


def _bin_of_each(probabilities: Floats, bins: int) -> NDArray[np.intp]:
    """Number of the bin of each probability. An edge belongs to the bin below it."""
    if bins < 1:
        raise ValueError(f"at least 1 bin is needed: got {bins}")
    edges = np.quantile(probabilities, np.arange(1, bins) / bins)
    return np.searchsorted(edges, probabilities, side="left")


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Sensitivity at a fixed specificity, with its confidence interval.

    Attributes:
        sensitivity: Mean over the cells.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        specificity: Mean over the cells of the specificity at the chosen thresholds, which is at
            least the requested one.
    """

    sensitivity: float
    low: float
    high: float
    specificity: float


def sensitivity_at(
    table: ScoreTable, specificity: float, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Sensitivity:
    """Sensitivity at a specificity, with the threshold estimated from the same negative findings.

    The threshold of a cell is the lowest score of a negative finding that is not exceeded by the
    requested share of the negative findings; positive findings above it are detected. The interval
    is Wilson's with an effective number of positive findings: the number of independent ones that
    would have the same variance as the mean has when whole patients are resampled, with new
    thresholds each time.

    Args:
        table: Scores of the strategy.
        specificity: Requested specificity, in (0, 1].
        draws: Number of resamples of patients.
        seed: Seed of the resamples.
        level: Confidence level.

    Raises:
        ValueError: The specificity or the level is outside its range.
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"a specificity is above 0 and at most 1: got {specificity}")
    patients = int(table.patients.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=draws)
    weights = np.vstack([np.ones((1, patients)), drawn])
    sums, cells, reached = np.zeros(draws + 1), np.zeros(draws + 1), 0.0
    for number, inside in table.cells:
        of_cell, specificity_of_cell = _of_cell(table, number, inside, weights, specificity)
        defined = ~np.isnan(of_cell)
        sums[defined] += of_cell[defined]
        cells += defined
        reached += specificity_of_cell / len(table.cells)
    usable = cells > 0
    shares = sums[usable] / cells[usable]
    share = float(shares[0])
    positives = _effective_positives(table, share, float(np.var(shares[1:])))
    low, high = wilson_interval(share, positives, level=level)
    return Sensitivity(sensitivity=share, low=low, high=high, specificity=reached)


def _of_cell(
    table: ScoreTable, number: int, inside: NDArray[np.intp], weights: Floats, specificity: float
) -> tuple[Floats, float]:
    """Sensitivity of a cell for each row of patient weights, and the first row's specificity.

    The sensitivity is NaN where the weights leave no finding of a class.
    """
    scores, owners = table.scores[number, inside], table.patients[inside]
    positive = table.positive[inside]
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    running = np.cumsum(weights[:, owners[~positive][order]], axis=1)
    totals = running[:, -1:]
    threshold = np.argmax(running >= specificity * totals - 1e-9, axis=1)
    below = np.searchsorted(negatives, scores[positive], side="left")
    weight = weights[:, owners[positive]]
    hits = (weight * (below > threshold[:, None])).sum(axis=1)
    counts = weight.sum(axis=1)
    shares = np.full(len(weights), np.nan)
    np.divide(hits, counts, out=shares, where=(counts > 0) & (totals[:, 0] > 0))
    return shares, float(np.mean(negatives <= negatives[threshold[0]]))


def _effective_positives(table: ScoreTable, share: float, variance: float) -> float:
    """Number of independent positive findings that would give the share this variance, at least 1.

    It never exceeds the effective number of the data, which is used where the share is 0 or 1 and
    resampling shows no variance.
    """
    owners = table.patients[table.positive]
    equal = np.full(len(owners), 1 / len(owners))
    most = 1 / clustered_variance(equal, owners, PRIOR_CORRELATION)
    if variance <= 0:
        return max(1.0, most)
    return max(1.0, min(most, share * (1 - share) / variance)) if 0 < share < 1 else most
