"""The test scores of one strategy, collected from all folds, repeats and seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError
from hydrakit.stats.findings import Floats, mean_score


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One network's test score of one image.

    Attributes:
        finding: Name of the finding in the image. All images of a finding count once.
        patient: Patient of the finding.
        label: 1 for a positive finding, 0 for a negative one, None if that is unknown; its number
            in a regression.
        score: Score of the image, higher for positive; the predicted number in a regression.
        seed: Seed of the run.
        repeat: Number of the repeat of the cross-validation.
        fold: Number of the fold that has the finding in its test split.
    """

    finding: str
    patient: str
    label: float | None
    score: float
    seed: int = 0
    repeat: int = 0
    fold: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreTable:
    """One strategy's scores of all of its test findings.

    A pass is a (seed, repeat): it tests each finding once, with the network of one fold. A cell is
    one fold of a pass. Each cell has a network of its own, so scores are compared only within a
    cell.

    Attributes:
        findings: Names of the findings, sorted.
        patients: Patient of each finding as a whole number from 0, ``(findings,)``.
        labels: Label of each finding, 1 or 0, ``(findings,)``, NaN if that is unknown: the finding
            is then in no cell; its number in a regression.
        passes: Seed and repeat of each pass, sorted.
        scores: Scores, ``(passes, findings)``; NaN where a pass did not test the finding.
        folds: Fold of each score, ``(passes, findings)``; -1 where there is no score.
        images: Number of images of each finding in one pass, ``(findings,)``.
    """

    findings: tuple[str, ...]
    patients: NDArray[np.intp]
    labels: NDArray[np.intp] | Floats
    passes: tuple[tuple[int, int], ...]
    scores: Floats
    folds: NDArray[np.intp]
    images: NDArray[np.intp]

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Mask of the positive findings, ``(findings,)``."""
        return np.asarray(self.labels == 1, dtype=np.bool_)

    @cached_property
    def cells(self) -> tuple[tuple[int, NDArray[np.intp]], ...]:
        """Pass number and indices of the findings of each cell that tested both classes."""
        cells, known = [], ~np.isnan(self.labels)
        for number, folds in enumerate(self.folds):
            for fold in np.unique(folds[folds >= 0]):
                inside = np.flatnonzero((folds == fold) & known)
                if 0 < self.labels[inside].sum() < len(inside):
                    cells.append((number, inside))
        return tuple(cells)

    @property
    def left_out(self) -> int:
        """Number of cells without an AUC, because they tested findings of one class only."""
        return sum(len(np.unique(row[row >= 0])) for row in self.folds) - len(self.cells)


def select_findings(table: ScoreTable, inside: NDArray[np.bool_]) -> ScoreTable:
    """The scores of some of the findings. The result may have no cell with both classes.

    Args:
        table: Scores of all findings.
        inside: Mask of the findings to select, ``(findings,)``.
    """
    names = zip(table.findings, inside, strict=True)
    return ScoreTable(
        findings=tuple(name for name, selected in names if selected),
        patients=table.patients[inside],
        labels=table.labels[inside],
        passes=table.passes,
        scores=table.scores[:, inside],
        folds=table.folds[:, inside],
        images=table.images[inside],
    )


def gather(rows: Iterable[Row], *, whole_patients: bool = True) -> ScoreTable:
    """Collect the rows of all cells of one strategy into a table, one score per finding and cell.

    The score of a finding is the mean of the scores of its images in a cell.

    Args:
        rows: The rows.
        whole_patients: Whether a pass must test all findings of a patient in one fold; otherwise
            all images of a finding.

    Raises:
        DataError: There is no row; a score is not finite; a finding has two labels, two patients,
            or two folds in one repeat; a patient (or a finding) is in two folds of one repeat; or
            no cell tested both classes.
    """
    rows = list(rows)
    for row in rows:
        if row.label not in (0, 1):
            raise DataError(f"finding {row.finding!r}: a label is 0 or 1, not {row.label!r}")
    table = gather_findings(rows, whole_patients=whole_patients)
    table = replace(table, labels=table.labels.astype(np.intp))
    if not table.cells:
        raise DataError("no fold has test findings of both classes, so that there is no AUC")
    return table


def gather_findings(rows: Sequence[Row], *, whole_patients: bool = True) -> ScoreTable:
    """Collect rows as `gather` does, of findings with any numbers as labels, or unknown ones.

    Raises:
        DataError: There is no row, or rows contradict one another.
    """
    if not rows:
        raise DataError("there are no test predictions to compare")
    names = sorted({row.finding for row in rows})
    passes = sorted({(row.seed, row.repeat) for row in rows})
    column_of = {name: column for column, name in enumerate(names)}
    pass_of = {key: number for number, key in enumerate(passes)}
    columns = np.array([column_of[row.finding] for row in rows])
    numbers = np.array([pass_of[row.seed, row.repeat] for row in rows])
    row_folds = np.array([row.fold for row in rows], dtype=np.intp)
    row_scores = np.array([row.score for row in rows], dtype=np.float64)
    labels = np.array([row.label for row in rows], dtype=np.float64)
    row_patients = [row.patient for row in rows]
    _, patients_of_rows = np.unique(row_patients, return_inverse=True)
    whole = patients_of_rows if whole_patients else columns
    if not (
        np.isfinite(row_scores).all()
        and (row_folds >= 0).all()
        and _same(columns, labels)
        and _same(columns, patients_of_rows)
        and _same(whole * len(passes) + numbers, row_folds)
    ):
        _refuse(rows, whole_patients=whole_patients)
    shape = len(passes), len(names)
    at = numbers * len(names) + columns
    counts = np.bincount(at, minlength=shape[0] * shape[1])
    folds = np.full(counts.shape, -1, dtype=np.intp)
    folds[at] = row_folds
    scores = np.full(counts.shape, np.nan)
    scores[at] = row_scores + 0.0  # as `mean_score` of one image does: no score is -0.0
    several: dict[int, list[float]] = {}
    for place, score in zip(at[counts[at] > 1].tolist(), row_scores[counts[at] > 1], strict=True):
        several.setdefault(place, []).append(float(score))
    for place, values in several.items():
        scores[place] = mean_score(values)
    first = _first_rows(columns)
    _, patients = np.unique([row_patients[row] for row in first], return_inverse=True)
    return ScoreTable(
        findings=tuple(names),
        patients=patients.astype(np.intp),
        labels=labels[first],
        passes=tuple(passes),
        scores=scores.reshape(shape),
        folds=folds.reshape(shape),
        images=counts.reshape(shape).max(axis=0).astype(np.intp),
    )


def _first_rows(groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """Index of the first row of each group, for groups from 0, ``(groups,)``."""
    return np.asarray(np.unique(groups, return_index=True)[1], dtype=np.intp)


def _same(groups: NDArray[np.intp], values: Floats | NDArray[np.intp]) -> bool:
    """Whether all rows of a group have the same value; unknown ones (NaN) are the same."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    expected = values[first][group]
    return bool(np.all((values == expected) | (np.isnan(values) & np.isnan(expected))))


