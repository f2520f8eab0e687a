"""AUCs of random classifiers: the distribution of one AUC, and of the best of several."""

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
    """Distribution of the AUC of scores that are unrelated to the labels.

    Attributes:
        aucs: Possible values of the AUC, ascending.
        below: Probability of each value or a lower one.
    """

    aucs: Floats
    below: Floats


@dataclass(frozen=True, kw_only=True)
class BestOfChance:
    """Distribution of the highest AUC of several random classifiers on the same findings.

    Attributes:
        expected: Mean of the highest AUC.
        low: 2.5 % quantile.
        high: 97.5 % quantile.
    """

    expected: float
    low: float
    high: float


def chance_aucs(positives: int, negatives: int) -> ChanceAucs:
    """Distribution of the AUC where every order of the scores is equally likely.

    It is exact for up to 20,000 pairs (recurrence of Mann and Whitney), and otherwise the normal
    distribution of mean 1/2 and variance ``(m + n + 1) / (12 m n)``. No two scores are equal.

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
        below = np.minimum(np.cumsum(_win_probabilities(positives, negatives)), 1.0)
        below[-1] = 1.0
        return ChanceAucs(aucs=np.arange(pairs + 1) / pairs, below=below)
    aucs = np.linspace(0, 1, STEPS)
    normal = NormalDist(0.5, math.sqrt((positives + negatives + 1) / (12 * pairs)))
    half = 0.5 / (STEPS - 1)
    below = np.array([normal.cdf(auc + half) for auc in aucs])
    below[-1] = 1.0
    return ChanceAucs(aucs=aucs, below=below)


def _win_probabilities(positives: int, negatives: int) -> Floats:
    """Probability of each number of pairs won, ``(positives * negatives + 1,)``.

    The highest of all scores belongs to a positive case with probability i / (i + j). This case
    then wins j pairs, and i - 1 positive cases remain. Otherwise j - 1 negative cases remain.
    """
    rows = [np.ones(1) for _ in range(negatives + 1)]
    for i in range(1, positives + 1):
        new = [np.ones(1)]
        for j in range(1, negatives + 1):
            row = np.zeros(i * j + 1)
            row[j:] += i / (i + j) * rows[j]
            row[: i * (j - 1) + 1] += j / (i + j) * new[j - 1]
            new.append(row)
        rows = new
    return rows[negatives]


def best_of_chance(positives: int, negatives: int, models: int) -> BestOfChance:
    """Distribution of the best AUC of several random classifiers on one validation split.

    The classifiers are assumed to be independent. Random starts of one body are similar to one
    another, so their best is a little lower by chance; findings of one patient that get similar
    scores make every AUC vary more, so it is higher.

    Args:
        positives: Number of positive findings.
        negatives: Number of negative findings.
        models: Number of classifiers.

    Raises:
        ValueError: There is no classifier, or a class has no case.
    """
    if models < 1:
        raise ValueError(f"the best of several classifiers needs at least 1: got {models}")
    chance = chance_aucs(positives, negatives)
    below = chance.below**models
    low, high = (float(chance.aucs[np.searchsorted(below, q - 1e-12)]) for q in (0.025, 0.975))
    expected = float(chance.aucs @ np.diff(below, prepend=0.0))
    return BestOfChance(expected=expected, low=low, high=high)
