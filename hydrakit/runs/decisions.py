"""Decisions of a run's heads: fitted on validation findings, judged on test findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrakit.plan.decision import Decision
from hydrakit.stats.findings import Findings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hydrakit.runs.evaluate import Predictions


def decision_of(predictions: Predictions, *, networks: int = 1) -> Decision | None:
    """Choose calibration and threshold from the predictions of a validation split.

    Args:
        predictions: Predictions: means over the networks.
        networks: Number of networks.

    Returns:
        The decision; None if the task is not a classification.
    """
    from hydrakit.stats.decisions import fit_decision

    if predictions.task != "classification":
        return None
    _, probabilities, labels = by_finding(predictions)
    return fit_decision(
        probabilities, labels.astype("int64"), networks=networks, source="validation"
    )


def by_finding(
    predictions: Predictions,
) -> tuple[Findings, NDArray[np.float64], NDArray[np.int64] | NDArray[np.float64]]:
    """Findings of predictions, with the mean predictions for their images, and their labels."""
    from hydrakit.stats import tasks

    findings = Findings.of(predictions.findings or predictions.keys)
    images = tasks.predictions(predictions.outputs, task=predictions.task, scale=predictions.scale)
    return findings, findings.mean_scores(images), predictions.labels[findings.firsts]
