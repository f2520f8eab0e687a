"""Calibrated probabilities and decisions of a trained network (`hydrakit.plan.decision`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydrakit.plan.decision import Calibration

Floats = NDArray[np.float64]


def calibrated(probabilities: Floats, calibration: Calibration | None) -> Floats:
    """Apply a calibration to the probabilities of a classification.

    Args:
        probabilities: Probabilities of the classes, ``(cases, classes)``.
        calibration: The calibration; None returns the probabilities as they are.
    """
    if calibration is None:
        return probabilities
    from scipy.special import expit, logit, softmax

    inner = probabilities.clip(np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    if calibration.method == "temperature":
        return np.asarray(softmax(calibration.slope * np.log(inner), axis=1), dtype=np.float64)
    second = expit(calibration.slope * logit(inner[:, 1]) + calibration.intercept)
    return np.column_stack([1 - second, second])
