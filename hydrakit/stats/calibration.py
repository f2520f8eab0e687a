"""Whether probabilities mean what they say, and how many positives a threshold finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydrakit.stats.findings import Floats
from hydrakit.stats.intervals import PRIOR_CORRELATION, shared_variance, wilson_interval
from hydrakit.stats.tested import ScoreTable

Bins = Literal["quantile", "fixed"]


@dataclass(frozen=True, kw_only=True)
class Brier:
    """The mean squared distance of probabilities from what happened: 0 is perfect.

    ``score = reliability - resolution + uncertainty + within``, exactly.

    Attributes:
        score: The Brier score.
        uncertainty: Score of saying the share of positives each time.
        reliability: Squared distance of the bins' probabilities from their shares of positives.
        resolution: Squared distance of the bins' shares from the share of all.
        within: What the probabilities' differences within a bin add.
        skill: 1 - score / uncertainty: 0 for saying the share each time, 1 for perfect; NaN where
            there is one class alone.
    """

    score: float
    uncertainty: float
    reliability: float
    resolution: float
    within: float
    skill: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Findings of about the same probability.

    Attributes:
        predicted: Their mean probability.
        observed: Share of them that is positive.
        low: Lower end of the share's interval (Wilson).
        high: Upper end.
        count: Number of findings.
    """

    predicted: float
    observed: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class CalibrationError:
    """The expected calibration error, beside what a perfectly calibrated network would have.

    Attributes:
        error: Mean distance of the bins' probabilities from their shares of positives, weighted by
            findings.
        by_luck: Mean error of a perfectly calibrated network that gives the same probabilities.
        by_luck_high: Its 95 % quantile: an error below it shows no fault.
        p: Share of such networks with as large an error, ``(b + 1) / (n + 1)``.
    """

    error: float
    by_luck: float
    by_luck_high: float
    p: float


def brier(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 10) -> Brier:
    """Brier score with its parts over bins of equal width.

    Args:
        probabilities: Of the positive class, ``(findings,)``.
        labels: ``(findings,)``, 1 or 0.
        bins: Of equal width.

    Raises:
        ValueError: The shapes differ, there is nothing, a probability is outside [0, 1], or a label
            is neither 0 nor 1.

    Source: Brier 1950, Mon. Weather Rev. 78:1-3; Murphy 1973, J. Appl. Meteorol. 12:595-600;
    Stephenson, Coelho and Jolliffe 2008, Weather Forecast. 23:752-757 (the part within bins).
    """
    said, truth = _checked(probabilities, labels)
    member = _members(said, bins, "fixed")
    counts, predicted, observed = _means(said, truth, member)
    share, weights = float(truth.mean()), counts / len(said)
    score = float(np.mean((said - truth) ** 2))
    uncertainty = share * (1 - share)
    reliability = float(weights @ (predicted - observed) ** 2)
    resolution = float(weights @ (observed - share) ** 2)
    return Brier(
        score=score,
        uncertainty=uncertainty,
        reliability=reliability,
        resolution=resolution,
        within=score - reliability + resolution - uncertainty,
        skill=1 - score / uncertainty if uncertainty > 0 else math.nan,
    )


def reliability_curve(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 10, by: Bins = "quantile"
) -> list[Bin]:
    """Share of positives among findings of about the same probability.

    Intervals treat findings as independent: with several per patient they are a little narrow.

    Args:
        probabilities: Of the positive class, ``(findings,)``.
        labels: ``(findings,)``, 1 or 0.
        bins: At most so many; those without a finding are left out.
        by: ``quantile`` puts about as many findings in each, equal probabilities together;
            ``fixed`` makes them equally wide.

    Raises:
        ValueError: As `brier`.
    """
    said, truth = _checked(probabilities, labels)
    counts, predicted, observed = _means(said, truth, _members(said, bins, by))
    found = []
    for count, mean, share in zip(counts.tolist(), predicted, observed, strict=True):
        low, high = wilson_interval(float(share), count)
        found.append(
            Bin(predicted=float(mean), observed=float(share), low=low, high=high, count=int(count))
        )
    return found


def calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = 10,
    by: Bins = "quantile",
    draws: int = 2000,
    seed: int = 0,
) -> CalibrationError:
    """Expected calibration error, and how much of it the number of findings alone explains.

    With few findings in a bin their share of positives is far from any probability by chance, so
    the error of a perfect network is not 0. It is found by drawing labels from the probabilities.

    Args:
        probabilities: Of the positive class, ``(findings,)``.
        labels: ``(findings,)``, 1 or 0.
        bins: As `reliability_curve`.
        by: As `reliability_curve`.
        draws: Number of drawn sets of labels.
        seed: Of the draws.

    Raises:
        ValueError: As `brier`.

    Source: Naeini, Cooper and Hauskrecht 2015, AAAI; Bröcker and Smith 2007, Weather Forecast.
    22:651-661 (consistency resampling).
    """
    said, truth = _checked(probabilities, labels)
    member = _members(said, bins, by)
    inside = (member[:, None] == np.unique(member)).astype(np.float64)
    generator = np.random.default_rng(seed)
    drawn = (generator.random((draws, len(said))) < said).astype(np.float64)
    gaps = np.abs((drawn - said) @ inside).sum(axis=1) / len(said)
    error = float(np.abs((truth - said) @ inside).sum() / len(said))
    return CalibrationError(
        error=error,
        by_luck=float(gaps.mean()),
        by_luck_high=float(np.quantile(gaps, 0.95)),
        p=(int(np.count_nonzero(gaps >= error - 1e-12)) + 1) / (draws + 1),
    )


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The share of positive findings that are found where a share of negatives is let go.

    Attributes:
        sensitivity: Mean over the cells.
        low: Lower end of the interval.
        high: Upper end.
        specificity: That was asked for; in each cell at least so much is reached on its own
            negatives, whose scores set the threshold.
        reached: Mean specificity over the cells.
        cases: Effective number of positive findings behind the interval.
    """

    sensitivity: float
    low: float
    high: float
    specificity: float
    reached: float
    cases: float


def sensitivity_at(
    tested: ScoreTable, specificity: float, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Sensitivity:
    """Sensitivity at a specificity, the threshold being estimated from the same negatives.

    In each cell the threshold is the lowest score of a negative finding that as large a share of
    the negatives as asked for does not exceed; found are the positives above it. The interval is
    Wilson's with an effective number of positives: as many independent ones as would give the
    variance that the mean has when whole patients are resampled, thresholds included.

    Args:
        tested: The strategy's scores.
        specificity: Wanted, in (0, 1].
        draws: Number of resamples of patients.
        seed: Of the resamples.
        level: Confidence.

    Raises:
        ValueError: The specificity or the level is outside its range.
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"a specificity is above 0 and at most 1: got {specificity}")
    patients = int(tested.patients.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=draws)
    weights = np.vstack([np.ones((1, patients)), drawn])
    sums, cells, reached = np.zeros(draws + 1), np.zeros(draws + 1), 0.0
    for index, inside in tested.cells:
        found, specific = _of_cell(tested, index, inside, weights, specificity)
        known = ~np.isnan(found)
        sums[known] += found[known]
        cells += known
        reached += specific / len(tested.cells)
    usable = cells > 0
    shares = sums[usable] / cells[usable]
    share = float(shares[0])
    cases = _effective_cases(tested, share, float(np.var(shares[1:])))
    low, high = wilson_interval(share, cases, level=level)
    return Sensitivity(
        sensitivity=share,
        low=low,
        high=high,
        specificity=specificity,
        reached=reached,
        cases=cases,
    )


def _of_cell(
    tested: ScoreTable, index: int, inside: NDArray[np.intp], weights: Floats, specificity: float
) -> tuple[Floats, float]:
    """Sensitivity of a cell for each row of patient weights, and the first row's specificity.

    NaN where the weights leave no finding of a class.
    """
    scores, owners = tested.scores[index, inside], tested.patients[inside]
    positive = tested.positive[inside]
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    running = np.cumsum(weights[:, owners[~positive][order]], axis=1)
    totals = running[:, -1:]
    threshold = np.argmax(running >= specificity * totals - 1e-9, axis=1)
    below = np.searchsorted(negatives, scores[positive], side="left")
    weight = weights[:, owners[positive]]
    hits = (weight * (below > threshold[:, None])).sum(axis=1)
    counts = weight.sum(axis=1)
    found = np.full(len(weights), np.nan)
    np.divide(hits, counts, out=found, where=(counts > 0) & (totals[:, 0] > 0))
    return found, float(np.mean(negatives <= negatives[threshold[0]]))


def _effective_cases(tested: ScoreTable, share: float, variance: float) -> float:
    """Independent positives that a share with this variance has: 1 or more, never above the data's.

    Where all or none are found, resampling sees no variance and the data's own number counts.
    """
    owners = tested.patients[tested.positive]
    most = 1 / shared_variance(np.full(len(owners), 1 / len(owners)), owners, PRIOR_CORRELATION)
    if variance <= 0:
        return max(1.0, most)
    return max(1.0, min(most, share * (1 - share) / variance)) if 0 < share < 1 else most


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    said, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if said.ndim != 1 or said.shape != truth.shape or not len(said):
        raise ValueError(
            f"as many probabilities as labels are needed, in one row each: got the shapes "
            f"{said.shape} and {truth.shape}"
        )
    if not ((said >= 0) & (said <= 1)).all():
        raise ValueError("a probability is outside 0 to 1")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("a label is 0 or 1")
    return said, truth


def _members(said: Floats, bins: int, by: Bins) -> NDArray[np.intp]:
    """The bin of each probability. Edges belong to the bin below them."""
    if bins < 1:
        raise ValueError(f"1 bin or more is needed: got {bins}")
    inner = np.arange(1, bins) / bins
    edges = np.quantile(said, inner) if by == "quantile" else inner
    return np.searchsorted(edges, said, side="left")


def _means(
    said: Floats, truth: Floats, member: NDArray[np.intp]
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Count, mean probability and share of positives of each bin that is not empty."""
    _, index = np.unique(member, return_inverse=True)
    counts = np.bincount(index)
    predicted, observed = np.bincount(index, said) / counts, np.bincount(index, truth) / counts
    return counts, predicted, observed
