"""Charts whose axis up is a list of names: a grid of numbers, and intervals one below another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydrakit.report.markup import Html, element
from hydrakit.report.svg import LETTER, Axis, picture, short, text_at, ticks

ROW = 26  # height of a row in units of the drawing
WIDE = 680


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with its interval: a row of `forest`.

    Attributes:
        name: Of the row.
        value: The figure.
        low: Lower end.
        high: Upper end.
        said: The same in words, at the right.
        style: Colour, a CSS class.
        dots: Single values behind the figure, such as those of folds.
    """

    name: str
    value: float
    low: float
    high: float
    said: str
    style: str = "c0"
    dots: Sequence[float] = ()


def forest(
    intervals: Sequence[Interval],
    *,
    name: str,
    title: str,
    description: str,
    axis: Axis,
    line_at: float,
) -> Html:
    """Intervals one below another, and a line at the value that says nothing.

    Args:
        intervals: From top to bottom.
        name: As in `hydrakit.report.svg.plot`.
        title: Likewise.
        description: Likewise.
        axis: Across.
        line_at: Where the line is.
    """
    left = min(220.0, 16 + LETTER * max(len(each.name) for each in intervals))
    right = WIDE - 16 - LETTER * max(len(each.said) for each in intervals)
    bottom = 12 + ROW * len(intervals)

    def across(value: float) -> float:
        inside = min(max(value, axis.low), axis.high)
        return left + (inside - axis.low) / (axis.high - axis.low) * (right - left)

    drawn = []
    for value in ticks(axis):
        place = short(across(value))
        drawn.append(element("path", d=f"M{place},8V{short(bottom)}", class_="grid"))
        drawn.append(text_at(f"{value:g}", across(value), bottom + 16, "middle"))
    d = f"M{short(across(line_at))},8V{short(bottom)}"
    drawn.append(element("path", d=d, class_="line faint dashed"))
    drawn.append(text_at(axis.label, (left + right) / 2, bottom + 34, "middle"))
    for row, each in enumerate(intervals):
        middle = 12 + ROW * (row + 0.5)
        drawn.append(text_at(each.name, left - 10, middle + 4, "end"))
        drawn.append(text_at(each.said, right + 10, middle + 4, "start"))
        d = f"M{short(across(each.low))},{short(middle)}H{short(across(each.high))}"
        drawn.append(element("path", d=d, class_=f"line {each.style}"))
        drawn += [_dot(across(dot), middle, 2, f"{each.style} plain pale") for dot in each.dots]
        drawn.append(_dot(across(each.value), middle, 4.5, each.style))
    size = (WIDE, round(bottom + 44))
    return picture(drawn, name=name, title=title, description=description, size=size)


def _dot(x: float, y: float, radius: float, style: str) -> Html:
    return element("circle", cx=short(x), cy=short(y), r=f"{radius:g}", class_=f"mark {style}")


@dataclass(frozen=True, kw_only=True)
class HeatMapGrid:
    """A grid of numbers, the darker the higher.

    Attributes:
        rows: Names, from top to bottom.
        columns: Names, from left to right.
        values: Of each row and column; None leaves a cell empty.
        low: Value that has no colour.
        high: Value that has all of it.
        marked: Rows and columns of cells with a frame.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    low: float
    high: float
    marked: frozenset[tuple[int, int]] = frozenset()


def heat_map(grid: HeatMapGrid, *, name: str, title: str, description: str) -> Html:
    """A grid of numbers as cells with colour and figure; see `hydrakit.report.svg.plot`."""
    left = min(240.0, 16 + LETTER * max(map(len, grid.rows)))
    cell = max(64.0, 14 + LETTER * max(map(len, grid.columns)))
    drawn = [
        text_at(column, left + cell * (place + 0.5), 16, "middle")
        for place, column in enumerate(grid.columns)
    ]
    for row, (label, values) in enumerate(zip(grid.rows, grid.values, strict=True)):
        top = 24 + ROW * row
        drawn.append(text_at(label, left - 8, top + 17, "end"))
        for column, value in enumerate(values):
            if value is not None:
                drawn += _cell(grid, value, (left + cell * column, top), cell, (row, column))
    size = (max(400, round(left + cell * len(grid.columns) + 8)), 32 + ROW * len(grid.rows))
    return picture(drawn, name=name, title=title, description=description, size=size)


def _cell(
    grid: HeatMapGrid, value: float, at: tuple[float, float], width: float, place: tuple[int, int]
) -> list[Html]:
    x, y = at
    share = min(max((value - grid.low) / (grid.high - grid.low), 0.0), 1.0)
    box = {"x": short(x + 1), "y": short(y + 1), "width": short(width - 2), "height": ROW - 2}
    drawn = [element("rect", **box, class_="cell", fill_opacity=f"{0.6 * share:.2f}")]
    if place in grid.marked:
        drawn.append(element("rect", **box, class_="frame"))
    label = element(
        "text",
        f"{value:.3f}",
        x=short(x + width / 2),
        y=short(y + 17),
        text_anchor="middle",
        class_="strong",
    )
    return [*drawn, label]
