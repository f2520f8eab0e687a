"""Figures of a comparison beside one AUC: mean absolute error, R2, and the mean AUC of labels.

Each is a mean over passes to whose error every patient contributes a part, so that intervals and
tests count patients, as those of an AUC do (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydrakit.stats.findings import Floats
from hydrakit.stats.intervals import (
    PRIOR_WEIGHT,
    VarianceEstimate,
    score_interval,
    t_quantile,
    training_variance,
    variance_model,
)
from hydrakit.stats.paired import (
    MIN_VARIANCE_SHARE,
    Measure,
    PairedDifference,
    check_same_cases,
    equal_ranks,
    expected_variance,
    findings_needed,
    sign_flip,
    t_test,
)
from hydrakit.stats.score_table import FindingPairs, ScoreTable, pairs_of


@dataclass(frozen=True, eq=False, kw_only=True)
class PatientParts:
    """A figure of a strategy: its value in each pass, and each patient's part of its error.

    Attributes:
        pass_values: Value in each pass, ``(passes,)``; NaN for a pass without one.
        shares: Weight of each pass in the mean, ``(passes,)``.
        groups: Parts of the patients, each ``(passes, patients)``; rows sum to 0. The sum over
            groups and passes is a patient's part of the error of the mean.
        counts: Number of patients behind each group.
        patient_shares: Share of each patient in the mean, ``(patients,)``.
    """

    pass_values: Floats
    shares: Floats
    groups: tuple[Floats, ...]
    counts: tuple[int, ...]
    patient_shares: Floats

    @property
    def value(self) -> float:
        """Mean over the passes."""
        return float(np.nansum(self.pass_values * self.shares))

    def minus(self, other: PatientParts) -> PatientParts:
        """Difference from another strategy on the same findings."""
        return PatientParts(
            pass_values=self.pass_values - other.pass_values,
            shares=self.shares,
            groups=tuple(a - b for a, b in zip(self.groups, other.groups, strict=True)),
            counts=self.counts,
            patient_shares=self.patient_shares,
        )

    def variance(self) -> VarianceEstimate:
        """Variance from patients and from training (`hydrakit.stats.intervals`)."""
        summed = [
            math.sqrt(count / max(1, count - 1)) * group.sum(axis=0)
            for group, count in zip(self.groups, self.counts, strict=True)
        ]
        patients = float(np.sum(np.sum(summed, axis=0) ** 2))
        own = [float(part @ part) for part in summed]
        training = training_variance(
            np.sum(self.groups, axis=0),
            self.shares,
            self.pass_values,
            len(np.flatnonzero(self.patient_shares)),
        )
        freedom = max(1, int((self.shares > 0).sum()) - 1)
        total = sum(own) + training
        terms = sum(v**2 / max(1, n - 1) for v, n in zip(own, self.counts, strict=True))
        terms += training**2 / freedom
        return VarianceEstimate(
            variance=patients + training,
            training=training,
            freedom=max(1.0, total**2 / terms if terms > 0 else min(self.counts) - 1),
            training_freedom=freedom,
        )

    def contributions(self) -> Floats:
        """Part of each patient in the value itself, ``(patients,)``; their sum is the value."""
        parts = np.sum(self.groups, axis=0).sum(axis=0) + self.value * self.patient_shares
        return np.asarray(parts, dtype=np.float64)

    def interval(self, level: float) -> tuple[float, float]:
        """Student's interval of the value."""
        estimate = self.variance()
        half = t_quantile(level, estimate.freedom) * math.sqrt(estimate.variance)
        return self.value - half, self.value + half


def error_parts(table: ScoreTable) -> PatientParts:
    """Mean absolute error of a strategy: every finding of every pass has the same weight."""
    return _parts_of_findings(table, np.abs(table.scores - table.labels))


def r2_parts(table: ScoreTable) -> PatientParts | None:
    """R2 of a strategy, within each pass; None where all observed numbers of a pass are equal."""
    values, residuals = [], np.full(table.scores.shape, np.nan)
    for number, (scores, folds) in enumerate(zip(table.scores, table.folds, strict=True)):
        inside = folds >= 0
        observed = table.labels[inside]
        spread = (observed - observed.mean()) ** 2
        total = float(spread.sum())
        if total <= 0:
            return None
        squares = (scores[inside] - observed) ** 2
        lack = float(squares.sum()) / total
        values.append(1 - lack)
        # Its mean over the findings of the pass is 0: the effect of more weight on a finding.
        residuals[number, inside] = -(squares - lack * spread) * inside.sum() / total
    parts = _parts_of_findings(table, residuals)
    return PatientParts(
        pass_values=np.array(values),
        shares=parts.shares,
        groups=parts.groups,
        counts=parts.counts,
        patient_shares=parts.patient_shares,
    )


def _parts_of_findings(table: ScoreTable, values: Floats) -> PatientParts:
    """Mean of values ``(passes, findings)``, NaN where a pass has none."""
    inside = table.folds >= 0
    counts = inside.sum(axis=1)
    means = np.where(inside, values, 0).sum(axis=1) / counts
    centred = np.where(inside, values - means[:, None], 0) / inside.sum()
    patients = int(table.patients.max()) + 1
    weights = np.bincount(table.patients, inside.sum(axis=0), patients) / inside.sum()
    return PatientParts(
        pass_values=means,
        shares=counts / inside.sum(),
        groups=(np.array([np.bincount(table.patients, row, patients) for row in centred]),),
        counts=(len(np.unique(table.patients)),),
        patient_shares=np.asarray(weights, dtype=np.float64),
    )


