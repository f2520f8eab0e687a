"""Metrics of scores and of predicted numbers: AUC, mean absolute error, R2."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydrakit.stats.findings import Floats


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive case scores higher than a negative one.

    Ties count one half. It is the Mann-Whitney statistic U / mn, from the ranks of the scores, and
    exact until the last division.

    Args:
        scores: ``(cases,)``, higher for positive.
        labels: ``(cases,)``, 1 (or true) for positive and 0 (or false) for negative cases.

    Raises:
        ValueError: A class is missing, a score is not a number, or a label is neither 0 nor 1.

    Source: Hanley and McNeil 1982, Radiology 143:29-36.
    """
    values = np.asarray(scores, dtype=np.float64)
    positive = _as_mask(labels)
    if values.ndim != 1 or values.shape != positive.shape:
        raise ValueError(
            f"AUC needs one score and one label per case: got the shapes {values.shape} and "
            f"{positive.shape}"
        )
    if np.isnan(values).any():
        raise ValueError("a score is not a number (NaN)")
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"AUC needs cases of both classes: got {positives} positive and {negatives} negative"
        )
    rank_sum = mid_ranks(values)[positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def _as_mask(labels: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(labels)
    if array.dtype != np.bool_ and not ((array == 0) | (array == 1)).all():
        raise ValueError("AUC needs labels that are 0 or 1")
    return array.astype(np.bool_)


def mid_ranks(scores: Floats) -> Floats:
    """Ranks of scores from 1; equal scores share the mean of their ranks.

    The same numbers as ``scipy.stats.rankdata``, without the half second in which `scipy.stats` is
    imported: training needs an AUC after every epoch.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)


def mean_absolute_error(predicted: ArrayLike, observed: ArrayLike) -> float:
    """Mean absolute difference of predicted and observed numbers, in their own unit.

    Raises:
        ValueError: The shapes differ, there are no cases, or a number is not finite.
    """
    predictions, observations = _number_pairs(predicted, observed)
    return float(np.mean(np.abs(predictions - observations)))


def r_squared(predicted: ArrayLike, observed: ArrayLike) -> float:
    """Coefficient of determination: 1 is perfect, 0 no better than the mean of the observations.

    Where all observations are equal it is 1 for a perfect prediction and 0 for any other.

    Raises:
        ValueError: As `mean_absolute_error`.
    """
    predictions, observations = _number_pairs(predicted, observed)
    residual = float(np.sum((predictions - observations) ** 2))
    total = float(np.sum((observations - observations.mean()) ** 2))
    return 1 - residual / total if total > 0 else float(residual == 0)


def _number_pairs(predicted: ArrayLike, observed: ArrayLike) -> tuple[Floats, Floats]:
    predictions, observations = (np.asarray(part, np.float64) for part in (predicted, observed))
    if predictions.shape != observations.shape or predictions.size == 0:
        raise ValueError(
            f"every predicted number needs an observed one: got the shapes {predictions.shape} and "
            f"{observations.shape}"
        )
    if not (np.isfinite(predictions).all() and np.isfinite(observations).all()):
        raise ValueError("a number is not finite")
    return predictions, observations
