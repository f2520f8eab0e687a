"""The ROC curves of a run's test split, from ``predictions.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydrakit.errors import PlanError, one_line
from hydrakit.plan.results import AreaUnderCurve, TestResult
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.findings import Findings
from hydrakit.stats.metrics import auc
from hydrakit.storage.files import read_rows


@dataclass(frozen=True, eq=False)
class Curve:
    """The ROC curve of one class against the rest.

    Attributes:
        area: The figures of the class as ``results.json`` has them.
        points: ``(false positive rate, true positive rate)`` from (0, 0) to (1, 1): a point for
            each different score, so findings of equal score make one slanted piece.
        scores: Probability of the class, the mean over each finding's images, ``(findings,)``.
        positive: Which findings are of it, ``(findings,)``.
    """

    area: AreaUnderCurve
    points: tuple[tuple[float, float], ...]
    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]


def roc_points(scores: ArrayLike, positive: ArrayLike) -> tuple[tuple[float, float], ...]:
    """The points of a ROC curve, from (0, 0) to (1, 1).

    Args:
        scores: ``(cases,)``, higher for positive.
        positive: ``(cases,)``, whether a case is positive; there are cases of both kinds.

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


def roc_curves(rundir: RunDir, test: TestResult) -> list[Curve]:
    """The ROC curves of the test split, one for each of the classes in the results.

    Raises:
        PlanError: ``predictions.csv`` is absent or broken, or is not what the results are of.
    """
    path = rundir.file("predictions.csv")
    remedy = f"delete {rundir.results_path} and `hydrakit run --resume {rundir.path}`"
    try:
        labels, scores = _read(path, test)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}): {remedy}") from None
    except KeyError as error:
        raise PlanError(f"{path}: has no column {error}: {remedy}") from None
    except (ValueError, csv.Error) as error:
        raise PlanError(f"{path}: is broken ({one_line(str(error), 200)}): {remedy}") from None
    curves = []
    for area in test.classes:
        several = test.task == "multilabel"
        positive = np.array(
            [area.class_name in (label.split(";") if several else [label]) for label in labels],
            dtype=np.bool_,
        )
        found = int(positive.sum()), int((~positive).sum())
        told = area.positives, area.negatives
        agree = found == told and all(found)
        if not agree or abs(auc(scores[area.class_name], positive) - area.auc) > 1e-6:
            raise PlanError(
                f"{path}: its {test.split} findings do not give the AUC {area.auc:.3f} of class "
                f"{area.class_name!r} in results.json: {remedy}"
            )
        points = roc_points(scores[area.class_name], positive)
        curves.append(Curve(area, points, scores[area.class_name], positive))
    return curves


def _read(path: Path, test: TestResult) -> tuple[NDArray[np.str_], dict[str, NDArray[np.float64]]]:
    """Labels ``(findings,)`` of the test split, and each class's mean probabilities, likewise."""
    rows = [row for row in read_rows(path) if row["split"] == test.split]
    found = Findings.of([row["finding"] for row in rows])
    scores = {}
    for area in test.classes:
        column = f"p_{area.class_name}"
        values = np.array([float(row[column] or "nan") for row in rows])
        if not np.isfinite(values).all():
            raise ValueError(f"a value of column {column!r} is no number")
        scores[area.class_name] = found.mean_scores(values)
    return np.array([rows[first]["label"] for first in found.firsts], dtype=np.str_), scores
