"""A stored decision, judged on findings that it was not chosen on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hydrakit.plan.decision import Decision
from hydrakit.plan.results import DecisionTest, Estimate, ProbabilityFigures
from hydrakit.stats.calibration import calibration_error
from hydrakit.stats.decisions import calibrated, decide
from hydrakit.stats.findings import Floats
from hydrakit.stats.intervals import (
    PRIOR_CORRELATION,
    clustered_variance,
    t_quantile,
    wilson_interval,
)

FINDINGS_PER_BIN = 5  # at least; the fraction in a smaller bin is not informative


def bins_of(findings: int) -> int:
    """Number of bins for a calibration error."""
    return max(2, min(10, findings // FINDINGS_PER_BIN))


def judge(
    decision: Decision,
    probabilities: Floats,
    labels: NDArray[np.int64],
    patients: Sequence[str],
    classes: Sequence[str],
) -> DecisionTest:
    """Judge a decision.

    Args:
        decision: The decision.
        probabilities: Probabilities before calibration, ``(findings, classes)``.
        labels: Class of each finding, ``(findings,)``; every class has one.
        patients: Patient of each finding.
        classes: Names of the classes.
    """
    _, owners = np.unique(np.asarray(patients), return_inverse=True)
    corrected = calibrated(probabilities, decision.calibration)
    predicted = decide(corrected, decision.threshold)
    count = len(classes)
    confusion = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
    has, two = decision.calibration is not None, count == 2

    def change(measure: Callable[[Floats, NDArray[np.int64]], Floats]) -> Estimate | None:
        difference = measure(corrected, labels) - measure(probabilities, labels)
        return clustered_mean(difference, owners) if has else None

    return DecisionTest(
        decision=decision.words(classes),
        threshold=decision.threshold,
        calibration=decision.calibration,
        before=_figures(probabilities, labels, owners),
        after=_figures(corrected, labels, owners) if has else None,
        log_loss_change=change(_losses),
        brier_change=change(_briers),
        sensitivity=_share(predicted[labels == 1] == 1, owners[labels == 1]) if two else None,
        specificity=_share(predicted[labels == 0] == 0, owners[labels == 0]) if two else None,
        classes=tuple(classes),
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def _figures(
    probabilities: Floats, labels: NDArray[np.int64], owners: NDArray[np.intp]
) -> ProbabilityFigures:
    if probabilities.shape[1] == 2:
        of_one, right = probabilities[:, 1], labels == 1
    else:
        of_one, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = calibration_error(of_one.clip(0, 1), right, bins=bins_of(len(labels)))
    return ProbabilityFigures(
        log_loss=clustered_mean(_losses(probabilities, labels), owners),
        brier=clustered_mean(_briers(probabilities, labels), owners),
        error=min(1.0, error.error),
        error_by_chance=min(1.0, error.by_chance_high),
    )


def _losses(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """Negative logarithm of each finding's probability of its class."""
    own = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(own.clip(np.finfo(np.float64).tiny, 1)))


def _briers(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """Squared difference of each finding; half of the sum over the classes if there are two."""
    squares = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    return np.asarray(squares[:, 1] if squares.shape[1] == 2 else squares.sum(axis=1))


def clustered_mean(values: Floats, owners: NDArray[np.intp]) -> Estimate:
    """Mean over findings, with a 95 % interval that allows for several findings of one patient.

    The standard error is that of the patients' sums around the mean (a cluster-robust one), the
    quantile is Student's with the number of patients minus 1 as degrees of freedom.

    Args:
        values: Value of each finding, ``(findings,)``.
        owners: Number of each finding's patient, ``(findings,)``.

    Source: Cameron and Miller 2015, J. Hum. Resour. 50:317-372.
    """
    mean = float(values.mean())
    sums = np.bincount(owners, values - mean)
    patients = len(np.unique(owners))
    if patients < 2:
        return Estimate(value=mean)
    error = math.sqrt(float(sums @ sums) * patients / (patients - 1)) / len(values)
    half = t_quantile(0.95, patients - 1) * error
    return Estimate(value=mean, low=mean - half, high=mean + half)


def _share(right: NDArray[np.bool_], owners: NDArray[np.intp]) -> Estimate:
    """Share of right findings, with Wilson's interval at the effective number of findings."""
    equal = np.full(len(right), 1 / len(right))
    effective = 1 / clustered_variance(equal, owners, PRIOR_CORRELATION)
    value = float(right.mean())
    low, high = wilson_interval(value, effective)
    return Estimate(value=value, low=low, high=high)
