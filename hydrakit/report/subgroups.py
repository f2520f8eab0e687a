"""Test figures of parts of the findings (a zone, a scanner): of a run, and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydrakit.report.markup import Html, element, together
from hydrakit.report.tables import ABSENT, number, table
from hydrakit.stats.findings import MIN_PER_CLASS

if TYPE_CHECKING:
    from hydrakit.plan.results import Subgroup, TestResult
    from hydrakit.stats.comparison import Comparison
    from hydrakit.stats.subgroups import ComparedSubgroup

APART = (
    "These figures are not tested against one another: with so few findings in each, subgroups "
    "differ by luck alone."
)
TOO_FEW = "too few"
FEW = f" Too few: fewer than {MIN_PER_CLASS} positive or negative findings"


def subgroups_table(test: TestResult) -> Html | None:
    """The AUC of each subgroup with its interval; None where the dataset tells of none."""
    if not test.subgroups:
        return None
    several = len(test.classes) > 1
    rows = [
        (
            f"{each.name}: {each.value}",
            *((each.class_name,) if several else ()),
            each.positives,
            each.negatives,
            TOO_FEW if each.auc is None else number(each.auc),
            ABSENT if each.auc is None else f"{number(each.low)} to {number(each.high)}",
        )
        for each in test.subgroups
    ]
    headers = (
        "Subgroup",
        *(("Class",) if several else ()),
        *("Positive findings", "Negative findings", "AUC", f"{test.level * 100:g} % interval"),
    )
    drawn = table("Test AUC by subgroup", headers, rows, words=(1,) if several else ())
    one = [each for each in test.subgroups if each.class_name == test.subgroups[0].class_name]
    few = f"{FEW}." if any(each.auc is None for each in test.subgroups) else ""
    return _noted(drawn, few + _untold(one, test.findings))


def compared_subgroups(found: Comparison) -> Html | None:
    """The mean AUC of every strategy in each subgroup; None where the target tells of none."""
    if not found.subgroups:
        return None
    rows = []
    for each in found.subgroups:
        told = [
            f"{number(one.auc)} ({number(one.low)} to {number(one.high)})"
            for one in each.strategies
        ]
        rows.append(
            (
                f"{each.name}: {each.value}",
                each.positives,
                each.negatives,
                each.patients,
                *(told or [TOO_FEW] * len(found.strategies)),
            )
        )
    headers = (
        *("Subgroup", "Positives", "Negatives", "Patients"),
        *(each.name for each in found.strategies),
    )
    caption = f"Test AUC by subgroup ({found.level * 100:g} % interval)"
    few = ""
    if not all(each.strategies for each in found.subgroups):
        few = f"{FEW}, or no network that was tested on both."
    untold = _untold(found.subgroups, found.positives + found.negatives)
    return _noted(table(caption, headers, rows), few + untold)


def _untold(found: Sequence[Subgroup | ComparedSubgroup], findings: int) -> str:
    """How many of the findings are in no group of a name."""
    words = ""
    for name in dict.fromkeys(each.name for each in found):
        told = sum(each.positives + each.negatives for each in found if each.name == name)
        if told < findings:
            words += f" Of {findings - told} findings the {name} is not told, or is several."
    return words


def _noted(drawn: Html, words: str) -> Html:
    """The table with what must be known to read it."""
    return together((drawn, element("p", APART + words)), "\n")
