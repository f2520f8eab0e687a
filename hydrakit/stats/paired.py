"""Two strategies on the same findings: their difference, its interval, and its p-value.

What is computed, what was tried, and the simulations behind it: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError
from hydrakit.stats.findings import Floats
from hydrakit.stats.intervals import (
    PRIOR_CORRELATION,
    Spread,
    model_of,
    quantile,
    ratio_of,
    score_interval,
    spread_of,
    t_level,
    t_quantile,
)
from hydrakit.stats.tested import Pairs, ScoreTable, pairs_of

EXACT_PATIENTS = 12
DRAWS = 20_000
TINY = 1e-12
FLOOR = 0.25  # of the variance that the strategies' likeness lets one expect


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The mean AUC of one strategy less that of another, on the same findings.

    Attributes:
        first: Mean AUC of the one.
        second: Mean AUC of the other.
        difference: First less second.
        low: Lower end of the interval, -1 or more.
        high: Upper end, 1 or less.
        level: Its confidence.
        p: Two-sided, of no difference; before any correction for several comparisons.
        exact: Whether all sign patterns were tried, not random ones.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        patients: Number of patients.
        passes: Number of passes (seeds times repeats) in the mean.
        error: Standard error of the difference.
        training: The part of its variance that other random starts would change; 0 for one pass,
            which cannot tell.
        needed: Findings (as many per patient, and as many positive among them) of which a
            difference as large as the one found is detected at the 5 % level in 80 of 100 studies;
            infinite where no difference was found.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    p: float
    exact: bool
    positives: int
    negatives: int
    patients: int
    passes: int
    error: float
    training: float
    needed: float


def compare(
    first: ScoreTable, second: ScoreTable, *, seed: int = 0, level: float = 0.95
) -> PairedDifference:
    """Compare two strategies that were tested on the same findings in the same folds.

    The interval is ``difference +- t * error``, with the error from patients and trainings
    (`hydrakit.stats.intervals.spread_of`) and Satterthwaite's degrees of freedom. The p-value is
    a sign-flip test of what each patient adds to the difference (`sign_flip`): all sign patterns
    where 12 patients or fewer add something, else random ones. Where the passes differ by more
    than patients explain, which no flipping of patients can see, it is at least that of the
    t-test with the same error. Of a strategy and itself it is 1, and the interval is (0, 0).

    Args:
        first: One strategy.
        second: The other.
        seed: Of the random sign patterns.
        level: Confidence of the interval.

    Raises:
        DataError: The two were not tested on the same findings in the same folds.
        ValueError: The level is outside its range.
    """
    _must_match(first, second)
    one, two = pairs_of(first), pairs_of(second)
    difference = one.auc - two.auc
    found = _spread(one, two)
    variance = found.variance
    if not _same(first, second):
        variance = max(variance, FLOOR * _expected_variance(first, second, one, two))
    p, exact = sign_flip(_contributions(one, two), seed=seed)
    if found.training > 0:
        p = max(p, 1 - t_level(abs(difference) / math.sqrt(variance), found.freedom))
    half = t_quantile(level, found.freedom) * math.sqrt(variance)
    return PairedDifference(
        first=one.auc,
        second=two.auc,
        difference=difference,
        low=max(-1.0, difference - half),
        high=min(1.0, difference + half),
        level=level,
        p=p,
        exact=exact,
        positives=len(one.positives),
        negatives=len(one.negatives),
        patients=len(np.unique(first.patients)),
        passes=len(first.passes),
        error=math.sqrt(variance),
        training=found.training,
        needed=findings_needed(difference, math.sqrt(variance), len(first.findings)),
    )


def sign_flip(
    contributions: NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, bool]:
    """Two-sided p-value of a sum, each part of which is as likely to have the other sign.

    Args:
        contributions: ``(patients,)``; those that are 0 change nothing.
        draws: Random sign patterns ``n`` where there are too many to try all; the p-value is then
            ``(b + 1) / (n + 1)``, which is never 0 (Phipson and Smyth 2010).
        seed: Of the random patterns.

    Returns:
        The p-value, and whether all sign patterns were tried.

    Source: Hemerik, Goeman and Finos 2020, J. R. Stat. Soc. B 82:841-864.
    """
    found = abs(float(contributions.sum()))
    parts = contributions[np.abs(contributions) > TINY]
    if len(parts) <= EXACT_PATIENTS:
        sums = np.zeros(1)
        for part in parts:
            sums = np.concatenate([sums + part, sums - part])
        return float(np.mean(np.abs(sums) >= found - TINY)), True
    generator = np.random.default_rng(seed)
    beyond = 0
    for start in range(0, draws, 2000):
        count = min(2000, draws - start)
        signs = generator.integers(0, 2, (count, len(parts)), dtype=np.int8) * 2.0 - 1.0
        beyond += int(np.count_nonzero(np.abs(signs @ parts) >= found - TINY))
    return (beyond + 1) / (draws + 1), False


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of a family: their smallest family-wise level of rejection.

    Args:
        p_values: By name of the comparison.

    Returns:
        The same names in the same order.

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
    difference: float, error: float, findings: int, *, power: float = 0.8, level: float = 0.95
) -> float:
    """How many findings such a difference needs to be detected.

    The variance falls as 1 / findings, with the same share of positives, the same number per
    patient and the same correlations. The difference found is itself uncertain, so that the number
    is a rough one: it is what would be needed *if* the difference found were the true one.

    Args:
        difference: That was found.
        error: Its standard error.
        findings: Number of findings it was found on.
        power: Wanted probability of detecting it.
        level: 1 less the level of the two-sided test.

    Returns:
        A number of findings; infinite where the difference is 0.

    Raises:
        ValueError: The power or the level is outside (0, 1).
    """
    if not 0 < power < 1:
        raise ValueError(f"a power is between 0 and 1: got {power}")
    if abs(difference) <= TINY:
        return math.inf
    wanted = quantile(level) + NormalDist().inv_cdf(power)
    return findings * (wanted * error / difference) ** 2


def _must_match(first: ScoreTable, second: ScoreTable) -> None:
    """Refuse strategies that were not tested on the same cases in the same folds."""
    passes = [[f"{seed}, {repeat}" for seed, repeat in part.passes] for part in (first, second)]
    for what, one, two in (
        ("findings", list(first.findings), list(second.findings)),
        ("seeds and repeats", *passes),
    ):
        if one != two:
            odd = min(set(one) ^ set(two))
            raise DataError(
                f"two strategies must be tested on the same {what}: {odd!r} is of one alone: "
                "finish both, or compare what both have"
            )
    for what, left, right in (
        ("labels", first.labels, second.labels),
        ("patients", first.patients, second.patients),
        ("folds", first.folds, second.folds),
    ):
        if not np.array_equal(left, right):
            raise DataError(f"two strategies must be tested on the same {what}")


def _same(first: ScoreTable, second: ScoreTable) -> bool:
    """Whether the two give the findings of every cell the same ranks."""
    return all(
        np.array_equal(ranks(first.scores[index, inside]), ranks(second.scores[index, inside]))
        for index, inside in first.cells
    )


def ranks(scores: Floats) -> Floats:
    """Ranks from 1; equal scores share the mean of theirs."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)


