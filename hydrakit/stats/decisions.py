"""Calibrated probabilities and decisions of a trained network (`hydrakit.plan.decision`).

All rules and simulations behind them: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError
from hydrakit.plan.decision import (
    MAX_HELD_OUT,
    Aim,
    Calibration,
    Decision,
    HeldOut,
    Threshold,
)
from hydrakit.stats.findings import Floats

Labels = NDArray[np.int64]

WISHED = 0.9
"""Sensitivity that the threshold of a delivered head is chosen for."""

MIN_OTHERS = 5  # findings outside the largest class, below which no calibration is fitted
BOUNDS = ((-5.0, 5.0), (-20.0, 20.0))  # of log(slope) and intercept
SLOPE_SPREAD = INTERCEPT_SPREAD = 0.5  # of log(slope) and intercept around no change
MAX_NUMBERS = 20_000  # probabilities that a head's file holds: a third of its header at most
DIGITS = 9  # of the numbers in the file


def calibrated(probabilities: Floats, calibration: Calibration | None) -> Floats:
    """Apply a calibration to the probabilities of a classification.

    Args:
        probabilities: Probabilities of the classes, ``(cases, classes)``.
        calibration: The calibration; None returns the probabilities as they are.
    """
    if calibration is None:
        return probabilities
    from scipy.special import expit, softmax

    logarithms = np.log(_inner(probabilities))
    if calibration.method == "temperature":
        return np.asarray(softmax(calibration.slope * logarithms, axis=1), dtype=np.float64)
    # A probability near 1 is rounded; how near it is, the other one says.
    odds = calibration.slope * (logarithms[:, 1] - logarithms[:, 0]) + calibration.intercept
    return np.column_stack([expit(-odds), expit(odds)])


def _inner(probabilities: Floats) -> Floats:
    return probabilities.clip(np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)


def fit_decision(
    probabilities: Floats,
    labels: Labels,
    *,
    networks: int,
    source: Literal["validation", "out-of-fold"],
    aim: Aim = "sensitivity",
    wished: float = WISHED,
) -> Decision:
    """Choose calibration and threshold of a classification from findings that trained no network.

    What the findings are too few for is None, and a note says so.

    Args:
        probabilities: Probabilities of the classes, ``(findings, classes)``: means over the
            networks, and over the images of each finding.
        labels: Class of each finding, ``(findings,)``.
        networks: Number of networks whose mean the probabilities are.
        source: What findings these are.
        aim: What the threshold is chosen for, with two classes.
        wished: Wished sensitivity or specificity.
    """
    notes = []
    others = len(labels) - int(np.bincount(labels, minlength=probabilities.shape[1]).max())
    calibration = None
    if others < MIN_OTHERS:
        notes.append(
            f"Probabilities are not calibrated: at least {MIN_OTHERS} {source} findings outside "
            f"the most frequent class are needed, and there are {others}."
        )
    else:
        calibration = fit_calibration(probabilities, labels)
    held_out = _held_out(probabilities, labels)
    threshold = None
    if probabilities.shape[1] == 2:
        try:
            threshold = threshold_for(held_out, calibration, aim, wished)
        except DataError as error:
            notes.append(f"There is no threshold: {error}.")
    return Decision(
        networks=networks,
        source=source,
        calibration=calibration,
        threshold=threshold,
        held_out=held_out if len(labels) else None,
        notes=tuple(notes),
    )


def fit_calibration(
    probabilities: Floats,
    labels: Labels,
    *,
    slope_spread: float = SLOPE_SPREAD,
    intercept_spread: float = INTERCEPT_SPREAD,
) -> Calibration:
    """Fit Platt scaling (two classes) or a temperature (more) by penalised maximum likelihood.

    The penalty is that of normal distributions of ``log(slope)`` and of ``intercept`` around 0, so
    few findings change the probabilities little, and the log loss of the findings never grows.

    Args:
        probabilities: Probabilities of the classes, ``(findings, classes)``.
        labels: Class of each finding, ``(findings,)``.
        slope_spread: Standard deviation of ``log(slope)``; ``inf`` for no penalty.
        intercept_spread: Standard deviation of the intercept; ``inf`` for no penalty.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logarithms = np.log(_inner(probabilities))
    two = probabilities.shape[1] == 2
    true = np.eye(probabilities.shape[1])[labels]
    spreads = np.array([slope_spread, intercept_spread] if two else [slope_spread])

    def loss(values: Floats) -> tuple[float, Floats]:
        """Loss for ``log(slope)`` and intercept, and its gradient."""
        scaled = math.exp(values[0]) * logarithms
        shifted = scaled + np.array([0.0, values[1]]) if two else scaled
        given = log_softmax(shifted, axis=1)
        excess = np.exp(given) - true
        gradient = [(excess * scaled).sum(), excess[:, 1].sum()][: len(values)]
        penalty = values / spreads**2
        value = float(penalty @ values) / 2 - float((true * given).sum())
        return value, np.array(gradient) + penalty

    start = np.zeros(len(spreads))
    fitted = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=BOUNDS[: len(start)],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    values = fitted.x if fitted.fun < loss(start)[0] else start
    slope, *intercept = (float(f"{each:.{DIGITS}g}") for each in (math.exp(values[0]), *values[1:]))
    if two:
        return Calibration(method="platt", slope=slope, intercept=intercept[0])
    return Calibration(method="temperature", slope=slope)


