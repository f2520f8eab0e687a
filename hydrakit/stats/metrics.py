"""How well a network does, from its logits: softmax and the figures that need it.

Arrays are ``(cases, classes)`` for logits and probabilities and ``(cases,)`` for scores and labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """The probabilities ``(cases, classes)`` of logits, each row's sum being 1.

    Raises:
        ValueError: The logits are not a table of finite numbers.
    """
    shifted = _shifted(logits)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels, in nats.

    Raises:
        ValueError: There are no cases, the logits are not finite, or a label is no class.
    """
    shifted = _shifted(logits)
    indices = _labels(labels, shifted)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sums - shifted[np.arange(len(indices)), indices]))


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of the cases whose label has the highest score; of equal ones the first counts.

    Args:
        scores: ``(cases, classes)``, logits or probabilities alike.
        labels: ``(cases,)``.

    Raises:
        ValueError: There are no cases, a score is not a number, or a label is no class.
    """
    table = _table(scores)
    return float(np.mean(table.argmax(axis=1) == _labels(labels, table)))


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive case scores higher than a negative one.

    Ties count one half. It is the Mann-Whitney statistic U / mn, from the ranks of the scores.

    Args:
        scores: ``(cases,)``, higher for positive.
        labels: ``(cases,)``, 1 for positive and 0 for negative cases.

    Raises:
        ValueError: A class is missing, a score is not a number, or a label is neither 0 nor 1.

    Source: Hanley and McNeil 1982, Radiology 143:29-36.
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(
            f"AUC needs as many scores as labels, in one row each: got the shapes "
            f"{values.shape} and {truth.shape}"
        )
    if np.isnan(values).any():
        raise ValueError("a score is not a number (NaN)")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("AUC of one row of scores needs the labels 0 and 1")
    positive = truth == 1
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"AUC needs cases of both classes: got {positives} positive and {negatives} negative"
        )
    rank_sum = _mid_ranks(values)[positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def auc_from_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """AUC of a network's probabilities.

    With two classes it is the AUC of class 1's probability. With more it is the mean over the
    classes of each one's AUC against all others (macro average, one versus rest).

    Raises:
        ValueError: A class has no case, a probability is not a number, or a label is no class.
    """
    table = _table(probabilities)
    indices = _labels(labels, table)
    classes = table.shape[1]
    if classes < 2:
        raise ValueError(f"AUC needs two classes or more: got {classes}")
    missing = sorted(set(range(classes)) - set(indices.tolist()))
    if missing:
        raise ValueError(
            f"AUC needs cases of every class: none of the {len(indices)} labels is {missing[0]}"
        )
    if classes == 2:
        return auc(table[:, 1], indices)
    return float(np.mean([auc(table[:, k], (indices == k).astype(int)) for k in range(classes)]))


def mean_absolute_error(numbers: ArrayLike, truth: ArrayLike) -> float:
    """Mean distance of predicted numbers from the true ones, in their own unit.

    Raises:
        ValueError: The shapes differ, there are no cases, or a number is not finite.
    """
    found, wanted = _numbers(numbers, truth)
    return float(np.mean(np.abs(found - wanted)))


def r_squared(numbers: ArrayLike, truth: ArrayLike) -> float:
    """Coefficient of determination: 1 is perfect, 0 no better than the mean of the true numbers.

    Where all true numbers are equal it is 1 for a perfect prediction and 0 for any other.

    Raises:
        ValueError: As `mean_absolute_error`.
    """
    found, wanted = _numbers(numbers, truth)
    left = float(np.sum((found - wanted) ** 2))
    spread = float(np.sum((wanted - wanted.mean()) ** 2))
    return 1 - left / spread if spread > 0 else float(left == 0)


def auc_from_logits(logits: ArrayLike, labels: ArrayLike) -> float:
    """AUC of the probabilities that softmax makes of logits; see `auc_from_probabilities`.

    Raises:
        ValueError: A class has no case, a logit is not finite, or a label is no class.
    """
    return auc_from_probabilities(softmax(logits), labels)


def _numbers(
    numbers: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found, wanted = np.asarray(numbers, np.float64), np.asarray(truth, np.float64)
    if found.shape != wanted.shape or found.size == 0:
        raise ValueError(
            f"as many predicted numbers as true ones are needed: got the shapes {found.shape} and "
            f"{wanted.shape}"
        )
    if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        raise ValueError("a number is not finite")
    return found, wanted


def _mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _table(scores: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"scores are a table (cases, classes): got the shape {table.shape}")
    if np.isnan(table).any():
        raise ValueError("a score is not a number (NaN)")
    return table


def _shifted(logits: ArrayLike) -> NDArray[np.float64]:
    """Logits less the largest of their row, so that no exponential overflows."""
    table = _table(logits)
    if not np.isfinite(table).all():
        raise ValueError("a logit is infinite")
    shifted: NDArray[np.float64] = table - table.max(axis=1, keepdims=True)
    return shifted


def _labels(labels: ArrayLike, table: NDArray[np.float64]) -> NDArray[np.intp]:
    indices = np.asarray(labels)
    cases, classes = table.shape
    if cases == 0:
        raise ValueError("there are no cases")
    if indices.shape != (cases,) or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(
            f"{cases} labels, whole numbers, are needed: got the shape {indices.shape} of "
            f"{indices.dtype}"
        )
    if indices.min() < 0 or indices.max() >= classes:
        wrong = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"label {wrong} is no class: there are {classes}, from 0")
    return indices.astype(np.intp)
