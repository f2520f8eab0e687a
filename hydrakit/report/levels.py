"""Intervals that reports draw: of a validation AUC, and of a whole ROC curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.results import DataFacts
from hydrakit.report.svg import Point
from hydrakit.stats.intervals import newcombe_interval


def two_classes(facts: DataFacts, split: str, adapter: DatasetAdapter | None) -> list[int] | None:
    """Findings of each of the two classes in a split; None where the task is another.

    Args:
        facts: Of the dataset.
        split: Which findings.
        adapter: The dataset, where it is installed.
    """
    counts = facts.findings.get(split, {})
    classes = adapter.classes if adapter else tuple(counts)
    known = set(counts) <= set(classes)
    if len(classes) != 2 or not known or (adapter and adapter.task != "classification"):
        return None
    # Of a multi-label dataset that is not installed, cases with several labels count twice.
    if facts.cases and sum(facts.counts.get(split, {}).values()) != facts.cases.get(split):
        return None
    found = [counts.get(name, 0) for name in classes]
    return found if all(found) else None


def val_interval(auc: float | None, counts: Sequence[int] | None) -> tuple[float, float] | None:
    """Newcombe's 95 % interval of a validation AUC; None where there is no such AUC."""
    if auc is None or counts is None:
        return None
    return newcombe_interval(auc, counts[1], counts[0])


def roc_band(
    points: Sequence[Point], positives: float, negatives: float, *, level: float = 0.95
) -> list[Point]:
    """The outline of a band that holds the whole true ROC curve, with that confidence.

    Both rates are empirical distribution functions, each of which is nowhere further from the true
    one than Kolmogorov's quantile (at the level's square root) in as many of 100 samples.

    Args:
        points: Of the curve, from (0, 0) to (1, 1).
        positives: Number of independent positive cases.
        negatives: Number of independent negative cases.
        level: Confidence of the whole band.

    Source: Campbell 1994, Stat. Med. 13:499-508; the quantile as Stephens 1970, J. R. Stat. Soc. B
    32:115-122.
    """
    up, aside = (_kolmogorov(count, math.sqrt(level)) for count in (positives, negatives))
    above = [(max(0.0, x - aside), min(1.0, y + up)) for x, y in points]
    below = [(min(1.0, x + aside), max(0.0, y - up)) for x, y in points]
    upper = [(0.0, 0.0), (0.0, above[0][1]), *above, (1.0, 1.0)]
    lower = [(0.0, 0.0), *below, (1.0, below[-1][1]), (1.0, 1.0)]
    return upper + lower[::-1]


def _kolmogorov(count: float, level: float) -> float:
    """Kolmogorov's quantile for the largest error of an empirical distribution of ``count`` values.

    The count may be an effective one: ``scipy.stats.kstwo`` takes whole numbers only.
    """
    from scipy.special import kolmogi

    root = math.sqrt(count)
    return min(1.0, float(kolmogi(1 - level)) / (root + 0.12 + 0.11 / root))


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Means over as many values, centred; fewer at the ends, as many on both sides."""
    half = window // 2
    means = []
    for place in range(len(values)):
        reach = min(half, place, len(values) - 1 - place)
        part = values[place - reach : place + reach + 1]
        means.append(sum(part) / len(part))
    return means