def _held_out(probabilities: Floats, labels: Labels) -> HeldOut:
    """Findings for a head's file: all of them, or a random share of very many."""
    most = max(1, min(MAX_HELD_OUT, MAX_NUMBERS // probabilities.shape[1]))
    if len(labels) > most:
        chosen = np.sort(np.random.default_rng(0).choice(len(labels), most, replace=False))
        probabilities, labels = probabilities[chosen], labels[chosen]
    return HeldOut(
        labels=tuple(labels.tolist()),
        probabilities=tuple(
            tuple(float(f"{value:.{DIGITS}g}") for value in row) for row in probabilities.tolist()
        ),
    )


def threshold_for(
    held_out: HeldOut, calibration: Calibration | None, aim: Aim, wished: float = WISHED
) -> Threshold:
    """Choose the threshold between two classes from held-out findings.

    For a sensitivity it is the largest threshold that detects at least the share
    ``wished * (n + 1) / n`` of the ``n`` findings of the second class; for a specificity the
    smallest one that leaves so many of the first class below it. So new findings have the wished
    share on average, over held-out findings; the share ``wished`` itself would give less. Of all
    thresholds that decide the findings alike it is the middle, so that rounding changes no
    decision. Findings with equal probabilities are decided alike; then the share may be higher.

    Args:
        held_out: The findings.
        calibration: Calibration of their probabilities.
        aim: What the threshold is chosen for.
        wished: Wished sensitivity or specificity, above 0 and below 1.

    Raises:
        DataError: There are not two classes, the wish is out of range, the findings are too few for
            it, or no threshold fulfils it.
    """
    probabilities, labels = arrays_of(held_out)
    if probabilities.shape[1] != 2:
        raise DataError("a threshold is for two classes: leave out the wished " + aim)
    if not 0 < wished < 1:
        raise DataError(f"a wished {aim} is above 0 and below 1: got {wished:g}")
    scores = calibrated(probabilities, calibration)[:, 1]
    positive, negative = scores[labels == 1], scores[labels == 0]
    own, which = (positive, "positive") if aim == "sensitivity" else (negative, "negative")
    needed = needed_for(wished)
    if len(own) < needed or not (len(positive) and len(negative)):
        raise DataError(
            f"a {aim} of {wished:g} needs at least {needed} {which} held-out findings and one of "
            f"the other class, and there are {len(positive)} positive and {len(negative)} negative "
            "ones"
        )
    rank = _rank(wished, len(own))
    if aim == "sensitivity":
        high = float(np.sort(own)[::-1][rank - 1])
        low = float(scores[scores < high].max(initial=0.0))
    else:
        low = float(np.sort(own)[rank - 1])
        high = float(scores[scores > low].min(initial=1.0))
        if high <= low:
            raise DataError(
                f"no threshold has a specificity of {wished:g}: too many negative findings have a "
                "probability of 1"
            )
    middle = (low + high) / 2
    value = middle if low < middle <= high else high
    return Threshold(
        aim=aim,
        wished=wished,
        value=value,
        sensitivity=float((positive >= value).mean()),
        specificity=float((negative < value).mean()),
    )


def needed_for(share: float) -> int:
    """Least number of findings of a class that show a share of new findings (9 for 0.9)."""
    return math.ceil(share / (1 - share) - 1e-9)


def _rank(share: float, count: int) -> int:
    """Number of findings that must be inside for new ones to be inside with a probability.

    Of ``count + 1`` exchangeable findings, each is equally probable to have any rank.
    """
    return math.ceil(share * (count + 1) - 1e-9)


def decide(probabilities: Floats, threshold: Threshold | None) -> NDArray[np.intp]:
    """Predicted class of each case, ``(cases,)``.

    Args:
        probabilities: Probabilities of the classes after calibration, ``(cases, classes)``.
        threshold: Threshold between two classes; None for the most probable class.
    """
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1), dtype=np.intp)
    return (probabilities[:, 1] >= threshold.value).astype(np.intp)


