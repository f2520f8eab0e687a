"""The looks at a comparison that may stop early, for its report and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hydrakit.report.markup import Html, element
from hydrakit.report.tables import ABSENT, count_of, interval, number, seconds, table
from hydrakit.stats.verdict import p_value

if TYPE_CHECKING:
    from hydrakit.stats.comparison import Comparison, DroppedStrategy, Looks, PairLook

NOTE = (
    "The looks were planned before training. All of them together find a difference that does not "
    "exist in about 5 % of comparisons, as one test does: an early look needs a smaller p (its "
    "level). Information: expected share of that of all cells. The interval has the confidence 1 "
    "minus the level. Chance: probability that all cells will show a difference, as far as the "
    "cells so far say; below 5 % the cells that are left are not trained."
)


def looks_text(comparison: Comparison, looks: Looks) -> str:
    """How far a comparison went, in words."""
    planned = f"{count_of(len(looks.planned), 'look')} at the results were planned"
    cells = f"{looks.needed} of {comparison.wanted} cells were needed"
    if not looks.stops:
        cells = f"all {comparison.wanted} cells are for the last one"
    elif comparison.wanted:
        cells += f" ({round(100 * looks.needed / comparison.wanted)} %)"
    if looks.stopped_early:
        return f"Stopped early: {planned}, and look {looks.taken} was the last one. {cells}."
    return f"{planned}, and {looks.taken} were taken. {cells}."


def look_rows(looks: Looks) -> list[tuple[str, ...]]:
    """A row for each look and pair; a planned look that was not taken has one row."""
    rows = []
    for count, look in enumerate(looks.planned, start=1):
        begin = (f"{count}", look.cells, f"{round(100 * look.time)} %", _level(look.level))
        for pair in look.pairs:
            rows.append((*begin, *_pair(pair)))
        if not look.pairs:
            rows.append((*begin, "not taken", *[ABSENT] * 5))
    return rows


HEADERS = (
    *("Look", "Cells", "Information", "Level", "Against", "AUC difference", "CI", "p", "Chance"),
    "Then",
)


def _level(level: float) -> str:
    return f"{100 * level:.2g} %"


def _pair(pair: PairLook) -> tuple[str, ...]:
    return (
        pair.against,
        f"{pair.difference:+.3f}",
        f"{pair.low:+.3f} to {pair.high:+.3f}",
        p_value(pair.p),
        ABSENT if pair.chance is None else f"{round(100 * pair.chance)} %",
        pair.ended or "went on",
    )


def dropped_rows(looks: Looks) -> list[tuple[object, ...]]:
    """A row for each strategy that ended before others."""
    return [
        (
            each.name,
            _end(each, len(looks.planned)),
            ABSENT if each.auc is None else number(each.auc),
            ABSENT if each.auc is None else interval(each.low, each.high),
            each.cells,
            seconds(each.seconds),
        )
        for each in looks.dropped
    ]


def _end(each: DroppedStrategy, planned: int) -> str:
    failed = ", a cell failed" if each.failed else ""
    return f"look {each.look} of {planned}{failed}"


def looks_html(comparison: Comparison, looks: Looks) -> Iterator[Html]:
    """Tables of the looks, and of the strategies that ended early."""
    yield table(
        f"Looks at the differences from {comparison.strategies[0].name}", HEADERS, look_rows(looks)
    )
    yield element("p", NOTE)
    if looks.dropped:
        level = f"{comparison.level * 100:g} % CI"
        headers = ("Strategy", "Ended at", "Test AUC", level, "Cells", "Seconds")
        yield table("Strategies that ended before the others", headers, dropped_rows(looks))
        yield element(
            "p",
            "Their other cells were not trained, so that they are in no other table but the one of "
            "the differences. Their AUCs are of fewer cells than those of the other strategies: "
            "compare by the differences, which are on the same cells.",
        )