def _spread(one: Pairs, two: Pairs) -> Spread:
    parts = [a - b for a, b in zip(one.components, two.components, strict=True)]
    return spread_of(one, (parts[0], parts[1]), one.pass_aucs - two.pass_aucs)


def _contributions(one: Pairs, two: Pairs) -> Floats:
    """What each patient adds to the difference, their sum being the difference.

    The patient's components, with its share of the difference put back: what swapping the two
    strategies' scores of this patient would turn round.
    """
    size, difference = one.patients, one.auc - two.auc
    weights = one.weights.sum(axis=0)
    share = np.bincount(one.positives, weights.sum(axis=1), size)
    share += np.bincount(one.negatives, weights.sum(axis=0), size)
    parts = [(a - b).sum(axis=0) for a, b in zip(one.components, two.components, strict=True)]
    return np.asarray(parts[0] + parts[1] + difference * share / 2, dtype=np.float64)


def _expected_variance(first: ScoreTable, second: ScoreTable, one: Pairs, two: Pairs) -> float:
    """The variance that two AUCs have whose scores go together as these do.

    For few findings that all networks rank alike, in which nothing is seen to vary.
    """
    total = 0.0
    for pairs in (one, two):
        model = model_of(pairs, correlation=PRIOR_CORRELATION)
        factor = ratio_of(pairs, model)
        low, high = score_interval(pairs.auc, model.variance)
        total += factor * model.variance((low + high) / 2)
    return (1 - _likeness(first, second)) * total


def _likeness(first: ScoreTable, second: ScoreTable) -> float:
    """Mean rank correlation of the strategies' scores within cells, 0 or more.

    The lower of that of all findings and that within classes.
    """
    totals, weights = [0.0, 0.0], [0.0, 0.0]
    for index, inside in first.cells:
        groups = [(0, inside), *((1, inside[first.labels[inside] == label]) for label in (0, 1))]
        for kind, chosen in groups:
            a, b = (ranks(tested.scores[index, chosen]) for tested in (first, second))
            if len(chosen) >= 3 and np.ptp(a) > 0 and np.ptp(b) > 0:
                totals[kind] += len(chosen) * float(np.corrcoef(a, b)[0, 1])
                weights[kind] += len(chosen)
    return max(
        0.0,
        min(
            total / weight if weight else 0.0 for total, weight in zip(totals, weights, strict=True)
        ),
    )