def prediction_sets(
    probabilities: Floats,
    decision: Decision,
    coverage: float,
    classes: Sequence[str] | None = None,
) -> NDArray[np.bool_]:
    """Classes that a case may belong to, ``(cases, classes)``, by split conformal prediction.

    Of the findings of each class, the set holds the true class for at least the wished share, on
    average over held-out findings, if cases and held-out findings are exchangeable. A set may be
    empty: then the case resembles no class.

    Args:
        probabilities: Probabilities of the classes before calibration, ``(cases, classes)``.
        decision: Decision with held-out findings.
        coverage: Wished share, above 0 and below 1.
        classes: Names of the classes, for messages; None for numbers.

    Raises:
        DataError: The coverage is out of range, or the held-out findings are too few for it.

    Source: Angelopoulos and Bates 2023, Found. Trends Mach. Learn. 16:494-591 (sections 1 and 4.2).
    """
    if not 0 < coverage < 1:
        raise DataError(f"a coverage is above 0 and below 1: got {coverage:g}")
    scores = np.zeros((0, probabilities.shape[1]))
    labels = np.zeros(0, dtype=np.int64)
    if decision.held_out is not None:
        scores, labels = arrays_of(decision.held_out)
    sets = np.zeros(probabilities.shape, dtype=np.bool_)
    needed = needed_for(coverage)
    for number in range(probabilities.shape[1]):
        own = np.sort(1 - scores[labels == number, number])
        if len(own) < needed:
            raise DataError(
                f"prediction sets with a coverage of {coverage:g} need at least {needed} held-out "
                f"findings of each class, and class "
                f"{number if classes is None else repr(classes[number])} has {len(own)}: ask for a "
                "lower coverage"
            )
        largest = own[_rank(coverage, len(own)) - 1]
        sets[:, number] = 1 - probabilities[:, number] <= largest + 1e-9  # scores are rounded
    return sets


def arrays_of(held_out: HeldOut) -> tuple[Floats, Labels]:
    """Probabilities ``(findings, classes)`` and labels ``(findings,)`` of held-out findings."""
    labels = np.array(held_out.labels, dtype=np.int64)
    probabilities = np.array(held_out.probabilities, dtype=np.float64)
    return probabilities.reshape(len(labels), -1) if len(labels) else np.zeros((0, 2)), labels
