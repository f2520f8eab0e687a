"""How often test labels were read, and what luck alone gives: what a figure must be seen beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydrakit.plan.results import RoundResult
from hydrakit.report.markup import Html, element
from hydrakit.report.tables import number
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.chance import best_of_chance


@dataclass(frozen=True)
class Readings:
    """How often the test labels of a run were read.

    Attributes:
        told: When, and by what; those after every epoch in one line.
        count: How often.
        traced: How often after an epoch, for `hydrakit run --trace-test`.
    """

    told: tuple[str, ...]
    count: int
    traced: int


def readings(rundir: RunDir, target: str) -> Readings:
    """When test labels were read, and by what: lines of ``events.jsonl``.

    Raises:
        PlanError: The file is broken.
    """
    found, traced = [], []
    for each in rundir.events():
        if each.event == "test read" and each.by == "trace":
            traced.append(each.time)
        elif each.event == "test read":
            cases = f", {each.cases} cases" if each.cases else ""
            found.append(f"{each.time}, by the run{cases}")
        elif each.event == "evaluated" and each.dataset == target and each.split in ("test", "all"):
            found.append(f"{each.time}, by `hydrakit evaluate`, split {each.split}")
    if traced:
        told = f"{traced[0]} to {traced[-1]}, after {len(traced)} epochs (--trace-test)"
        found.insert(0, told)
    others = len(found) - bool(traced)
    return Readings(tuple(found), others + len(traced), len(traced))


def readings_section(found: Readings) -> Html:
    """How often the test labels were read."""
    if not found.count:
        return element("p", "events.jsonl tells of no reading of test labels.")
    if found.count == 1:
        first = "The test labels were read once, after the last round."
    else:
        first = (
            f"The test labels were read {found.count} times. Whoever chooses by what a "
            "reading showed makes the figure flatter."
        )
    return element(
        "div", element("p", first), element("ul", *(element("li", each) for each in found.told))
    )


def luck_words(first: RoundResult, counts: Sequence[int] | None) -> str | None:
    """What the best of so many networks that know nothing would have on this validation split.

    Args:
        first: The first round.
        counts: Validation findings of both classes of its dataset; None for other tasks.
    """
    if counts is None or first.val.auc is None:
        return None
    starts = len(first.bootstrap.val_auc) if first.bootstrap else 1
    luck = best_of_chance(counts[1], counts[0], starts)
    cases = f"{counts[1]} and {counts[0]} validation findings of {first.dataset}"
    if starts == 1 or first.bootstrap is None:
        return (
            f"What luck alone gives: on {cases} a network that knows nothing has an AUC of "
            f"{number(luck.low)} to {number(luck.high)} in 95 of 100 splits."
        )
    best = first.bootstrap.val_auc[first.bootstrap.chosen]
    if best is not None and best > luck.high:
        judged = "more than luck explains"
    else:
        judged = "no more than luck explains"
    return (
        f"What luck alone gives: the best of {starts} networks that know nothing has, on "
        f"{cases}, an AUC of {number(luck.expected)} on average ({number(luck.low)} to "
        f"{number(luck.high)}). The best random start here had {number(best)}: {judged}."
    )
