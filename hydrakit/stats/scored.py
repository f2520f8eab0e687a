"""Test scores of compared strategies, with their figures, for each kind of target."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError
from hydrakit.stats.comparison import LabelAuc, ValueFigure, ValueResult
from hydrakit.stats.findings import Subgroups
from hydrakit.stats.intervals import mean_auc
from hydrakit.stats.metrics import auc, mean_absolute_error
from hydrakit.stats.paired import PairedDifference, compare
from hydrakit.stats.patient_parts import (
    compare_errors,
    compare_labels,
    error_parts,
    label_interval,
    label_parts,
    r2_parts,
)
from hydrakit.stats.score_table import ScoreTable, select_findings
from hydrakit.stats.subgroups import ComparedSubgroup, auc_in_subgroup, subgroups_of

NamePair = tuple[str, str]
CellValues = tuple[tuple[int, int, int, float], ...]


class ScoredStrategies(ABC):
    """Scores of all strategies on the same findings; the first is compared with the others."""

    level: float

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the strategies."""

    @property
    @abstractmethod
    def one(self) -> ScoreTable:
        """A table of the first strategy, for findings, patients and folds."""

    @abstractmethod
    def figures(self, name: str) -> dict[str, Any]:
        """Values of a strategy's `hydrakit.stats.comparison.StrategyResult`."""

    @abstractmethod
    def within(self, inside: NDArray[np.bool_]) -> ScoredStrategies:
        """The scores of some findings.

        Args:
            inside: Mask of the findings of `one`, ``(findings,)``.

        Raises:
            DataError: They give no figure.
        """

    def by_fold(self, values: Sequence[str]) -> tuple[ValueResult, ...]:
        """Figures of each fold, which is the same in all passes and tests one value of a subgroup.

        Args:
            values: Value of each fold.
        """
        fold_of = self.one.folds.max(axis=0)
        results = []
        for fold, value in enumerate(values):
            inside = fold_of == fold
            if not inside.any():  # no finished cell
                results.append(ValueResult(value=value, findings=0, patients=0))
                continue
            part = self.within(inside)
            figures = ((name, part.figures(name)) for name in part.names)
            results.append(
                ValueResult(
                    value=value,
                    findings=int(inside.sum()),
                    positives=part.positives,
                    patients=len(np.unique(part.one.patients)),
                    strategies=tuple(
                        ValueFigure(
                            strategy=name,
                            value=of["mae"] if "mae" in of else of["auc"],
                            low=of["low"],
                            high=of["high"],
                        )
                        for name, of in figures
                    ),
                )
            )
        return tuple(results)

    @property
    def positives(self) -> int | None:
        """Number of positive findings; None where the figure is not the AUC of a class."""
        return None

    @abstractmethod
    def compared(self, first: str, second: str) -> PairedDifference:
        """Difference of two strategies."""

    def differences(self) -> dict[NamePair, PairedDifference]:
        """The first strategy compared with each other one."""
        first, *others = self.names
        return {(first, other): self.compared(first, other) for other in others}

    def second_differences(self) -> dict[NamePair, dict[str, float]]:
        """Differences of R2 with intervals, as values of a `StrategyPair`; none for classes."""
        return {}

    def subgroups(self, of_findings: Mapping[str, Subgroups]) -> tuple[ComparedSubgroup, ...]:
        """Results in subgroups of the findings; only for the AUC of a class."""
        return ()

    def label_aucs(self) -> tuple[LabelAuc, ...]:
        """AUCs of single labels; only for several labels."""
        return ()


