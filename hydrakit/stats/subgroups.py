"""How strategies do on parts of the findings (a zone, a scanner): the subgroups of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hydrakit.plan.results import Number, Share
from hydrakit.schema import Frozen, Name, Text
from hydrakit.stats.findings import Subgroups, enough, parts
from hydrakit.stats.intervals import mean_auc
from hydrakit.stats.tested import ScoreTable, part_of


class SubgroupAuc(Frozen):
    """A strategy's mean test AUC over a subgroup's findings; fields as in `StrategyFigures`."""

    strategy: Name
    auc: Share
    low: Share
    high: Share
    cells: Number
    left_out: Number


class ComparedSubgroup(Frozen):
    """The strategies on the findings of one subgroup: not compared with those of another.

    Attributes:
        name: What is told apart: ``zone``.
        value: Which of them: ``PZ``.
        positives: Number of its positive findings.
        negatives: Number of its negative findings.
        patients: Whose they are.
        strategies: In the order in which they were named; none where there are too few findings
            (`hydrakit.stats.findings.FEWEST`), or no cell tested both classes of them.
    """

    name: Text
    value: Text
    positives: Number
    negatives: Number
    patients: Number
    strategies: tuple[SubgroupAuc, ...] = ()


def subgroups_of(
    tested: Mapping[str, ScoreTable], told: Mapping[str, Subgroups], *, level: float
) -> tuple[ComparedSubgroup, ...]:
    """The strategies on the findings of each subgroup, by the estimator of the whole.

    Args:
        tested: The strategies, by name, on the same findings.
        told: Of each finding, by name: what subgroups it is in.
        level: Of the intervals.
    """
    one = next(iter(tested.values()))
    found = []
    for name, value, inside in parts([told[finding] for finding in one.findings]):
        within = {strategy: part_of(each, inside) for strategy, each in tested.items()}
        labels = one.labels[inside]
        positives, negatives = int(labels.sum()), int((1 - labels).sum())
        told_apart = enough(positives, negatives) and all(each.cells for each in within.values())
        found.append(
            ComparedSubgroup(
                name=name,
                value=value,
                positives=positives,
                negatives=negatives,
                patients=len(np.unique(one.patients[inside])),
                strategies=tuple(_auc(strategy, each, level) for strategy, each in within.items())
                if told_apart
                else (),
            )
        )
    return tuple(found)


def _auc(strategy: str, tested: ScoreTable, level: float) -> SubgroupAuc:
    found = mean_auc(tested, level=level)
    return SubgroupAuc(
        strategy=strategy,
        auc=found.auc,
        low=found.low,
        high=found.high,
        cells=found.cells,
        left_out=found.left_out,
    )
