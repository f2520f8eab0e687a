"""What luck alone gives: the AUCs of networks that know nothing, and of the best of many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hydrakit.stats.findings import Floats

EXACT_PAIRS = 20_000
STEPS = 20_001


@dataclass(frozen=True, kw_only=True)
class ChanceAucs:
    """The distribution of the AUC of scores that have nothing to do with the labels.

    Attributes:
        aucs: Its values, ascending.
        below: Probability of each value or a lower one.
        exact: Whether it is the exact one, not the normal approximation.
    """

    aucs: Floats
    below: Floats
    exact: bool


@dataclass(frozen=True, kw_only=True)
class BestOfChance:
    """The highest AUC of several networks that know nothing, on one set of findings.

    Attributes:
        models: Number of networks.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        expected: Mean of the highest AUC.
        low: Its 2.5 % quantile.
        median: Its median.
        high: Its 97.5 % quantile.
        exact: Whether they are from the exact distribution.
    """

    models: int
    positives: int
    negatives: int
    expected: float
    low: float
    median: float
    high: float
    exact: bool


def chance_aucs(positives: int, negatives: int) -> ChanceAucs:
    """How the AUC is distributed where every order of the scores is equally likely.

    Up to 20,000 pairs exactly, by Mann and Whitney's recurrence; beyond by the normal distribution
    of mean 1/2 and variance ``(m + n + 1) / (12 m n)``. No two scores are equal.

    Raises:
        ValueError: A class has no case.

    Source: Mann and Whitney 1947, Ann. Math. Stat. 18:50-60.
    """
    if positives < 1 or negatives < 1:
        raise ValueError(
            f"an AUC needs cases of both classes: got {positives} positive and {negatives} negative"
        )
    pairs = positives * negatives
    if pairs <= EXACT_PAIRS:
        below = np.minimum(np.cumsum(_wins(positives, negatives)), 1.0)
        below[-1] = 1.0
        return ChanceAucs(aucs=np.arange(pairs + 1) / pairs, below=below, exact=True)
    aucs = np.linspace(0, 1, STEPS)
    normal = NormalDist(0.5, math.sqrt((positives + negatives + 1) / (12 * pairs)))
    half = 0.5 / (STEPS - 1)
    below = np.array([normal.cdf(auc + half) for auc in aucs])
    below[-1] = 1.0
    return ChanceAucs(aucs=aucs, below=below, exact=False)


def _wins(positives: int, negatives: int) -> Floats:
    """Probability of each number of pairs won, ``(positives * negatives + 1,)``.

    The highest of all scores belongs to a positive case with probability i / (i + j), which then
    wins j pairs; what is left is the same for i - 1 or j - 1 cases.
    """
    rows = [np.ones(1) for _ in range(negatives + 1)]
    for i in range(1, positives + 1):
        new = [np.ones(1)]
        for j in range(1, negatives + 1):
            found = np.zeros(i * j + 1)
            found[j:] += i / (i + j) * rows[j]
            found[: i * (j - 1) + 1] += j / (i + j) * new[j - 1]
            new.append(found)
        rows = new
    return rows[negatives]


def best_of_chance(positives: int, negatives: int, models: int) -> BestOfChance:
    """What the best of so many networks that know nothing has, on one validation split.

    The networks are taken to be independent. Random starts of one body are alike, so that the best
    of them is a little lower than this by luck alone; and findings of one patient that get alike
    scores make every AUC vary more, so that it is higher.

    Raises:
        ValueError: There is no network, or a class has no case.
    """
    if models < 1:
        raise ValueError(f"the best is of 1 network or more: got {models}")
    chance = chance_aucs(positives, negatives)
    below = chance.below**models
    low, median, high = (
        float(chance.aucs[np.searchsorted(below, share - 1e-12)]) for share in (0.025, 0.5, 0.975)
    )
    return BestOfChance(
        models=models,
        positives=positives,
        negatives=negatives,
        expected=float(chance.aucs @ np.diff(below, prepend=0.0)),
        low=low,
        median=median,
        high=high,
        exact=chance.exact,
    )
