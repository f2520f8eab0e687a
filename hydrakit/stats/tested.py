"""The scores of one strategy, from all folds, repeats and seeds that tested it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError
from hydrakit.stats.findings import Floats, average


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network's score of one image of a finding, when the finding was tested.

    Attributes:
        finding: What is counted once, however many slices or copies of it there are.
        patient: Whom it belongs to.
        label: 1 for positive, 0 for negative.
        score: Higher for positive.
        seed: Of the run.
        repeat: Of the cross-validation.
        fold: Whose test split held it.
    """

    finding: str
    patient: str
    label: int
    score: float
    seed: int = 0
    repeat: int = 0
    fold: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreTable:
    """One strategy's scores of all findings that it was tested on.

    A pass is a (seed, repeat): it tests a finding once, by the network of one fold. A cell is a
    fold of a pass: scores are compared within cells alone, since each has a network of its own.

    Attributes:
        findings: Names, sorted.
        patients: Of the findings, ``(findings,)`` whole numbers from 0.
        labels: ``(findings,)``, 1 or 0.
        passes: The (seed, repeat) of each, sorted.
        scores: ``(passes, findings)``; NaN where a pass did not test the finding.
        folds: ``(passes, findings)``; -1 where it did not.
        images: How many images of each a pass tested, ``(findings,)``.
    """

    __test__ = False  # no test class, whatever pytest thinks of its name

    findings: tuple[str, ...]
    patients: NDArray[np.intp]
    labels: NDArray[np.intp]
    passes: tuple[tuple[int, int], ...]
    scores: Floats
    folds: NDArray[np.intp]
    images: NDArray[np.intp]

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Which findings are positive, ``(findings,)``."""
        return np.asarray(self.labels == 1, dtype=np.bool_)

    @cached_property
    def cells(self) -> tuple[tuple[int, NDArray[np.intp]], ...]:
        """Pass and indices of findings of each cell that tested both classes."""
        found = []
        for index, folds in enumerate(self.folds):
            for fold in np.unique(folds[folds >= 0]):
                inside = np.flatnonzero(folds == fold)
                if 0 < self.labels[inside].sum() < len(inside):
                    found.append((index, inside))
        return tuple(found)

    @property
    def left_out(self) -> int:
        """Number of cells that tested one class alone, so that they have no AUC."""
        return sum(len(np.unique(row[row >= 0])) for row in self.folds) - len(self.cells)


def part_of(tested: ScoreTable, inside: NDArray[np.bool_]) -> ScoreTable:
    """The scores of some findings alone; it may have no cell that tested both classes.

    Args:
        tested: Of all findings.
        inside: Which to keep, ``(findings,)``.
    """
    return ScoreTable(
        findings=tuple(name for name, kept in zip(tested.findings, inside, strict=True) if kept),
        patients=tested.patients[inside],
        labels=tested.labels[inside],
        passes=tested.passes,
        scores=tested.scores[:, inside],
        folds=tested.folds[:, inside],
        images=tested.images[inside],
    )


def gather(rows: Iterable[Row]) -> ScoreTable:
    """Put the rows of all cells of one strategy together, one score per finding and cell.

    The scores of several images of a finding in one cell are averaged.

    Raises:
        DataError: There is no row; a score is not finite; a finding has two labels, two patients,
            or two folds in one repeat; a patient is in two folds of one repeat; or no cell tested
            both classes.
    """
    rows = list(rows)
    if not rows:
        raise DataError("nothing was tested: there are no predictions to compare")
    _must_agree(rows)
    names = sorted({row.finding for row in rows})
    passes = sorted({(row.seed, row.repeat) for row in rows})
    column = {name: index for index, name in enumerate(names)}
    line = {key: index for index, key in enumerate(passes)}
    shape = len(passes), len(names)
    found: dict[tuple[int, int], list[float]] = {}
    folds = np.full(shape, -1, dtype=np.intp)
    facts: dict[str, Row] = {}
    for row in rows:
        at = line[row.seed, row.repeat], column[row.finding]
        found.setdefault(at, []).append(row.score)
        folds[at] = row.fold
        facts[row.finding] = row
    _, patients = np.unique([facts[name].patient for name in names], return_inverse=True)
    scores = np.full(shape, np.nan)
    images = np.zeros(len(names), dtype=np.intp)
    for at, values in found.items():
        scores[at] = average(values)
        images[at[1]] = max(images[at[1]], len(values))
    tested = ScoreTable(
        findings=tuple(names),
        patients=patients.astype(np.intp),
        labels=np.array([facts[name].label for name in names], dtype=np.intp),
        passes=tuple(passes),
        scores=scores,
        folds=folds,
        images=images,
    )
    if not tested.cells:
        raise DataError("no fold tested findings of both classes: its AUC cannot be told")
    return tested


def _must_agree(rows: Sequence[Row]) -> None:
    """Refuse rows that contradict one another."""
    seen: dict[tuple[object, ...], object] = {}
    for row in rows:
        if row.label not in (0, 1):
            raise DataError(f"finding {row.finding!r}: a label is 0 or 1, not {row.label!r}")
        if not math.isfinite(row.score):
            raise DataError(f"finding {row.finding!r}: its score {row.score} is not finite")
        if row.fold < 0:
            raise DataError(f"finding {row.finding!r}: a fold is 0 or more, not {row.fold}")
        where = row.seed, row.repeat
        for key, value, what in (
            (("label", row.finding), row.label, f"finding {row.finding!r} has the labels"),
            (("patient", row.finding), row.patient, f"finding {row.finding!r} has the patients"),
            (("fold", row.patient, where), row.fold, f"patient {row.patient!r} is in the folds"),
        ):
            if seen.setdefault(key, value) != value:
                raise DataError(f"{what} {seen[key]!r} and {value!r}: it can have one only")


def wins_of(first: Floats, second: Floats) -> Floats:
    """1 where the first score is higher, 0.5 where both are equal: ``(first, second)``."""
    difference = np.subtract.outer(first, second)
    return 0.5 * (np.sign(difference) + 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """All pairs of a positive and a negative finding that a cell compared.

    Each cell weighs the same and its pairs share its weight, so that the sum of `wins` is the mean
    of the cells' AUCs.

    Attributes:
        positives: Patient of each positive finding, ``(positives,)``.
        negatives: Patient of each negative finding, ``(negatives,)``.
        weights: ``(passes, positives, negatives)``, their sum being 1.
        wins: The weights times 1 where the positive finding has the higher score, 0.5 for ties.
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
        """One more than the highest number of a patient."""
        return int(max(self.positives.max(), self.negatives.max())) + 1

    @property
    def shares(self) -> Floats:
        """The share of each pass in the mean, ``(passes,)``: its share of the cells."""
        return np.asarray(self.weights.sum(axis=(1, 2)), dtype=np.float64)

    @property
    def pass_aucs(self) -> Floats:
        """Mean AUC of each pass's cells, ``(passes,)``; NaN for one without a cell."""
        shares = self.shares
        found = np.full(len(shares), np.nan)
        np.divide(self.wins.sum(axis=(1, 2)), shares, out=found, where=shares > 0)
        return found

    @cached_property
    def components(self) -> tuple[Floats, Floats]:
        """What each patient's positive and negative findings add to the error of the mean AUC.

        Returns:
            Two arrays ``(passes, patients)``. Each row's sum is 0, and the sum over the passes is
            the patient's share in the mean's error (the first term of its Hoeffding decomposition).
        """
        aucs = np.nan_to_num(self.pass_aucs)[:, None]
        size = self.patients
        parts = []
        for axis, owners in ((2, self.positives), (1, self.negatives)):
            centred = self.wins.sum(axis=axis) - aucs * self.weights.sum(axis=axis)
            parts.append(np.array([np.bincount(owners, row, size) for row in centred]))
        return parts[0], parts[1]


def pairs_of(tested: ScoreTable) -> Pairs:
    """The pairs that the cells of a strategy compared."""
    positive = tested.positive
    place = np.cumsum(positive) - 1, np.cumsum(~positive) - 1
    shape = len(tested.passes), int(positive.sum()), int((~positive).sum())
    weights, wins = np.zeros(shape), np.zeros(shape)
    for index, inside in tested.cells:
        above, below = inside[positive[inside]], inside[~positive[inside]]
        at = np.ix_(np.array([index]), place[0][above], place[1][below])
        weight = 1 / (len(tested.cells) * len(above) * len(below))
        scores = tested.scores[index]
        weights[at] = weight
        wins[at] = weight * wins_of(scores[above], scores[below])
    return Pairs(
        positives=tested.patients[positive],
        negatives=tested.patients[~positive],
        weights=weights,
        wins=wins,
    )