def label_parts(tables: Sequence[ScoreTable]) -> PatientParts:
    """Mean of the AUCs of several labels of the same findings.

    Args:
        tables: Scores of each label; a pass has a value where each label has an AUC in it.
    """
    pairs = [pairs_of(table) for table in tables]
    patients = max(int(table.patients.max()) for table in tables) + 1
    return PatientParts(
        pass_values=np.mean([each.pass_aucs for each in pairs], axis=0),
        shares=np.mean([each.shares for each in pairs], axis=0),
        groups=tuple(
            _padded(part, patients) / len(pairs) for each in pairs for part in each.components
        ),
        counts=tuple(
            len(np.unique(owners)) for each in pairs for owners in (each.positives, each.negatives)
        ),
        patient_shares=np.mean([_patient_shares(each, patients) for each in pairs], axis=0),
    )


def _padded(part: Floats, patients: int) -> Floats:
    return np.pad(part, ((0, 0), (0, patients - part.shape[1])))


def _patient_shares(pairs: FindingPairs, patients: int) -> Floats:
    weights = pairs.weights.sum(axis=0)
    share = np.bincount(pairs.positives, weights.sum(axis=1), patients)
    share += np.bincount(pairs.negatives, weights.sum(axis=0), patients)
    return np.asarray(share / 2, dtype=np.float64)


def label_interval(tables: Sequence[ScoreTable], *, level: float) -> tuple[float, float]:
    """Interval of the mean AUC of several labels, within [0, 1].

    As that of one AUC (`hydrakit.stats.intervals.mean_auc`): the expected variance is the mean of
    the labels' own, as if they erred together, and shrinks to the observed one with the patients.
    """
    parts = label_parts(tables)
    pairs = [pairs_of(table) for table in tables]
    models = [variance_model(each) for each in pairs]

    def expected(theta: float) -> float:
        return float(np.mean([model.variance(theta) for model in models]))

    value, estimate = parts.value, parts.variance()
    factor = 1.0
    if expected(value) > 0:
        fewest = [
            min(len(np.unique(each.positives)), len(np.unique(each.negatives))) for each in pairs
        ]
        weight = float(np.mean(fewest)) - 1
        ratio = estimate.variance / expected(value)
        factor = (weight * ratio + PRIOR_WEIGHT) / (weight + PRIOR_WEIGHT)
    return score_interval(value, lambda theta: factor * expected(theta), level=level)


def compare_errors(
    first: ScoreTable, second: ScoreTable, *, level: float = 0.95, seed: int = 0
) -> PairedDifference:
    """Compare the mean absolute errors of two strategies on the same findings.

    Interval and p-value are those of `hydrakit.stats.paired.compare`, with the patients' shares of
    the difference of errors. A negative difference is better.

    Raises:
        DataError: The two were not tested on the same findings in the same folds.
    """
    check_same_cases(first, second)
    one, two = error_parts(first), error_parts(second)
    return _difference(one, two, first, level=level, seed=seed, measure="mae", least=0.0)


def compare_labels(
    first: Sequence[ScoreTable],
    second: Sequence[ScoreTable],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare the mean AUCs of the same labels of two strategies.

    Args:
        first: Scores of the first strategy, by label.
        second: Scores of the second strategy, by label.
        level: Confidence level of the interval.
        seed: Seed of the random sign patterns.

    Raises:
        DataError: The two were not tested on the same findings in the same folds.
    """
    least = 0.0
    for one, two in zip(first, second, strict=True):
        check_same_cases(one, two)
        if not equal_ranks(one, two):
            expected = expected_variance(one, two, pairs_of(one), pairs_of(two))
            least += MIN_VARIANCE_SHARE * expected / len(first) ** 2
    parts = label_parts(first), label_parts(second)
    return _difference(
        *parts, first[0], level=level, seed=seed, measure="mean AUC", least=least, limit=1.0
    )


def _difference(
    one: PatientParts,
    two: PatientParts,
    table: ScoreTable,
    *,
    level: float,
    seed: int,
    measure: Measure,
    least: float,
    limit: float = math.inf,
) -> PairedDifference:
    """The difference of two figures; ``least`` is the least variance that is believed."""
    parts = one.minus(two)
    estimate = parts.variance()
    error = math.sqrt(max(estimate.variance, least))
    p = sign_flip(parts.contributions(), seed=seed)
    if estimate.training > 0:
        p = max(p, t_test(parts.value / error, estimate.freedom))
    half = t_quantile(level, estimate.freedom) * error
    return PairedDifference(
        first=one.value,
        second=two.value,
        difference=parts.value,
        low=max(-limit, parts.value - half),
        high=min(limit, parts.value + half),
        level=level,
        p=p,
        positives=0,
        negatives=0,
        patients=len(np.unique(table.patients)),
        passes=len(table.passes),
        error=error,
        needed=findings_needed(parts.value, error, len(table.findings), level=level),
        measure=measure,
        findings=len(table.findings),
    )
