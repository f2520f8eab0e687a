"""Results of compared strategies in subgroups of the findings (a zone, a scanner)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hydrakit.plan.decision import Share
from hydrakit.plan.results import Number
from hydrakit.schema import Frozen, Name, Text
from hydrakit.stats.findings import Subgroups, each_subgroup, enough_for_auc
from hydrakit.stats.intervals import mean_auc
from hydrakit.stats.score_table import ScoreTable, select_findings


class SubgroupAuc(Frozen):
    """Mean test AUC of a strategy over the findings of a subgroup.

    Attributes:
        strategy: Name of the strategy.
        auc: Mean over the cells of the test AUC.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        cells: Number of cells in the mean.
        left_out: Number of cells without an AUC, because they tested one class only.
    """

    strategy: Name
    auc: Share
    low: Share
    high: Share
    cells: Number
    left_out: Number


class ComparedSubgroup(Frozen):
    """Results of the strategies on the findings of one subgroup.

    Subgroups are not compared with one another.

    Attributes:
        name: Name of the subgroup variable: ``zone``.
        value: Value of the subgroup: ``PZ``.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        patients: Number of patients.
        strategies: Result of each strategy, in the order of the comparison; none where there are
            too few findings (`hydrakit.stats.findings.MIN_PER_CLASS`), or where no cell tested both
            classes.
    """

    name: Text
    value: Text
    positives: Number
    negatives: Number
    patients: Number
    strategies: tuple[SubgroupAuc, ...] = ()


def subgroups_of(
    tables: Mapping[str, ScoreTable], subgroups: Mapping[str, Subgroups], *, level: float
) -> tuple[ComparedSubgroup, ...]:
    """Results of the strategies in each subgroup, with the same estimator as for all findings.

    Args:
        tables: Scores of each strategy, by name, on the same findings.
        subgroups: Subgroups of each finding, by name of the finding.
        level: Confidence level of the intervals.
    """
    one = next(iter(tables.values()))
    results = []
    for name, value, inside in each_subgroup([subgroups[finding] for finding in one.findings]):
        within = {strategy: select_findings(each, inside) for strategy, each in tables.items()}
        labels = one.labels[inside]
        positives, negatives = int(labels.sum()), int((1 - labels).sum())
        has_aucs = enough_for_auc(positives, negatives) and all(t.cells for t in within.values())
        results.append(
            ComparedSubgroup(
                name=name,
                value=value,
                positives=positives,
                negatives=negatives,
                patients=len(np.unique(one.patients[inside])),
                strategies=tuple(
                    auc_in_subgroup(strategy, each, level) for strategy, each in within.items()
                )
                if has_aucs
                else (),
            )
        )
    return tuple(results)


def auc_in_subgroup(strategy: str, table: ScoreTable, level: float) -> SubgroupAuc:
    """Mean AUC of a strategy over the findings of a table."""
    mean = mean_auc(table, level=level)
    return SubgroupAuc(
        strategy=strategy,
        auc=mean.auc,
        low=mean.low,
        high=mean.high,
        cells=mean.cells,
        left_out=mean.left_out,
    )