def _refuse(rows: Sequence[Row], *, whole_patients: bool) -> None:
    """Refuse rows of which one is impossible, or two contradict one another."""
    first_value: dict[tuple[object, ...], object] = {}
    for row in rows:
        if not math.isfinite(row.score):
            raise DataError(f"finding {row.finding!r}: its score {row.score} is not finite")
        if row.fold < 0:
            raise DataError(f"finding {row.finding!r}: a fold is 0 or more, not {row.fold}")
        of_pass = row.seed, row.repeat
        kind, whole = ("patient", row.patient) if whole_patients else ("finding", row.finding)
        for key, value, text in (
            (("label", row.finding), row.label, f"finding {row.finding!r} has the labels"),
            (("patient", row.finding), row.patient, f"finding {row.finding!r} has the patients"),
            (("fold", whole, of_pass), row.fold, f"{kind} {whole!r} is in the folds"),
        ):
            if first_value.setdefault(key, value) != value:
                raise DataError(f"{text} {first_value[key]!r} and {value!r}: only one is possible")


def wins_of(first: Floats, second: Floats) -> Floats:
    """Table ``(first, second)``: 1 where the first score is higher, 0.5 where both are equal."""
    difference = np.subtract.outer(first, second)
    return 0.5 * (np.sign(difference) + 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class FindingPairs:
    """All pairs of a positive and a negative finding that were scored in the same cell.

    All cells have the same weight, and the pairs of a cell share it equally, so that the sum of
    `wins` is the mean of the cells' AUCs.

    Attributes:
        positives: Patient of each positive finding, ``(positives,)``.
        negatives: Patient of each negative finding, ``(negatives,)``.
        weights: Weight of each pair, ``(passes, positives, negatives)``; the sum is 1.
        wins: Weight of each pair, times 1 where the positive finding has the higher score, or 0.5
            where both scores are equal, or else 0.
    """

    positives: NDArray[np.intp]
    negatives: NDArray[np.intp]
    weights: Floats
    wins: Floats

    @property
    def auc(self) -> float:
        """Mean of the cells' AUCs."""
        return float(self.wins.sum() / self.weights.sum())

    @property
    def patients(self) -> int:
        """Highest patient number plus one."""
        return int(max(self.positives.max(), self.negatives.max())) + 1

    @property
    def shares(self) -> Floats:
        """Weight of each pass in the mean, ``(passes,)``: its share of the cells."""
        return np.asarray(self.weights.sum(axis=(1, 2)), dtype=np.float64)

    @property
    def pass_aucs(self) -> Floats:
        """Mean AUC of each pass's cells, ``(passes,)``; NaN for a pass without a cell."""
        shares = self.shares
        aucs = np.full(len(shares), np.nan)
        np.divide(self.wins.sum(axis=(1, 2)), shares, out=aucs, where=shares > 0)
        return aucs

    @cached_property
    def components(self) -> tuple[Floats, Floats]:
        """Contributions of each patient's positive and negative findings to the error of the AUC.

        Returns:
            Two arrays ``(passes, patients)``. The sum of each row is 0. The sum over the passes is
            the patient's part of the error of the mean AUC (the first term of its Hoeffding
            decomposition).
        """
        aucs = np.nan_to_num(self.pass_aucs)[:, None]
        size = self.patients
        parts = []
        for axis, owners in ((2, self.positives), (1, self.negatives)):
            centred = self.wins.sum(axis=axis) - aucs * self.weights.sum(axis=axis)
            parts.append(np.array([np.bincount(owners, row, size) for row in centred]))
        return parts[0], parts[1]


def pairs_of(table: ScoreTable) -> FindingPairs:
    """Pairs of a positive and a negative finding in the cells of a strategy."""
    positive, negative = table.positive, table.labels == 0
    position = np.cumsum(positive) - 1, np.cumsum(negative) - 1
    shape = len(table.passes), int(positive.sum()), int(negative.sum())
    weights, wins = np.zeros(shape), np.zeros(shape)
    for number, inside in table.cells:
        of_positive, of_negative = inside[positive[inside]], inside[negative[inside]]
        at = np.ix_(np.array([number]), position[0][of_positive], position[1][of_negative])
        weight = 1 / (len(table.cells) * len(of_positive) * len(of_negative))
        scores = table.scores[number]
        weights[at] = weight
        wins[at] = weight * wins_of(scores[of_positive], scores[of_negative])
    return FindingPairs(
        positives=table.patients[positive],
        negatives=table.patients[negative],
        weights=weights,
        wins=wins,
    )
