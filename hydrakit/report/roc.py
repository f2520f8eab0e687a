"""ROC curves of a run's test split, from ``predictions.csv``, and their confidence bands."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydrakit.errors import PlanError, command_line, one_line
from hydrakit.plan.results import AreaUnderCurve, TestResult
from hydrakit.report.svg import Point
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.findings import Findings
from hydrakit.stats.label_cells import has_label
from hydrakit.stats.metrics import auc
from hydrakit.storage.files import read_rows


@dataclass(frozen=True, eq=False)
class RocCurve:
    """ROC curve of one class against the rest.

    Attributes:
        area: AUC of the class, as in ``results.json``.
        points: ``(false positive rate, true positive rate)`` from (0, 0) to (1, 1), one for each
            distinct score; findings of equal score form one sloped segment.
        scores: Probability of the class, averaged over the images of a finding, ``(findings,)``;
            without findings for which the label is unknown.
        positive: Whether a finding belongs to the class, ``(findings,)``.
    """

    area: AreaUnderCurve
    points: tuple[tuple[float, float], ...]
    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]


def roc_points(scores: ArrayLike, positive: ArrayLike) -> tuple[tuple[float, float], ...]:
    """Points of a ROC curve, from (0, 0) to (1, 1).

    Args:
        scores: ``(cases,)``, higher for positive.
        positive: ``(cases,)``, whether a case is positive; both kinds must occur.

    Source: Fawcett 2006, Pattern Recognition Letters 27:861-874, algorithm 1.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    last_of_its_score = np.append(values[1:] != values[:-1], True)
    true_rate = np.cumsum(truth)[last_of_its_score] / truth.sum()
    false_rate = np.cumsum(~truth)[last_of_its_score] / (~truth).sum()
    points = zip(false_rate.tolist(), true_rate.tolist(), strict=True)
    return ((0.0, 0.0), *points)


def roc_band(
    points: Sequence[Point], positives: float, negatives: float, *, level: float = 0.95
) -> list[Point]:
    """Outline of a simultaneous confidence band for the whole true ROC curve.

    Both rates are empirical distribution functions. The distance of each from the true one is at
    most Kolmogorov's quantile, with the square root of the level as probability.

    Args:
        points: Curve from (0, 0) to (1, 1).
        positives: Number of independent positive cases.
        negatives: Number of independent negative cases.
        level: Confidence level of the whole band.

    Source: Campbell 1994, Stat. Med. 13:499-508; the quantile as Stephens 1970, J. R. Stat. Soc. B
    32:115-122.
    """
    up, aside = (kolmogorov_quantile(count, math.sqrt(level)) for count in (positives, negatives))
    above = [(max(0.0, x - aside), min(1.0, y + up)) for x, y in points]
    below = [(min(1.0, x + aside), max(0.0, y - up)) for x, y in points]
    upper = [(0.0, 0.0), (0.0, above[0][1]), *above, (1.0, 1.0)]
    lower = [(0.0, 0.0), *below, (1.0, below[-1][1]), (1.0, 1.0)]
    return upper + lower[::-1]


def kolmogorov_quantile(count: float, level: float) -> float:
    """Quantile of the distance between an empirical and the true distribution function.

    Args:
        count: Number of values; it may be fractional, which `scipy.stats.kstwo` refuses.
        level: Probability of a smaller distance.
    """
    from scipy.special import kolmogi

    root = math.sqrt(count)
    return min(1.0, float(kolmogi(1 - level)) / (root + 0.12 + 0.11 / root))


def roc_curves(rundir: RunDir, test: TestResult) -> list[RocCurve]:
    """ROC curves of the test split, one for each class in the results.

    Raises:
        PlanError: ``predictions.csv`` is absent, broken, or does not match the results.
    """
    path = rundir.file("predictions.csv")
    command = command_line("hydrakit", "run", "--resume", rundir.path)
    remedy = f"delete {rundir.results_path} and `{command}`"
    try:
        labels, scores = _read_predictions(path, test)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}): {remedy}") from None
    except KeyError as error:
        raise PlanError(f"{path}: has no column {error}: {remedy}") from None
    except (ValueError, csv.Error) as error:
        raise PlanError(f"{path}: is broken ({one_line(str(error), 200)}): {remedy}") from None
    curves = []
    for area in test.classes:
        name, of_class = area.class_name, scores[area.class_name]
        answers = [
            has_label(label, name) if test.task == "multilabel" else label == name
            for label in labels
        ]
        of_class = of_class[[answer is not None for answer in answers]]
        positive = np.array([answer for answer in answers if answer is not None], dtype=np.bool_)
        counts = int(positive.sum()), int((~positive).sum())
        expected = area.positives, area.negatives
        agree = counts == expected and all(counts)
        if not agree or abs(auc(of_class, positive) - area.auc) > 1e-6:
            raise PlanError(
                f"{path}: its {test.split} findings do not give the AUC {area.auc:.3f} of class "
                f"{name!r} in results.json: {remedy}"
            )
        curves.append(RocCurve(area, roc_points(of_class, positive), of_class, positive))
    return curves


def _read_predictions(
    path: Path, test: TestResult
) -> tuple[NDArray[np.str_], dict[str, NDArray[np.float64]]]:
    """Labels ``(findings,)`` of the test split, and mean probabilities by class, likewise."""
    rows = [row for row in read_rows(path) if row["split"] == test.split]
    findings = Findings.of([row["finding"] for row in rows])
    scores = {}
    for area in test.classes:
        column = f"p_{area.class_name}"
        values = np.array([float(row[column] or "nan") for row in rows])
        if not np.isfinite(values).all():
            raise ValueError(f"a value of column {column!r} is not a number")
        scores[area.class_name] = findings.mean_scores(values)
    return np.array([rows[first]["label"] for first in findings.firsts], dtype=np.str_), scores
