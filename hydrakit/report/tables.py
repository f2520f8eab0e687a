"""Tables, description lists, and the format of numbers in reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hydrakit.report.markup import Html, element, join

ABSENT = "–"


def number(value: float | None) -> str:
    """A metric such as an AUC with three decimals; a dash for None."""
    return ABSENT if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """Both ends of a confidence interval; a dash if there is none."""
    return ABSENT if low is None or high is None else f"{low:.3f} to {high:.3f}"


def seconds(value: float) -> str:
    """A duration in seconds, without meaningless decimals."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def count_of(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless it is 1."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table(
    caption: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    words: Sequence[int] = (),
    footer: Sequence[object] | None = None,
) -> Html:
    """A table that scrolls sideways on a narrow screen.

    Args:
        caption: Caption.
        headers: Column headings.
        rows: Cells; the first of each row is its heading.
        words: Columns, from 0, that contain words rather than numbers.
        footer: Last row, such as a total.
    """

    def row_of(cells: Sequence[object], first: str, others: str) -> Html:
        """A row; ``first`` and ``others`` are the scopes of its cells, "" for plain cells."""
        row = []
        for column, cell in enumerate(cells):
            scope = others if column else first
            kind = "words" if column == 0 or column in words else None
            row.append(element("th" if scope else "td", cell, scope=scope or None, class_=kind))
        return element("tr", *row)

    parts = [
        element("caption", caption),
        element("thead", row_of(headers, "col", "col")),
        element("tbody", join((row_of(row, "row", "") for row in rows), "\n")),
        element("tfoot", row_of(footer, "row", "")) if footer else None,
    ]
    return element(
        "div",
        element("table", *parts),
        class_="scroll",
        role="region",
        tabindex=0,
        aria_label=caption,
    )


def description_list(entries: Iterable[tuple[str, object]]) -> Html:
    """Terms with their values; entries without a value are skipped."""
    pairs = [
        (element("dt", term), element("dd", value)) for term, value in entries if value is not None
    ]
    return element("dl", *(part for pair in pairs for part in pair))
