"""The values that the cells of a comparison chose on their training parts, as tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydrakit.report.markup import Html, element, join
from hydrakit.report.tables import count_of, number, table

if TYPE_CHECKING:
    from hydrakit.stats.comparison import Comparison, TunedCell


def value_text(value: object) -> str:
    """A value of a plan as text."""
    return value if isinstance(value, str) else json.dumps(value)


def tuning_text(comparison: Comparison) -> str:
    """How many candidates the cells tried, in a sentence."""
    cells = comparison.tuned
    most = max(each.candidates for each in cells)
    return (
        f"{count_of(len(cells), 'cell')} chose values on the training part alone, each of up to "
        f"{count_of(most, 'candidate')}: {sum(each.runs for each in cells)} runs on inner folds, "
        "which read no test label."
    )


def chosen_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Strategy, path, value, and how many of the strategy's cells chose it, most frequent first."""
    rows = []
    for strategy in dict.fromkeys(each.strategy for each in comparison.tuned):
        cells = [each for each in comparison.tuned if each.strategy == strategy]
        for path in cells[0].values:
            counts = Counter(value_text(each.values[path]) for each in cells)
            for value, count in counts.most_common():
                rows.append((strategy, path, value, f"{count} of {len(cells)}"))
    return rows


def tuned_html(comparison: Comparison) -> Html:
    """How often each value was chosen, and the choice of every cell."""
    headers = ("Strategy", "Value of the plan", "Chosen", "Cells")
    chosen = table("Chosen values", headers, chosen_rows(comparison), words=(1, 2))
    rows = [(each.cell, _values(each), number(each.score)) for each in comparison.tuned]
    cells = table("Choice of every cell", ("Cell", "Values", "Inner AUC"), rows, words=(1,))
    note = (
        "Inner AUC: mean over the inner folds of the chosen values. It is the best of the "
        "candidates, and therefore optimistic; the test AUC is not. The folder of a tuned cell, "
        "cells/NAME.tuning, lists all candidates with their scores."
    )
    summary = element("summary", f"All {count_of(len(rows), 'cell')}")
    parts: Sequence[Html] = (
        element("p", tuning_text(comparison)),
        chosen,
        element("details", summary, cells),
        element("p", note),
    )
    return join(parts, "\n")


def _values(cell: TunedCell) -> str:
    return ", ".join(f"{path}={value_text(value)}" for path, value in cell.values.items())
