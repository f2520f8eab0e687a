"""How far a figure from few cases can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist


def newcombe_interval(
    auc: float, positives: int, negatives: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of an AUC, from the AUC and the numbers of cases alone.

    It holds every true AUC ``theta`` from which the one found lies at most ``z`` standard errors
    away, the standard error being that of ``theta`` itself. So it stays within [0, 1], is not
    symmetric, and is not a point where the AUC found is 0 or 1.

    Args:
        auc: The AUC found, in [0, 1].
        positives: Number of positive cases.
        negatives: Number of negative cases.
        level: Confidence, in (0, 1).

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: The AUC or the level is outside its range, or a class has no case.

    Source: Newcombe 2006, Statistics in Medicine 25:559-573, method 5.
    """
    if not 0 <= auc <= 1:
        raise ValueError(f"an AUC is between 0 and 1: got {auc}")
    if positives < 1 or negatives < 1:
        raise ValueError(
            f"an interval needs cases of both classes: got {positives} positive and "
            f"{negatives} negative"
        )
    if not 0 < level < 1:
        raise ValueError(f"a confidence level is between 0 and 1: got {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)

    def is_near(theta: float) -> bool:
        return abs(theta - auc) < z * math.sqrt(_variance(theta, positives, negatives))

    low = 0.0 if auc == 0 else _bisect(auc, 0.0, is_near)
    high = 1.0 if auc == 1 else _bisect(auc, 1.0, is_near)
    return low, high


def _variance(theta: float, positives: int, negatives: int) -> float:
    """Variance of the Mann-Whitney statistic where scores are exponential and the AUC is theta.

    Both group sizes are replaced by their mean, as in Newcombe's methods 4 and 5.
    """
    others = (positives + negatives) / 2 - 1
    pairs = others * (1 - theta) / (2 - theta) + others * theta / (1 + theta)
    return theta * (1 - theta) * (1 + pairs) / (positives * negatives)


def _bisect(inside: float, outside: float, is_inside: Callable[[float], bool]) -> float:
    """The edge between a point inside and one outside, to the last bit, on the outer side."""
    while True:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            return outside
        if is_inside(middle):
            inside = middle
        else:
            outside = middle