@dataclass(frozen=True, eq=False)
class ScoreTables(ScoredStrategies):
    """One score of each finding for each strategy.

    Attributes:
        tables: Scores of each strategy, by name.
        level: Confidence level of the intervals.
    """

    tables: Mapping[str, ScoreTable]
    level: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the strategies."""
        return tuple(self.tables)

    @property
    def one(self) -> ScoreTable:
        """Scores of the first strategy."""
        return next(iter(self.tables.values()))


@dataclass(frozen=True, eq=False)
class ClassScores(ScoreTables):
    """Scores of one class against all others."""

    def figures(self, name: str) -> dict[str, Any]:
        """AUC with its interval, and scores."""
        area = mean_auc(self.tables[name], level=self.level)
        return {
            "auc": area.auc,
            "low": area.low,
            "high": area.high,
            "cells": area.cells,
            "left_out": area.left_out,
            **_scores_of(self.tables[name]),
        }

    def within(self, inside: NDArray[np.bool_]) -> ClassScores:
        """The scores of some findings."""
        return replace(self, tables=_selected(self.tables, inside))

    @property
    def positives(self) -> int:
        """Number of positive findings."""
        return int(self.one.positive.sum())

    def compared(self, first: str, second: str) -> PairedDifference:
        """Difference of the mean AUCs."""
        return compare(self.tables[first], self.tables[second], level=self.level)

    def subgroups(self, of_findings: Mapping[str, Subgroups]) -> tuple[ComparedSubgroup, ...]:
        """AUC of each strategy in each subgroup."""
        return subgroups_of(self.tables, of_findings, level=self.level)


@dataclass(frozen=True, eq=False)
class NumberScores(ScoreTables):
    """Predicted numbers of a regression."""

    def figures(self, name: str) -> dict[str, Any]:
        """Mean absolute error and R2 with intervals, and the numbers."""
        table = self.tables[name]
        errors, fit = error_parts(table), r2_parts(table)
        low, high = errors.interval(self.level)
        r2: dict[str, float] = {}
        if fit is not None:
            ends = fit.interval(self.level)
            r2 = {"r2": fit.value, "r2_low": ends[0], "r2_high": min(1.0, ends[1])}
        cells = tuple(
            (*table.passes[number], fold, _error(table, number, fold))
            for number, fold in _cells(table)
        )
        return {
            "mae": errors.value,
            "low": max(0.0, low),
            "high": high,
            "cells": len(cells),
            "left_out": 0,
            "cell_values": cells,
            **r2,
            **_scores_of(table),
        }

    def within(self, inside: NDArray[np.bool_]) -> NumberScores:
        """The scores of some findings."""
        return replace(self, tables=_selected(self.tables, inside))

    def compared(self, first: str, second: str) -> PairedDifference:
        """Difference of the mean absolute errors."""
        return compare_errors(self.tables[first], self.tables[second], level=self.level)

    def second_differences(self) -> dict[NamePair, dict[str, float]]:
        """Differences of R2 with their intervals."""
        first, *others = self.names
        found = {}
        for other in others:
            one, two = r2_parts(self.tables[first]), r2_parts(self.tables[other])
            if one is not None and two is not None:
                parts = one.minus(two)
                low, high = parts.interval(self.level)
                values = {"r2_difference": parts.value, "r2_low": low, "r2_high": high}
                found[first, other] = values
        return found


@dataclass(frozen=True, eq=False)
class LabelScores(ScoredStrategies):
    """Scores of several labels, each of which a finding has or has not; it may be unknown.

    Attributes:
        by_label: Scores of each strategy, by label, then by name.
        level: Confidence level of the intervals.
    """

    by_label: Mapping[str, Mapping[str, ScoreTable]]
    level: float

    def __post_init__(self) -> None:
        """Refuse findings that give no AUC.

        Raises:
            DataError: No label has an AUC.
        """
        if not self.usable:
            raise DataError("no fold has findings with and without a label: there is no AUC")

    @cached_property
    def usable(self) -> tuple[str, ...]:
        """Labels with an AUC: a pass has findings with and without them in one of its cells."""
        return tuple(
            label
            for label, tables in self.by_label.items()
            if all(_has_all_passes(table) for table in tables.values())
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the strategies."""
        return tuple(next(iter(self.by_label.values())))

    @property
    def one(self) -> ScoreTable:
        """Scores of the first strategy for one label."""
        return next(iter(self.by_label[self.usable[0]].values()))

    def _tables(self, name: str) -> list[ScoreTable]:
        return [self.by_label[label][name] for label in self.usable]

    def figures(self, name: str) -> dict[str, Any]:
        """Mean AUC of the labels with its interval."""
        tables = self._tables(name)
        low, high = label_interval(tables, level=self.level)
        cells = _mean_aucs(tables)
        everything = len(_cells(tables[0]))
        return {
            "auc": label_parts(tables).value,
            "low": low,
            "high": high,
            "cells": len(cells),
            "left_out": everything - len(cells),
            "cell_values": cells,
            "scores": (),
            "mean_scores": (),
        }

    def within(self, inside: NDArray[np.bool_]) -> LabelScores:
        """The scores of some findings."""
        by_label = {name: _selected(tables, inside) for name, tables in self.by_label.items()}
        return replace(self, by_label=by_label)

    def compared(self, first: str, second: str) -> PairedDifference:
        """Difference of the mean AUCs of the labels."""
        return compare_labels(self._tables(first), self._tables(second), level=self.level)

    def label_aucs(self) -> tuple[LabelAuc, ...]:
        """AUC of each label for every strategy."""
        return tuple(
            LabelAuc(
                name=label,
                positives=int((next(iter(tables.values())).labels == 1).sum()),
                negatives=int((next(iter(tables.values())).labels == 0).sum()),
                strategies=tuple(
                    auc_in_subgroup(name, table, self.level) for name, table in tables.items()
                )
                if label in self.usable
                else (),
            )
            for label, tables in self.by_label.items()
        )


def _selected(tables: Mapping[str, ScoreTable], inside: NDArray[np.bool_]) -> dict[str, ScoreTable]:
    """Scores of some findings, in the passes that tested any of them."""
    selected = {}
    for name, table in tables.items():
        part = select_findings(table, inside)
        used = np.flatnonzero((part.folds >= 0).any(axis=1))
        selected[name] = replace(
            part,
            passes=tuple(part.passes[number] for number in used),
            scores=part.scores[used],
            folds=part.folds[used],
        )
    return selected


def _has_all_passes(table: ScoreTable) -> bool:
    """Whether each pass has a cell that tested both classes."""
    return {number for number, _ in table.cells} == set(range(len(table.passes)))


def _scores_of(table: ScoreTable) -> dict[str, Any]:
    return {
        "scores": tuple(
            tuple(None if math.isnan(score) else score for score in row)
            for row in table.scores.tolist()
        ),
        "mean_scores": tuple(np.nanmean(table.scores, axis=0).tolist()),
    }


def _cells(table: ScoreTable) -> list[tuple[int, int]]:
    """Pass number and fold of each cell."""
    return [
        (number, int(fold))
        for number, folds in enumerate(table.folds)
        for fold in np.unique(folds[folds >= 0])
    ]


def _error(table: ScoreTable, number: int, fold: int) -> float:
    """Mean absolute error of a cell."""
    inside = table.folds[number] == fold
    return mean_absolute_error(table.scores[number, inside], table.labels[inside])


def _mean_aucs(tables: list[ScoreTable]) -> CellValues:
    """Mean AUC of the labels that a cell tested, for each cell with any."""
    values = []
    for number, fold in _cells(tables[0]):
        aucs = []
        for table in tables:
            inside = (table.folds[number] == fold) & ~np.isnan(table.labels)
            if len(np.unique(table.labels[inside])) > 1:
                aucs.append(auc(table.scores[number, inside], table.labels[inside]))
        if aucs:
            values.append((*tables[0].passes[number], fold, float(np.mean(aucs))))
    return tuple(values)
