"""Comparison of two strategies on the same findings: difference, confidence interval, p-value.

The methods, the alternatives that were tried, and simulations of the coverage: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError
from hydrakit.stats.findings import Floats
from hydrakit.stats.intervals import (
    VarianceEstimate,
    estimate_variance,
    normal_quantile,
    score_interval,
    t_quantile,
    variance_model,
    variance_ratio,
)
from hydrakit.stats.metrics import mid_ranks
from hydrakit.stats.score_table import FindingPairs, ScoreTable, pairs_of

EXACT_PATIENTS = 12  # with at most this number, all sign patterns are tried
DRAWS = 20_000
TINY = 1e-12
MIN_VARIANCE_SHARE = 0.25  # of the variance expected for strategies that are as similar as these
Measure = Literal["AUC", "mean AUC", "mae"]
POWER = 0.8  # with which `findings_needed` detect a difference


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Difference of the mean AUCs of two strategies on the same findings.

    Attributes:
        first: Mean AUC of the first strategy.
        second: Mean AUC of the second strategy.
        difference: AUC of the first strategy minus that of the second.
        low: Lower bound of the interval, at least -1.
        high: Upper bound of the interval, at most 1.
        level: Confidence level of the interval.
        p: Two-sided p-value for no difference, not corrected for several comparisons.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        patients: Number of patients.
        passes: Number of passes (seeds times repeats) in the mean.
        error: Standard error of the difference.
        needed: Number of findings with which 80 of 100 studies would detect a difference of this
            size at the 5 % level, with as many findings per patient and the same share of
            positives; infinite where the difference is 0.
        findings: Number of findings, where they are not positive or negative; else 0.
        measure: What differs: ``AUC``, ``mean AUC`` (of several labels) or ``mae`` (mean absolute
            error, of which less is better).
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    p: float
    positives: int
    negatives: int
    patients: int
    passes: int
    error: float
    needed: float
    findings: int = 0
    measure: Measure = "AUC"

    @property
    def gain(self) -> tuple[float, float]:
        """Bounds of how much better the first is than the second."""
        return (-self.high, -self.low) if self.measure == "mae" else (self.low, self.high)


def compare(
    first: ScoreTable,
    second: ScoreTable,
    *,
    seed: int = 0,
    level: float = 0.95,
    cells_vary: bool = False,
) -> PairedDifference:
    """Compare two strategies that were tested on the same findings in the same folds.

    The interval is ``difference +- t * error``, with the error from patients and training
    (`hydrakit.stats.intervals.estimate_variance`) and Satterthwaite's degrees of freedom. The
    p-value is that of a sign-flip test of the patients' contributions to the difference
    (`sign_flip`). Where the passes differ by more than the patients explain, which flipping
    patients cannot detect, it is at least the p-value of the t-test with the same error. For a
    strategy and itself, p is 1 and the interval is (0, 0).

    Args:
        first: Scores of the first strategy.
        second: Scores of the second strategy.
        seed: Seed of the random sign patterns.
        level: Confidence level of the interval.
        cells_vary: Whether the variance from training is also estimated between the cells of a
            pass, and the larger estimate counts. A single pass shows none without it.

    Raises:
        DataError: The two were not tested on the same findings in the same folds.
        ValueError: The level is outside its range.
    """
    check_same_cases(first, second)
    one, two = pairs_of(first), pairs_of(second)
    difference = one.auc - two.auc
    estimate = _variance_of_difference(one, two)
    if cells_vary:
        between = _training_between_cells(first, second)
        if between is not None and between[0] > estimate.training:
            estimate = _variance_of_difference(one, two, between)
    variance = estimate.variance
    if not equal_ranks(first, second):
        variance = max(variance, MIN_VARIANCE_SHARE * expected_variance(first, second, one, two))
    error = math.sqrt(variance)
    p = sign_flip(_contributions(one, two), seed=seed)
    if estimate.training > 0:
        p = max(p, t_test(difference / error, estimate.freedom))
    half = t_quantile(level, estimate.freedom) * error
    return PairedDifference(
        first=one.auc,
        second=two.auc,
        difference=difference,
        low=max(-1.0, difference - half),
        high=min(1.0, difference + half),
        level=level,
        p=p,
        positives=len(one.positives),
        negatives=len(one.negatives),
        patients=len(np.unique(first.patients)),
        passes=len(first.passes),
        error=error,
        needed=findings_needed(difference, error, len(first.findings)),
    )


def t_test(t: float, freedom: float) -> float:
    """Two-sided p-value of Student's t test."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


def sign_flip(contributions: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value of a sum of contributions, under random signs.

    All sign patterns are tried where 12 or fewer contributions are not 0. Otherwise ``n`` random
    patterns are, and p is ``(b + 1) / (n + 1)``, which is never 0 (Phipson and Smyth 2010).

    Args:
        contributions: Contribution of each patient, ``(patients,)``.
        draws: Number ``n`` of random sign patterns.
        seed: Seed of the random sign patterns.

    Source: Hemerik, Goeman and Finos 2020, J. R. Stat. Soc. B 82:841-864.
    """
    observed = abs(float(contributions.sum()))
    parts = contributions[np.abs(contributions) > TINY]
    if len(parts) <= EXACT_PATIENTS:
        sums = np.zeros(1)
        for part in parts:
            sums = np.concatenate([sums + part, sums - part])
        return float(np.mean(np.abs(sums) >= observed - TINY))
    generator = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, draws, 2000):
        count = min(2000, draws - start)
        signs = generator.integers(0, 2, (count, len(parts)), dtype=np.int8) * 2.0 - 1.0
        as_large += int(np.count_nonzero(np.abs(signs @ parts) >= observed - TINY))
    return (as_large + 1) / (draws + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: the smallest family-wise level at which each test is rejected.

    Args:
        p_values: p-value of each comparison, by name.

    Returns:
        The adjusted p-values, with the same names in the same order.

    Raises:
        ValueError: A p-value is outside [0, 1].

    Source: Holm 1979, Scand. J. Stat. 6:65-70.
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: a p-value is between 0 and 1: got {p}")
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def findings_needed(
    difference: float, error: float, findings: int, *, level: float = 0.95
) -> float:
    """Number of findings needed to detect a difference of this size with a power of 80 %.

    The variance is assumed to fall as 1 / findings, with the same share of positives, findings per
    patient and correlations. The observed difference is taken for the true one, which is itself
    uncertain, so the number is an order of magnitude.

    Args:
        difference: Observed difference.
        error: Standard error of the difference.
        findings: Number of findings behind it.
        level: Confidence level: 1 minus the level of the two-sided test.

    Returns:
        A number of findings; infinite where the difference is 0.

    Raises:
        ValueError: The level is outside (0, 1).
    """
    if abs(difference) <= TINY:
        return math.inf
    distance = normal_quantile(level) + NormalDist().inv_cdf(POWER)
    return findings * (distance * error / difference) ** 2


def check_same_cases(first: ScoreTable, second: ScoreTable) -> None:
    """Refuse strategies that were not tested on the same cases in the same folds.

    Raises:
        DataError: They were not.
    """
    passes = [[f"{seed}, {repeat}" for seed, repeat in part.passes] for part in (first, second)]
    for what, one, two in (
        ("findings", list(first.findings), list(second.findings)),
        ("seeds and repeats", *passes),
    ):
        if one != two:
            odd = min(set(one) ^ set(two))
            raise DataError(
                f"two strategies must be tested on the same {what}, but only one of them has "
                f"{odd!r}: finish both, or compare what both have"
            )
    for what, left, right in (
        ("labels", first.labels, second.labels),
        ("patients", first.patients, second.patients),
        ("folds", first.folds, second.folds),
    ):
        if not np.array_equal(left, right, equal_nan=True):
            raise DataError(f"two strategies must be tested on the same {what}")


def equal_ranks(first: ScoreTable, second: ScoreTable) -> bool:
    """Whether the two strategies rank the findings of every cell equally."""
    return all(
        np.array_equal(
            mid_ranks(first.scores[number, inside]), mid_ranks(second.scores[number, inside])
        )
        for number, inside in first.cells
    )


def _variance_of_difference(
    one: FindingPairs, two: FindingPairs, training: tuple[float, int] | None = None
) -> VarianceEstimate:
    above, below = (a - b for a, b in zip(one.components, two.components, strict=True))
    values = one.pass_aucs - two.pass_aucs
    return estimate_variance(one, (above, below), values, training)


def _training_between_cells(first: ScoreTable, second: ScoreTable) -> tuple[float, int] | None:
    """Variance of the mean over cells, within passes, that their findings do not explain.

    Returns:
        The variance and its degrees of freedom; None where no pass has two cells.
    """
    values: dict[int, list[float]] = {}
    explained: dict[int, list[float]] = {}
    for number, inside in first.cells:
        one, two = (pairs_of(_cell_of(table, number, inside)) for table in (first, second))
        values.setdefault(number, []).append(one.auc - two.auc)
        explained.setdefault(number, []).append(_variance_of_difference(one, two).variance)
    freedom = {number: len(each) - 1 for number, each in values.items() if len(each) > 1}
    if not freedom:
        return None
    excess = sum(
        count * float(np.var(values[number], ddof=1) - np.mean(explained[number]))
        for number, count in freedom.items()
    )
    total = sum(freedom.values())
    return max(0.0, excess / total) / len(first.cells), total


def _cell_of(table: ScoreTable, number: int, inside: NDArray[np.intp]) -> ScoreTable:
    """The scores of one cell."""
    return ScoreTable(
        findings=tuple(table.findings[each] for each in inside),
        patients=table.patients[inside],
        labels=table.labels[inside],
        passes=(table.passes[number],),
        scores=table.scores[number : number + 1, inside],
        folds=table.folds[number : number + 1, inside],
        images=table.images[inside],
    )


def _contributions(one: FindingPairs, two: FindingPairs) -> Floats:
    """Contribution of each patient to the difference; their sum is the difference.

    It consists of the patient's components and its share of the difference: the part that changes
    its sign if the two strategies' scores of this patient are swapped.
    """
    size, difference = one.patients, one.auc - two.auc
    weights = one.weights.sum(axis=0)
    share = np.bincount(one.positives, weights.sum(axis=1), size)
    share += np.bincount(one.negatives, weights.sum(axis=0), size)
    parts = [(a - b).sum(axis=0) for a, b in zip(one.components, two.components, strict=True)]
    return np.asarray(parts[0] + parts[1] + difference * share / 2, dtype=np.float64)


def expected_variance(
    first: ScoreTable, second: ScoreTable, one: FindingPairs, two: FindingPairs
) -> float:
    """Expected variance of the difference of two AUCs, given the correlation of the scores.

    It matters for few findings that all networks rank equally, so that no variance is observed.
    """
    total = 0.0
    for pairs in (one, two):
        model = variance_model(pairs)
        factor = variance_ratio(pairs, model)
        low, high = score_interval(pairs.auc, model.variance)
        total += factor * model.variance((low + high) / 2)
    return (1 - _rank_correlation(first, second)) * total


def _rank_correlation(first: ScoreTable, second: ScoreTable) -> float:
    """Mean rank correlation of the strategies' scores within cells, at least 0.

    The lower of two: over all findings of a cell, and within its classes.
    """
    totals, weights = [0.0, 0.0], [0.0, 0.0]
    for number, inside in first.cells:
        groups = [(0, inside), *((1, inside[first.labels[inside] == label]) for label in (0, 1))]
        for kind, members in groups:
            a, b = (mid_ranks(table.scores[number, members]) for table in (first, second))
            if len(members) >= 3 and np.ptp(a) > 0 and np.ptp(b) > 0:
                totals[kind] += len(members) * float(np.corrcoef(a, b)[0, 1])
                weights[kind] += len(members)
    means = (
        total / weight if weight else 0.0 for total, weight in zip(totals, weights, strict=True)
    )
    return max(0.0, min(means))
